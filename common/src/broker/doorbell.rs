//! From the store to the broker: the bell that a store rings, and what passes
//! its calls on.
//!
//! The bell is made first, the store is opened with it, and then [`pass_on`] is
//! started with both. Everything here may lose hints: what was not passed on
//! stays in the store's outbox and is given again by `unsent`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::Broker;
use crate::store::{Doorbell, Hint, Store};

/// Hints that wait to be published; more are dropped.
const WAITING: usize = 100_000;
/// Calls that wait to be published, of one hint or many.
const CALLS: usize = 16_384;
/// Hints that are published, or taken out of the outbox, at once.
const BATCH: usize = 1_024;
/// Batches that were confirmed and wait to be taken out of the outbox.
const CONFIRMED: usize = 16;

/// What a store rings.
#[derive(Debug)]
pub struct Bell {
    calls: mpsc::Sender<Vec<Hint>>,
    waiting: Arc<AtomicUsize>,
}

/// What a bell has been rung for.
#[derive(Debug)]
pub struct Calls {
    calls: mpsc::Receiver<Vec<Hint>>,
    waiting: Arc<AtomicUsize>,
}

/// A bell and its other end.
pub fn doorbell() -> (Arc<Bell>, Calls) {
    let (sender, receiver) = mpsc::channel(CALLS);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Arc::new(Bell { calls: sender, waiting: Arc::clone(&waiting) }), Calls { calls: receiver, waiting })
}

impl Doorbell for Bell {
    fn ring(&self, hints: Vec<Hint>) {
        let count = hints.len();
        // Two that ring at once may both find room for the last hint: the bound is near enough.
        if count == 0 || self.waiting.load(Ordering::Relaxed).saturating_add(count) > WAITING {
            return;
        }
        self.waiting.fetch_add(count, Ordering::Relaxed);
        if self.calls.try_send(hints).is_err() {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

impl Calls {
    /// Waits for hints, and gives all that are there, up to a bound; none at the end of the bell.
    async fn next(&mut self) -> Vec<Hint> {
        let mut hints = self.calls.recv().await.unwrap_or_default();
        while hints.len() < BATCH
            && let Ok(more) = self.calls.try_recv()
        {
            hints.extend(more);
        }
        self.waiting.fetch_sub(hints.len(), Ordering::Relaxed);
        hints
    }
}

/// Publishes what the bell rings for, and takes what the broker confirmed out of
/// the store's outbox. Goes on until it is dropped.
pub async fn pass_on(mut calls: Calls, broker: Arc<dyn Broker>, store: Arc<dyn Store>) {
    // The next hints are published while the store forgets the last ones.
    let (confirmed, forgetting) = mpsc::channel::<Vec<Hint>>(CONFIRMED);
    let publishing = async move {
        loop {
            let hints = calls.next().await;
            if hints.is_empty() {
                break;
            }
            for hints in hints.chunks(BATCH) {
                let known = broker.publish(hints).await;
                let known: Vec<Hint> =
                    hints.iter().zip(known).filter(|(_, known)| *known).map(|(hint, _)| hint.clone()).collect();
                if !known.is_empty() && confirmed.send(known).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::join!(publishing, forget(forgetting, store));
}

async fn forget(mut confirmed: mpsc::Receiver<Vec<Hint>>, store: Arc<dyn Store>) {
    while let Some(mut hints) = confirmed.recv().await {
        while hints.len() < BATCH
            && let Ok(more) = confirmed.try_recv()
        {
            hints.extend(more);
        }
        if let Err(error) = store.sent(&hints).await {
            // They stay in the outbox and are published once more.
            tracing::debug!(%error, hints = hints.len(), "confirmed hints stay in the outbox");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::clock::Timestamp;
    use crate::id::TaskId;

    fn hints(count: usize) -> Vec<Hint> {
        let task = TaskId::new(Timestamp::from_millis(1_800_000_000_000), [7; 10]);
        vec![Hint { task, version: 1, queue: "leads".parse().unwrap(), priority: 4 }; count]
    }

    #[tokio::test]
    async fn a_bell_that_nobody_hears_drops_what_is_too_much() {
        let (bell, mut calls) = doorbell();
        for _ in 0..WAITING {
            bell.ring(hints(2));
        }
        assert_eq!(bell.waiting.load(Ordering::Relaxed), CALLS * 2);
        assert_eq!(calls.next().await.len(), BATCH);
        bell.ring(hints(3));
        while bell.waiting.load(Ordering::Relaxed) > 3 {
            calls.next().await;
        }
        assert_eq!(calls.next().await.len(), 3);
    }
}
