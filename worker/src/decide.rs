//! What is to be done next with a task: pure.
//!
//! [`decide`] looks at the definition and at the folded journal, and says which
//! events to write down, which actions to start, and what happens to the task
//! if there is nothing to start. It does no I/O and reads no clock; asked twice
//! with the same journal it gives the same answer. That is what makes a resumed
//! task go on as if nothing had happened.

mod admission;
mod agent;
mod batching;
mod budget;
mod compaction;
mod conclude;
mod effect;
mod fallback;
mod foreach;
mod guard;
pub(crate) mod hold;
mod hook;
mod judge;
mod output;
mod permission;
mod place;
mod progress;
mod repeat;
mod scope;
mod session;
mod step;
mod subagent;
mod taint;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::clock::Timestamp;
use common::config::{Guards, Hooks, Limits, Permissions};
use common::failure::{Failure, FailureClass};
use common::id::{CallId, Digest, SessionName, StepKey};
use common::journal::{CallRecord, Event, Run, StepOutcome, StepRun};
use common::pipeline::model::{OnError, Pipeline};
use common::pipeline::template::Scope;
use common::store::Next;
use common::task::{DeadReason, Wait, WaitOn};
use serde_json::Value;

use crate::hooks::Asking;
use crate::models::Models;
use crate::quota::Grant;
use crate::tools::ToolSet;

pub use batching::{Way, next_entry};
pub use compaction::summary_request;
pub use conclude::{Performed, conclude};
pub use effect::{HTTP, RUN, idempotency_key};
pub use place::{StepPlace, StepPlaces};
pub use scope::scope_of;
pub use taint::mark_answers;

/// Everything beside the journal that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The definition that the task is pinned to.
    pub pipeline: &'a Pipeline,
    /// What templates see as `env`.
    pub env: &'a BTreeMap<String, String>,
    /// The limits of the installation.
    pub limits: &'a Limits,
    /// What people are asked, and who.
    pub permissions: &'a Permissions,
    /// The hooks of the installation.
    pub hooks: &'a Hooks,
    /// The guards of the installation.
    pub guards: &'a Guards,
    /// The digest of the permissions in force.
    pub policy: &'a Digest,
    /// The working directory of the task, against which rules take paths.
    pub workspace: &'a Path,
    /// The tools of those steps for which they have been looked up.
    pub tools: &'a BTreeMap<StepKey, ToolSet>,
    /// What is being done right now.
    pub in_flight: &'a BTreeSet<ActionKey>,
    /// The models of the installation, with their prices.
    pub models: &'a Models,
    /// Whether calls ask for a grant before they are made.
    pub asks_quotas: bool,
    /// The calls that may be made: their worst case is reserved.
    pub grants: &'a BTreeMap<ActionKey, Grant>,
    /// The places that steps with `concurrency` have, or ask for.
    pub places: &'a StepPlaces,
    /// The time.
    pub now: Timestamp,
}

/// Names an action while it is in flight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActionKey {
    /// The step that it is for.
    pub step: StepKey,
    /// The call, for a tool call of an agent.
    pub call: Option<CallId>,
}

