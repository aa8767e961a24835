//! Private data in the work on a task: what is about to be journaled is sealed,
//! what goes out is revealed where that is allowed. Without `private_data` in
//! the configuration, nothing here does anything.

use std::path::Path;

use common::id::{TaskId, Token};
use common::journal::{CallRecord, Event, Recorded, Run, SealedValues};
use common::pipeline::model::Agent;
use common::pipeline::untrusted;
use common::private::{NOTICE, Sealer};
use common::store::{Next, StoreError};

use super::journal::Stopped;
use super::{Execution, Executor};
use crate::decide::{Action, Decision, Rest};
use crate::tools::private::PrivateData;

/// Events of a child that are read at once.
const PAGE: usize = 1_000;

impl Execution<'_> {
    /// Events with tokens for what is private in them, behind the event that says what new tokens stand for.
    pub(super) fn sealed(&self, run: &Run, mut events: Vec<Event>) -> Vec<Event> {
        let Some(private) = &self.executor.outside.private else { return events };
        let mut sealer = private.private().sealer(&run.sealed);
        seal_events(run, &mut sealer, &mut events);
        announce(&mut sealer, &mut events);
        events
    }

    /// The same for a decision: its events, its actions, and the end of the task.
    pub(super) fn sealed_decision(&self, run: &Run, mut decision: Decision) -> Decision {
        let Some(private) = &self.executor.outside.private else { return decision };
        let mut sealer = private.private().sealer(&run.sealed);
        seal_events(run, &mut sealer, &mut decision.events);
        for action in &mut decision.actions {
            match action {
                Action::Call { call, .. } | Action::Reserve { call: Some(call), .. } => {
                    sealer.value(&mut call.arguments);
                }
                Action::SubmitChild { input, .. } => sealer.value(input),
                // Hooks are told what stands in the journal; sessions and places are named by what does.
                Action::AskHooks { .. }
                | Action::TakePlace { .. }
                | Action::OpenSession { .. }
                | Action::SaveSession { .. }
                | Action::Prepare { .. }
                | Action::Reserve { call: None, .. }
                | Action::JoinBatch { .. }
                | Action::HeedModelBatch { .. }
                | Action::CallModel { .. } => {}
            }
        }
        if let Rest::Finish(next) = &mut decision.rest {
            sealer.next(next);
        }
        announce(&mut sealer, &mut decision.events);
        decision
    }

    /// The answers of children hold tokens that this task may not know: their journals say what those stand for.
    pub(super) async fn ask_children(&mut self) -> Result<(), Stopped> {
        if self.executor.outside.private.is_none() {
            return Ok(());
        }
        let mut found = SealedValues::default();
        for (child, unknown) in self.unknown_tokens() {
            match self.executor.sealed_values(child).await {
                Ok(values) => {
                    self.asked_children.insert(child);
                    for token in unknown {
                        if let Some(ciphertext) = values.get(&token) {
                            found.add(token.clone(), ciphertext.to_owned());
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(task = %self.journal.run().head.id, %child, %error, "the private values of a child cannot be read; they are asked for again");
                }
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.journal.append(vec![Event::PrivateDataSealed { entries: found }], Next::Continue).await
    }

    /// The tokens in answers of children that this task does not know, by child.
    fn unknown_tokens(&self) -> Vec<(TaskId, Vec<Token>)> {
        let run = self.journal.run();
        let ended = run.steps.values().filter_map(|step| {
            let child = step.child.as_ref()?;
            Some((child.task, &child.ended.as_ref()?.1))
        });
        ended
            .filter(|(child, _)| !self.asked_children.contains(child))
            .filter_map(|(child, answer)| {
                let text = answer.to_string();
                let tokens = Token::all_in(&text).map(|(_, token)| token);
                let unknown: Vec<Token> = tokens.filter(|token| !run.sealed.contains(token)).collect();
                (!unknown.is_empty()).then_some((child, unknown))
            })
            .collect()
    }
}

impl Executor {
    /// What the tokens of a task stand for, encrypted.
    async fn sealed_values(&self, task: TaskId) -> Result<SealedValues, StoreError> {
        let mut values = SealedValues::default();
        let mut after = 0;
        loop {
            let page = self.store.journal(task, after, PAGE).await?;
            for Recorded { seq, event, .. } in &page {
                after = *seq;
                values.add_event(event);
            }
            if page.len() < PAGE {
                return Ok(values);
            }
        }
    }

    /// The system prompt of an agent, with what it must know of tokens and of text of strangers.
    pub(super) fn told(&self, agent: &Agent) -> String {
        let tokens = self.outside.private.as_ref().map(|_| NOTICE);
        let strangers = (!agent.taint.is_empty()).then_some(untrusted::NOTICE);
        let parts = [(!agent.system.is_empty()).then_some(agent.system.as_str()), tokens, strangers];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
    }

    /// The call as it goes out, if it may be made with private values.
    pub(super) fn outgoing(&self, call: &CallRecord, run: &Run, workspace: &Path) -> Option<CallRecord> {
        let private = self.outside.private.as_ref()?;
        let arguments = private.revealed(&call.tool, &call.arguments, workspace, &run.sealed)?;
        Some(CallRecord { arguments, ..call.clone() })
    }

    /// A text that goes out beside the arguments of a call.
    pub(super) fn revealed(&self, text: String, allowed: bool, run: &Run) -> String {
        match self.outside.private.as_ref().map(PrivateData::private) {
            Some(private) if allowed => private.reveal_text(&text, &run.sealed),
            _ => text,
        }
    }
}

fn seal_events(run: &Run, sealer: &mut Sealer<'_>, events: &mut [Event]) {
    for event in events {
        sealer.event(event);
        // The digest is of what the person sees.
        if let Event::ApprovalRequested { step, title, show, terms, .. } = event {
            **terms = std::mem::take(&mut **terms).sealed(run.head.id, step, title, show);
        }
    }
}

/// Puts what new tokens stand for in front of the events that use them.
fn announce(sealer: &mut Sealer<'_>, events: &mut Vec<Event>) {
    let entries = sealer.take();
    if !entries.is_empty() {
        events.insert(0, Event::PrivateDataSealed { entries });
    }
}
