//! What callers want written, on its way to a writer and back.

use tokio::sync::oneshot;

use super::fault::Stop;
use crate::id::{LeaseToken, TaskId};
use crate::store::intake::{Accepted, Encoded};
use crate::store::{
    Append, AppendError, Appended, Claim, ClaimTasks, Receipt, Renew, Renewal, SignalError, Signalled, StoreError, Take,
};
use crate::task::Signal;

/// An operation and its caller.
pub(super) enum Job {
    Submit(Vec<Accepted>, Call<Vec<Receipt>, StoreError>),
    /// The number says which queue begins.
    Take(Take, usize, Call<Vec<Claim>, StoreError>),
    Claim(ClaimTasks, Call<Vec<Claim>, StoreError>),
    Append(Box<Append>, Encoded, Call<Appended, AppendError>),
    Renew(Renew, Call<Vec<Renewal>, StoreError>),
    Signal(TaskId, Signal, Call<Signalled, SignalError>),
    /// A task whose journal turned out to be unreadable after it was leased.
    GiveUp(TaskId, LeaseToken, String),
}

/// Where the answer goes.
pub(super) struct Call<T, E> {
    answer: Option<Result<T, E>>,
    caller: oneshot::Sender<Result<T, E>>,
}

impl<T, E: From<StoreError>> Call<T, E> {
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T, E>>) {
        let (caller, receiver) = oneshot::channel();
        (Self { answer: None, caller }, receiver)
    }

    /// Notes the answer; it is given when the transaction has been committed.
    pub(super) fn set(&mut self, answer: Result<T, E>) {
        self.answer = Some(answer);
    }

    fn give(self, failure: Option<StoreError>) {
        let answer = match (failure, self.answer) {
            (Some(failure), _) => Err(failure.into()),
            (None, Some(answer)) => answer,
            (None, None) => Err(StoreError::Unavailable("the operation was not done".to_owned()).into()),
        };
        // A caller that went away does not want to know.
        let _ = self.caller.send(answer);
    }
}

impl Job {
    /// How many tasks and events it is about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Submit(accepted, _) => accepted.len(),
            Self::Take(take, ..) => take.max,
            Self::Claim(claim, _) => claim.tasks.len(),
            Self::Renew(renew, _) => renew.leases.len(),
            Self::Append(..) | Self::Signal(..) | Self::GiveUp(..) => 2,
        }
    }

    /// How many bytes it adds, as far as that matters.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Submit(accepted, _) => accepted.iter().map(|accepted| accepted.event.len()).sum(),
            Self::Append(_, encoded, _) => encoded.events.iter().map(String::len).sum(),
            _ => 0,
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Submit(_, call) => call.caller.is_closed(),
            Self::Take(_, _, call) | Self::Claim(_, call) => call.caller.is_closed(),
            Self::Append(_, _, call) => call.caller.is_closed(),
            Self::Renew(_, call) => call.caller.is_closed(),
            Self::Signal(_, _, call) => call.caller.is_closed(),
            Self::GiveUp(..) => false,
        }
    }

    /// Whether it gives the same answer when it is done again after it was done.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self, Self::Submit(..) | Self::Append(..) | Self::Renew(..) | Self::GiveUp(..))
    }

    /// Gives the caller the answer, or tells that it failed.
    pub(super) fn answer(self, failure: Option<StoreError>) {
        match self {
            Self::Submit(_, call) => call.give(failure),
            Self::Take(_, _, call) | Self::Claim(_, call) => call.give(failure),
            Self::Append(_, _, call) => call.give(failure),
            Self::Renew(_, call) => call.give(failure),
            Self::Signal(_, _, call) => call.give(failure),
            Self::GiveUp(task, ..) => {
                if let Some(failure) = failure {
                    tracing::warn!(%task, %failure, "a task that cannot be read could not be made a dead letter");
                }
            }
        }
    }
}

/// An answer that is a refusal, or a failure of the group.
pub(super) fn refused<T, E>(outcome: Result<T, Stop<E>>) -> Result<Result<T, E>, super::fault::Fault> {
    match outcome {
        Ok(answer) => Ok(Ok(answer)),
        Err(Stop::Refused(error)) => Ok(Err(error)),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}