/// Something to be done outside of the journal.
#[derive(Debug, Clone)]
pub enum Action {
    /// Look up the tools that an agent or `tool` step may use; with `start`,
    /// fix the request head of a new conversation too.
    Prepare {
        /// The step.
        step: StepKey,
        /// Whether the conversation is yet to start.
        start: bool,
    },
    /// Reserve the worst case of a call on all that it counts for.
    Reserve {
        /// The step.
        step: StepKey,
        /// The call; none for the next turn of the step's conversation.
        call: Option<CallRecord>,
        /// How it will go out.
        way: Way,
    },
    /// Take a place for a step with `concurrency`.
    TakePlace {
        /// The step.
        step: StepKey,
        /// The key under which it is shared.
        key: String,
    },
    /// Ask the model for the next turn of a step's conversation, or for a summary of it.
    CallModel {
        /// The step.
        step: StepKey,
        /// What for.
        purpose: Purpose,
    },
    /// Have the request for the first turn of a step's conversation wait for others, to go out with them.
    JoinBatch {
        /// The step.
        step: StepKey,
        /// How long the step waits for the answer.
        until: Timestamp,
    },
    /// Make of a request that failed in a model batch what would be made of a call that did.
    HeedModelBatch {
        /// The step.
        step: StepKey,
    },
    /// Make a call: of a tool, an HTTP request, or a program.
    Call {
        /// The step.
        step: StepKey,
        /// The call. Unless it is `read`, its intent is in the journal.
        call: CallRecord,
    },
    /// Ask hooks about something, before it is done.
    AskHooks {
        /// The step.
        step: StepKey,
        /// Who is asked, and about what.
        asking: Box<Asking>,
    },
    /// Go on with a conversation of earlier tasks, or wait for whoever does.
    OpenSession {
        /// The step.
        step: StepKey,
        /// The session.
        session: SessionName,
    },
    /// Leave the conversation to the next task of the session.
    SaveSession {
        /// The step.
        step: StepKey,
    },
    /// Submit the child task of a `pipeline` step.
    SubmitChild {
        /// The step.
        step: StepKey,
        /// The child's input.
        input: Value,
    },
}

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The next turn.
    Turn,
    /// A summary of the conversation.
    Summary {
        /// How many turns, from the first, it is to stand for.
        kept_from: usize,
        /// Whether the conversation did not fit, so that long results are left out of the request.
        cut: bool,
    },
}

impl Action {
    /// Its name while it is in flight.
    pub fn key(&self) -> ActionKey {
        match self {
            Self::Prepare { step, .. }
            | Self::TakePlace { step, .. }
            | Self::CallModel { step, .. }
            | Self::JoinBatch { step, .. }
            | Self::HeedModelBatch { step }
            | Self::OpenSession { step, .. }
            | Self::SaveSession { step }
            | Self::SubmitChild { step, .. } => ActionKey { step: step.clone(), call: None },
            Self::Reserve { step, call, .. } => {
                ActionKey { step: step.clone(), call: call.as_ref().map(|call| call.call.clone()) }
            }
            Self::AskHooks { step, asking } => ActionKey { step: step.clone(), call: asking.call.clone() },
            Self::Call { step, call } => ActionKey { step: step.clone(), call: Some(call.call.clone()) },
        }
    }
}

/// What is to be done next.
#[derive(Debug, Default)]
pub struct Decision {
    /// Events to be written before any action starts.
    pub events: Vec<Event>,
    /// Actions to be started.
    pub actions: Vec<Action>,
    /// What happens to the task, once nothing is in flight and nothing was started.
    pub rest: Rest,
}

/// What happens to a task that has nothing to do right now.
#[derive(Debug, Default, PartialEq)]
pub enum Rest {
    /// Decide again when something has come.
    #[default]
    Busy,
    /// Wait.
    Park(Wait),
    /// It is done.
    Finish(Next),
}

impl Decision {
    fn record(&mut self, event: Event) {
        self.events.push(event);
    }

    fn finish_step(&mut self, step: &StepKey, outcome: StepOutcome) {
        self.record(Event::StepFinished { step: step.clone(), outcome });
    }

    fn fail_step(&mut self, step: &StepKey, error: Failure) {
        self.finish_step(step, StepOutcome::Failed { error });
    }
}

/// What the parts of one decision collect.
struct Deciding<'a> {
    given: Given<'a>,
    run: &'a Run,
    scope: Option<Scope<'a>>,
    decision: Decision,
    waits: Vec<WaitOn>,
    until: Option<Timestamp>,
}

/// Says what is to be done next.
pub fn decide(run: &Run, given: Given<'_>) -> Decision {
    let mut deciding =
        Deciding { given, run, scope: None, decision: Decision::default(), waits: Vec::new(), until: None };
    match deciding.ending() {
        Some(next) => {
            if given.in_flight.is_empty() {
                deciding.decision.rest = Rest::Finish(next);
            }
            deciding.decision
        }
        None => deciding.go_on(),
    }
}

