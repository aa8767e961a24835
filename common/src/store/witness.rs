//! Who hears of what was written: for counting, never for deciding.
//!
//! A backend says after each commit what the operation did, once, in the process
//! that did it. So what many processes count adds up to what stands in the
//! journals: an append that is repeated and answered from memory counts nothing.
//! Pure but for the call; a witness must not block.

use std::time::Duration;

use super::book::Change;
use crate::failure::FailureClass;
use crate::id::PipelineName;
use crate::journal::{CallResult, Event, HoldBack, ModelCall, StepOutcome, Usage};
use crate::task::{Outcome, WaitOn};

/// Hears of facts once they are durable.
pub trait Witness: Send + Sync + std::fmt::Debug {
    /// These happened.
    fn witness(&self, facts: &[Fact]);
}

/// Something that an operation wrote into a journal, as far as it is counted.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A task came to its end.
    Finished {
        /// Its pipeline.
        pipeline: PipelineName,
        /// How.
        outcome: Outcome,
        /// Since it was submitted.
        took: Duration,
    },
    /// A lease ran out.
    LeaseLost,
    /// A task gave its slot back and waits.
    Parked {
        /// For what: the kinds of `waiting_on`.
        on: Vec<&'static str>,
    },
    /// A step is done.
    StepFinished {
        /// `succeeded`, `failed` or `skipped`.
        outcome: &'static str,
    },
    /// A try of a step failed, and another follows.
    StepRetrying {
        /// What went wrong.
        class: FailureClass,
    },
    /// A model answered, or wrote a summary.
    ModelAnswered {
        /// The model, by its own name.
        model: String,
        /// What it read, wrote and cost.
        usage: Usage,
    },
    /// A call of a tool, or of an `http` or `run` step, was answered.
    ToolAnswered {
        /// The tool.
        tool: String,
        /// How; `Some` is the class of a failure.
        failure: Option<FailureClass>,
        /// Whether the tool itself says that it failed.
        is_error: bool,
        /// How long it took.
        took: Duration,
    },
    /// A call has to wait for money, a rate limit, a place, or a provider that is left alone.
    HeldBack {
        /// `budget`, `rate_limit` or `breaker`.
        by: &'static str,
    },
    /// A person was asked.
    ApprovalRequested,
    /// A person, or the end of the patience, decided.
    ApprovalDecided {
        /// `approved`, `rejected` or `expired`.
        decision: &'static str,
    },
    /// A guard found something.
    GuardTripped,
}

/// What a change says.
pub(super) fn facts(change: &Change, facts: &mut Vec<Fact>) {
    for added in &change.added {
        facts.extend(fact(change, &added.recorded.event, added.recorded.at));
    }
}

fn fact(change: &Change, event: &Event, at: crate::clock::Timestamp) -> Option<Fact> {
    let head = &change.after.head;
    let finished =
        |outcome| Fact::Finished { pipeline: head.pipeline.clone(), outcome, took: at.since(head.created_at) };
    Some(match event {
        Event::Succeeded { .. } => finished(Outcome::Succeeded),
        Event::Cancelled { .. } => finished(Outcome::Cancelled),
        Event::Died { .. } => finished(Outcome::Dead),
        Event::LeaseExpired { .. } => Fact::LeaseLost,
        Event::Parked { wait } => {
            let mut on: Vec<&str> = wait.on.iter().map(WaitOn::kind).collect();
            on.dedup();
            Fact::Parked { on }
        }
        Event::StepFinished { outcome, .. } => Fact::StepFinished { outcome: outcome_of(outcome) },
        Event::StepRetrying { error, .. } => Fact::StepRetrying { class: error.class },
        Event::TurnFinished { call, .. } | Event::Compacted { call, .. } => answered(call),
        Event::CallFinished { tool, result, duration_ms, .. } => {
            let (failure, is_error) = match result {
                CallResult::Done { is_error, .. } => (None, *is_error),
                CallResult::Failed { error } => (Some(error.class), false),
            };
            Fact::ToolAnswered { tool: tool.clone(), failure, is_error, took: Duration::from_millis(*duration_ms) }
        }
        Event::HeldBack { why, .. } => Fact::HeldBack {
            by: match why {
                HoldBack::Budget { .. } => "budget",
                HoldBack::RateLimit { .. } => "rate_limit",
                HoldBack::Breaker { .. } => "breaker",
            },
        },
        Event::ApprovalRequested { .. } => Fact::ApprovalRequested,
        Event::ApprovalDecided { decision, .. } => {
            Fact::ApprovalDecided { decision: if decision.approved { "approved" } else { "rejected" } }
        }
        Event::ApprovalExpired { .. } => Fact::ApprovalDecided { decision: "expired" },
        Event::GuardTripped { .. } => Fact::GuardTripped,
        _ => return None,
    })
}

fn answered(call: &ModelCall) -> Fact {
    Fact::ModelAnswered { model: call.model.clone(), usage: call.usage }
}

const fn outcome_of(outcome: &StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Succeeded { .. } => "succeeded",
        StepOutcome::Failed { .. } => "failed",
        StepOutcome::Skipped => "skipped",
    }
}
