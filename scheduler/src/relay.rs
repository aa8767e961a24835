//! The relay: publishes hints that the broker does not have.
//!
//! Two kinds are lost on the way. Hints that were never confirmed lie in the
//! store's outbox: [`tick`] publishes them. Hints that the broker had and lost
//! (a queue was purged or deleted) leave ready tasks behind that nobody is told of: [`heal`]
//! finds queues of which that seems so. Any number of schedulers may do both at once:
//! a hint that comes twice costs one claim that is refused. A worker also looks into the store every
//! few seconds, so that all of this only saves time.

use std::collections::BTreeSet;
use std::time::Duration;

use common::broker::{Broker, BrokerError, Health};
use common::clock::Timestamp;
use common::id::QueueName;
use common::store::{Cursor, Filter, Hint, Queue, Store, StoreError};
use common::task::{Head, StateName};

/// Hints that are published at once.
const STEP: usize = 1_000;
/// Steps of one tick.
const STEPS: usize = 100;
/// How long a hint may lie in the outbox before somebody else than the process that made its task ready publishes it.
const AGE: Duration = Duration::from_secs(1);
/// The pause between two looks into the outbox.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);
/// The pause between two looks for hints that were lost.
pub(crate) const HEAL_PAUSE: Duration = Duration::from_secs(3);
/// How long a task must have been ready before its hint can be thought lost.
const WAITED: Duration = Duration::from_secs(3);
/// Hints of one queue that are published anew at a look; while more are lost, the next look goes on.
const HEALED: usize = 10_000;

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See [`BrokerError`].
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Publishes what lies in the outbox, and says how many hints that were. While
/// the broker is out of reach the outbox is not looked into.
pub async fn tick(store: &dyn Store, broker: &dyn Broker) -> Result<usize, StoreError> {
    let mut relayed = 0;
    for _ in 0..STEPS {
        if let Health::Down(_) = broker.health() {
            break;
        }
        let hints = store.unsent(AGE, STEP).await?;
        let sent = publish(store, broker, &hints).await?;
        relayed += sent;
        // What the broker does not take now, it does not take a moment later.
        if sent < STEP {
            break;
        }
    }
    Ok(relayed)
}

async fn publish(store: &dyn Store, broker: &dyn Broker, hints: &[Hint]) -> Result<usize, StoreError> {
    if hints.is_empty() {
        return Ok(0);
    }
    let kept = broker.publish(hints).await;
    let sent: Vec<Hint> = hints.iter().zip(kept).filter(|(_, kept)| *kept).map(|(hint, _)| hint.clone()).collect();
    if !sent.is_empty() {
        store.sent(&sent).await?;
    }
    Ok(sent.len())
}

/// Publishes hints anew for queues in which tasks wait in the store and nothing
/// waits at the broker, now and at the last look (`suspects`). Gives the number of hints.
pub async fn heal(
    store: &dyn Store,
    broker: &dyn Broker,
    suspects: &mut BTreeSet<QueueName>,
    now: Timestamp,
) -> Result<usize, RelayError> {
    if let Health::Down(_) = broker.health() {
        suspects.clear();
        return Ok(0);
    }
    let mut silent = BTreeSet::new();
    for queue in store.queues().await? {
        if waits(&queue, now) && broker.waiting(&queue.name).await? == 0 {
            silent.insert(queue.name);
        }
    }
    let mut healed = 0;
    for queue in silent.intersection(suspects) {
        let hints = oldest(store, queue).await?;
        for step in hints.chunks(STEP) {
            healed += publish(store, broker, step).await?;
        }
        tracing::warn!(%queue, hints = hints.len(), "the broker has lost hints; they are published again");
    }
    *suspects = silent;
    Ok(healed)
}

/// Whether tasks of a queue have been ready for so long that a worker should have heard of them.
fn waits(queue: &Queue, now: Timestamp) -> bool {
    !queue.paused && queue.oldest_ready.is_some_and(|since| now.since(since) >= WAITED)
}

/// Hints for ready tasks of a queue, the oldest first. The store lists the newest
/// first: of more than fit, the oldest are left to the workers' own look into the store.
async fn oldest(store: &dyn Store, queue: &QueueName) -> Result<Vec<Hint>, StoreError> {
    let filter = Filter { states: vec![StateName::Ready], queue: Some(queue.clone()), ..Filter::default() };
    let mut hints = Vec::new();
    let mut after: Option<Cursor> = None;
    while hints.len() < HEALED {
        let page = store.list(filter.clone(), after, STEP).await?;
        hints.extend(page.tasks.into_iter().map(hint));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    hints.reverse();
    Ok(hints)
}

fn hint(head: Head) -> Hint {
    Hint { task: head.id, version: head.version, queue: head.queue, priority: head.priority }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_a_queue_that_waits_for_long_and_is_not_paused_is_suspected() {
        let now = Timestamp::from_millis(10_000);
        let queue = |paused, since: Option<i64>| Queue {
            name: "leads".parse().unwrap(),
            paused,
            depth: BTreeMap::new(),
            oldest_ready: since.map(Timestamp::from_millis),
        };
        assert!(waits(&queue(false, Some(7_000)), now));
        assert!(!waits(&queue(false, Some(7_001)), now));
        assert!(!waits(&queue(true, Some(1_000)), now));
        assert!(!waits(&queue(false, None), now));
    }
}
