//! Requests that wait to go out with those of other tasks: joining, and what
//! follows when there was no answer.

use common::clock::Timestamp;
use common::failure::Failure;
use common::id::StepKey;
use common::journal::{EntryState, HoldBack, Run, WhenSpent};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::perform::Done;
use super::{Executor, internal};
use crate::batching::Full;
use crate::decide::{Performed, next_entry};

impl Executor {
    /// Has a step's request wait for others.
    pub(super) fn join_batch<'a>(&'a self, step: &StepKey, until: Timestamp, run: &Run) -> BoxFuture<'a, Done> {
        let entry = next_entry(run, step);
        let conversation = run.step(step).and_then(|known| known.conversation.as_ref());
        let provider = conversation.map(|known| known.head.provider.clone());
        async move {
            let Some(provider) = provider else {
                return Done::of(Performed::Prepared(Err(internal("there is no conversation to go on with"))));
            };
            Done::of(match self.batching.join(&provider, entry.clone()).await {
                Ok(Ok(())) => Performed::Joined { entry, until },
                Ok(Err(Full { waiting })) => {
                    let rate_limit = format!("model batches of {provider}");
                    let why = HoldBack::RateLimit { rate_limit, used: waiting, limit: waiting };
                    Performed::HeldBack { why, then: WhenSpent::Park, until: None }
                }
                Err(error) => Performed::Prepared(Err(error)),
            })
        }
        .boxed()
    }
}

/// What came of a request that failed, as of a call that did.
pub(super) fn heed<'a>(run: &Run, step: &StepKey) -> BoxFuture<'a, Done> {
    let failure: Option<Failure> = run.step(step).and_then(|known| match &known.entry.as_ref()?.state {
        EntryState::Failed(failure) => Some(failure.clone()),
        _ => None,
    });
    let failure = failure.unwrap_or_else(|| internal("no request of the step has failed"));
    async move { Done::of(Performed::BatchFailed(failure)) }.boxed()
}
