//! Wakes the tasks that waited for a halt when it is lifted.
//!
//! Any number of schedulers may do this at once, and be interrupted at any time:
//! a halt stays `lifting` until one of them has looked several times and found
//! nobody, because a worker may hear late that it is lifted and park a task
//! behind the back of whoever looks. A task that is missed even so looks for
//! itself after an hour.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Timestamp;
use common::id::PipelineName;
use common::store::{Filter, Halt, HaltChange, HaltState, SignalError, Store, StoreError};
use common::task::{Head, Signal, State, StateName, WaitOn};
use futures::{StreamExt, TryStreamExt, stream};

/// The pause between two ticks.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);
/// Tasks that one look at the store lists.
const PAGE: usize = 1_000;
/// Tasks that are woken at the same time.
const AT_ONCE: usize = 32;
/// The first and the longest pause between two passes; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);
/// For so long passes are made: no lease that was held when the halt was lifted lasts without a word from the store.
const LINGER: Duration = Duration::from_secs(120);

/// The halts that are being lifted, as this process sees them: by pipeline and the time at which they were lifted.
#[derive(Debug, Default)]
pub struct Liftings(BTreeMap<(Option<PipelineName>, Timestamp), Lifting>);

#[derive(Debug)]
struct Lifting {
    since: Timestamp,
    next: Timestamp,
    pause: Duration,
}

/// Wakes what waits for halts that were lifted: how many tasks.
///
/// # Errors
/// Of the store; the next tick goes on.
pub async fn tick(store: &dyn Store, liftings: &mut Liftings, now: Timestamp) -> Result<usize, StoreError> {
    let halts = store.halts().await?;
    let (in_force, lifted): (Vec<Halt>, Vec<Halt>) = halts.into_iter().partition(Halt::is_in_force);
    let lifted: Vec<_> = lifted
        .into_iter()
        .filter_map(|halt| match halt.state {
            HaltState::Lifting { at, .. } => Some((halt.pipeline, at)),
            HaltState::InForce | HaltState::Over { .. } => None,
        })
        .collect();
    liftings.0.retain(|known, _| lifted.contains(known));
    let mut woken = 0;
    for known in lifted {
        let lifting = liftings.0.entry(known.clone()).or_insert(Lifting { since: now, next: now, pause: FIRST_PAUSE });
        if lifting.next > now {
            continue;
        }
        let (pipeline, lifted_at) = known;
        let here = wake(store, pipeline.as_ref(), &in_force).await?;
        woken += here;
        if here == 0 && now.since(lifting.since) >= LINGER {
            store.change_halt(HaltChange::End { pipeline, lifted_at }).await?;
            continue;
        }
        lifting.next = now.plus(lifting.pause);
        lifting.pause = (lifting.pause * 2).min(LONGEST_PAUSE);
    }
    Ok(woken)
}

/// One pass: wakes those of a pipeline (of all, without one) that no halt holds any more.
async fn wake(store: &dyn Store, pipeline: Option<&PipelineName>, in_force: &[Halt]) -> Result<usize, StoreError> {
    let filter = Filter { states: vec![StateName::Waiting], pipeline: pipeline.cloned(), ..Filter::default() };
    let (mut after, mut woken) = (None, 0);
    loop {
        let page = store.list(filter.clone(), after, PAGE).await?;
        let free = page.tasks.iter().filter(|head| is_free(head, in_force));
        let signals: Vec<_> = free.map(|head| unhalt(store, head)).collect();
        let here: Vec<bool> = stream::iter(signals).buffer_unordered(AT_ONCE).try_collect().await?;
        woken += here.into_iter().filter(|woken| *woken).count();
        after = page.next;
        if after.is_none() {
            return Ok(woken);
        }
    }
}

/// Whether a task waits for the end of a halt, and none holds it any more.
fn is_free(head: &Head, in_force: &[Halt]) -> bool {
    let waits = matches!(&head.state, State::Waiting { wait, .. } if wait.on.contains(&WaitOn::Halt));
    waits && !in_force.iter().any(|halt| halt.covers(&head.pipeline))
}

async fn unhalt(store: &dyn Store, head: &Head) -> Result<bool, StoreError> {
    match store.signal(head.id, Signal::Unhalt).await {
        Ok(_) => Ok(true),
        // Another was faster, or it waits for something else by now.
        Err(SignalError::Refused(_) | SignalError::NotFound(_)) => Ok(false),
        Err(SignalError::Store(error)) => Err(error),
    }
}
