//! Subagents in the fold: who works for which step, and for whom in particular.

use std::sync::Arc;

use super::super::conversation::RESUME;
use super::{Conversation, Prompted, Run, StepRun};
use crate::id::{CallId, StepKey};

/// What a subagent was called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subagent {
    /// The agent's name.
    pub agent: String,
    /// The call by which its caller gets the answer.
    pub call: CallId,
    /// What it was told last.
    pub prompt: String,
    /// Whether its caller goes on meanwhile.
    pub background: bool,
    /// Whether its caller was told how it ended, where it did not wait for that.
    pub reported: bool,
}

impl Run {
    /// A step or item with all of its subagents.
    pub fn family<'a>(&'a self, of: &StepKey) -> impl Iterator<Item = (&'a StepKey, &'a StepRun)> + use<'a> {
        let root = of.root();
        let of_root = {
            let root = root.clone();
            move |key: &StepKey| key.step == root.step && key.index == root.index
        };
        self.steps.range(root..).take_while(move |(key, _)| of_root(key)).map(|(key, step)| (key, step.as_ref()))
    }

    /// How long the model and tool calls of a step took in all, with those of its subagents, in milliseconds.
    pub fn busy_ms(&self, of: &StepKey) -> u64 {
        self.family(of).map(|(_, step)| step.busy_ms).sum()
    }

    /// The name of the agent, of a subagent.
    pub fn agent(&self, key: &StepKey) -> Option<&str> {
        self.step(key)?.subagent.as_ref().map(|subagent| subagent.agent.as_str())
    }

    /// The subagents that this one called itself.
    pub fn subagents<'a>(
        &'a self,
        of: &StepKey,
    ) -> impl Iterator<Item = (&'a StepKey, &'a StepRun, &'a Subagent)> + use<'a> {
        let lineage = of.lineage.clone();
        self.family(of).filter_map(move |(key, step)| {
            let own = key.lineage.split_last().is_some_and(|(_, above)| above == lineage);
            Some((key, step, step.subagent.as_ref().filter(|_| own)?))
        })
    }

    /// How many numbers of subagents were given out by this one.
    pub fn subagents_ever(&self, of: &StepKey) -> usize {
        let last = self.family(of).filter_map(|(key, _)| {
            let (number, above) = key.lineage.split_last()?;
            (above == of.lineage).then_some(*number as usize)
        });
        last.max().unwrap_or(0)
    }
}

impl StepRun {
    /// Whether a subagent that came to its end can be told something more.
    pub fn can_be_resumed(&self) -> bool {
        let ready = |known: &Conversation| {
            known.open_calls().is_empty()
                && known.turns.last().is_some_and(|turn| turn.prompted.is_none() && !turn.set_aside)
        };
        self.is_done() && self.conversation.as_ref().is_some_and(ready)
    }

    /// A subagent is called, for the first time or once more.
    pub(super) fn call_subagent(&mut self, called: Subagent) {
        if let Some(conversation) = &mut self.conversation {
            if let Some(turn) = conversation.turns.last_mut() {
                let prompted = Prompted { text: called.prompt.clone(), reason: RESUME.to_owned() };
                Arc::make_mut(turn).prompted = Some(prompted);
            }
            conversation.counted_from = conversation.turns.len();
        }
        self.trips.clear();
        self.subagent = Some(called);
        self.failed_tries = 0;
        self.finished_at = None;
    }
}