impl<'a> Deciding<'a> {
    /// Whether the task has come to its end, with whatever is still in flight.
    fn ending(&mut self) -> Option<Next> {
        if let Some((by, reason)) = &self.run.cancel {
            return Some(Next::Cancel { by: by.clone(), reason: reason.clone() });
        }
        let pipeline = self.given.pipeline;
        let timeout = pipeline.timeout;
        if self.run.head.worked(self.given.now) >= timeout.get() {
            let error = Failure::new(
                FailureClass::Timeout,
                format!(
                    "workers have held the task for {timeout}, its whole timeout; raise `timeout` in the pipeline, or replay it"
                ),
            );
            return Some(Next::Die { reason: DeadReason::Timeout, error, step: None });
        }
        for step in pipeline.steps.iter().filter(|step| step.on_error == OnError::Fail) {
            let key = StepKey::of(step.id.clone());
            if let Some(StepOutcome::Failed { error }) = self.run.step(&key).and_then(StepRun::outcome) {
                return Some(Next::Die { reason: dead_reason(error), error: error.clone(), step: Some(key) });
            }
        }
        let all_done = pipeline
            .steps
            .iter()
            .all(|step| self.run.step(&StepKey::of(step.id.clone())).is_some_and(StepRun::is_done));
        all_done.then(|| self.succeed())
    }

    fn succeed(&mut self) -> Next {
        let rendered = match &self.given.pipeline.output {
            Some(template) => template.render(self.scope()),
            None => Ok(self.last_output()),
        };
        match rendered {
            Ok(output) => Next::Succeed { output },
            Err(error) => Next::Die { reason: DeadReason::Failed, error, step: None },
        }
    }

    fn last_output(&self) -> Value {
        let outputs = self.given.pipeline.steps.iter().rev().filter_map(|step| {
            match self.run.step(&StepKey::of(step.id.clone()))?.outcome()? {
                StepOutcome::Succeeded { output } => Some(output.clone()),
                _ => None,
            }
        });
        outputs.into_iter().next().unwrap_or(Value::Null)
    }

    fn go_on(mut self) -> Decision {
        let pipeline = self.given.pipeline;
        self.note_budgets();
        for step in &pipeline.steps {
            self.step(step);
        }
        let idle =
            self.given.in_flight.is_empty() && self.decision.events.is_empty() && self.decision.actions.is_empty();
        if idle {
            self.decision.rest = if self.waits.is_empty() {
                // Steps form a DAG, so that something can always go on; if not, say so rather than hang.
                let error = Failure::new(
                    FailureClass::Internal,
                    "no step of the task can go on; this is a fault of the program",
                );
                Rest::Finish(Next::Die { reason: DeadReason::Failed, error, step: None })
            } else {
                Rest::Park(Wait { on: std::mem::take(&mut self.waits), until: self.until })
            };
        }
        self.decision
    }

    fn scope(&mut self) -> &Scope<'a> {
        let (run, given) = (self.run, self.given);
        self.scope.get_or_insert_with(|| Scope::of_run(given.pipeline, run, given.env))
    }

    fn scope_of(&mut self, key: &StepKey) -> Scope<'a> {
        let run = self.run;
        scope::with_place(self.scope().clone(), self.given.pipeline, run, key)
    }

    fn is_in_flight(&self, step: &StepKey) -> bool {
        self.given.in_flight.iter().any(|key| &key.step == step)
    }

    fn wait(&mut self, on: WaitOn, until: Option<Timestamp>) {
        self.waits.push(on);
        self.until = match (self.until, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn act(&mut self, action: Action) {
        self.decision.actions.push(action);
    }
}

fn dead_reason(error: &Failure) -> DeadReason {
    match error.class {
        FailureClass::Rejected => DeadReason::Rejected,
        FailureClass::Budget => DeadReason::Budget,
        _ => DeadReason::Failed,
    }
}
