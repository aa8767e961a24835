//! What came of an action, and what is written down of it: pure.

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use common::id::{CallId, EntryId, SessionName, StepKey};
use common::journal::{CallRecord, Event, HoldBack, HookEvent, HookRuling, ModelCall, Run, WhenSpent};
use common::pipeline::model::Pipeline;

use super::{Purpose, compaction, effect, fallback, hold};
use crate::tools::{ToolAnswer, ToolError};

/// What came of an action.
#[derive(Debug)]
pub enum Performed {
    /// The worst case is reserved; which levels of budgets were passed by it.
    Reserved(Vec<Event>),
    /// A call has to wait.
    HeldBack {
        /// Why.
        why: HoldBack,
        /// What happens to the step.
        then: WhenSpent,
        /// When the other side, or the turn of a window, lets it go on; nothing if somebody else must make room.
        until: Option<Timestamp>,
    },
    /// An agent's call is not made, since its tool has failed again and again: its model goes on without it.
    LeftAlone {
        /// What would have been called.
        call: CallRecord,
        /// What the model is told.
        error: Failure,
    },
    /// The step has its place.
    Placed,
    /// The tools were looked up; the head of a new conversation, if it is to start.
    Prepared(Result<Option<Event>, Failure>),
    /// The model answered, or not.
    Model {
        /// What it was asked for.
        purpose: Purpose,
        /// Its answer.
        answer: Result<ModelCall, Failure>,
    },
    /// The request waits for others.
    Joined {
        /// Its id.
        entry: EntryId,
        /// How long its step waits for the answer.
        until: Timestamp,
    },
    /// A request failed in a model batch.
    BatchFailed(Failure),
    /// The session was opened or is somebody else's, or this could not be found out.
    Opened(Result<Event, Failure>),
    /// The session was left, or this could not be done.
    Saved {
        /// The session.
        session: SessionName,
        /// Whether it was kept.
        kept: Result<bool, Failure>,
    },
    /// The call was answered, or not.
    Call {
        /// What was called.
        call: CallRecord,
        /// The answer.
        answer: Result<ToolAnswer, ToolError>,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// The hooks answered, or could not judge what there is no refusing of.
    Hooks {
        /// Why they were asked.
        event: HookEvent,
        /// The call that they were asked about.
        call: Option<CallId>,
        /// What they said.
        ruling: Result<HookRuling, Failure>,
    },
    /// The child was submitted, or not; its end, if it is done already.
    Child(Result<Vec<Event>, Failure>),
}

/// What is written down of an action's result: pure. `unit` is random in `[0, 1)`.
pub fn conclude(
    run: &Run,
    pipeline: &Pipeline,
    step: &StepKey,
    performed: Performed,
    now: Timestamp,
    unit: f64,
) -> Vec<Event> {
    let retry = effect::Retry { run, pipeline, key: step, now, unit };
    match performed {
        Performed::BatchFailed(error) => {
            let unanswered = Performed::Model { purpose: Purpose::Turn, answer: Err(error) };
            conclude(run, pipeline, step, unanswered, now, unit)
        }
        Performed::HeldBack { why, then, until } => {
            vec![hold::held_back(run, step, hold::Refused { why, then, until }, now, unit)]
        }
        Performed::Model { answer: Err(error), .. } if error.class == FailureClass::Billing => {
            let of = run.step(step).and_then(|known| known.conversation.as_ref());
            let of = of.map_or_else(String::new, |conversation| conversation.head.provider.clone());
            let why = HoldBack::Breaker { of, class: FailureClass::Billing };
            let refused = hold::Refused { why, then: WhenSpent::Park, until: None };
            vec![hold::held_back(run, step, refused, now, unit)]
        }
        Performed::Placed => Vec::new(),
        Performed::Prepared(Ok(event)) => event.into_iter().collect(),
        Performed::Child(Ok(events)) | Performed::Reserved(events) => events,
        Performed::Hooks { event, call, ruling: Ok(ruling) } => {
            vec![Event::HookDecided { step: step.clone(), event, call, ruling: Box::new(ruling) }]
        }
        Performed::Model { purpose: Purpose::Turn, answer: Ok(call) } => fallback::answered(run, step, call),
        Performed::Model { purpose: Purpose::Summary { kept_from, .. }, answer: Ok(call) } => {
            compaction::summarised(step, call, kept_from)
        }
        Performed::Model { purpose, answer: Err(error) } => fallback::unanswered(&retry, purpose, error),
        Performed::Joined { entry, until } => {
            vec![Event::ModelBatchJoined { step: step.clone(), entry, until }]
        }
        Performed::Opened(Ok(event)) => vec![event],
        // An answer is not given up because the next task cannot be told of it.
        Performed::Saved { session, kept } => match kept {
            Err(error) if retry.wait(&error).is_some() => retry.after(error),
            kept => vec![Event::SessionSaved { step: step.clone(), session, kept: kept.unwrap_or(false) }],
        },
        Performed::Prepared(Err(error))
        | Performed::Child(Err(error))
        | Performed::Opened(Err(error))
        | Performed::Hooks { ruling: Err(error), .. } => retry.after(error),
        Performed::LeftAlone { call, error } => retry.conclude_call(&call, Err(ToolError::Failed(error)), 0),
        Performed::Call { call, answer, duration_ms } => retry.conclude_call(&call, answer, duration_ms),
    }
}
