//! The leases that a worker holds: renewed together, and given up in time.
//!
//! A lease is judged by the store's clock. What this module knows of it is on
//! the safe side: the local deadline counts from *before* the request that
//! granted or renewed it, so that a worker which cannot reach its store stops
//! touching the outside world no later than another may start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::id::{LeaseToken, TaskId};
use common::store::{Renew, Renewal, Store};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Leases are renewed so many times before they would end.
pub const RENEWALS_PER_LEASE: u32 = 4;

/// A lease as its holder sees it.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Cancelled when the lease is over or may be over.
    pub lost: CancellationToken,
    /// Rings when signals wait to be taken up by an append.
    pub signals: Arc<Notify>,
}

#[derive(Debug)]
struct Held {
    token: LeaseToken,
    deadline: Instant,
    hold: Hold,
}

/// All leases of one worker.
#[derive(Debug)]
pub struct Leases {
    duration: Duration,
    book: Mutex<Book>,
    /// Rings when a lease is added that ends before the watch would look.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Book {
    held: BTreeMap<TaskId, Held>,
    /// When the watch looks next.
    watched: Option<Instant>,
}

impl Leases {
    /// For leases that last so long.
    pub fn new(duration: Duration) -> Self {
        Self { duration, book: Mutex::default(), earlier: Notify::new() }
    }

    /// Adds a lease that was asked for at `asked`. An older one on the same task
    /// is over: its holder, this same worker, was too slow.
    pub fn add(&self, task: TaskId, token: LeaseToken, asked: Instant) -> Hold {
        let hold = Hold { lost: CancellationToken::new(), signals: Arc::new(Notify::new()) };
        let held = Held { token, deadline: asked + self.duration, hold: hold.clone() };
        let mut book = self.lock();
        let unwatched = book.watched.is_some_and(|watched| held.deadline < watched);
        let older = book.held.insert(task, held);
        drop(book);
        if let Some(older) = older {
            older.hold.lost.cancel();
        }
        if unwatched {
            self.earlier.notify_one();
        }
        hold
    }

    /// Forgets a lease that has ended; a newer one on the same task stays.
    pub fn remove(&self, task: TaskId, token: LeaseToken) {
        let held = &mut self.lock().held;
        if held.get(&task).is_some_and(|lease| lease.token == token) {
            held.remove(&task);
        }
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.lock().held.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Renews all of them in one call. Returns how many turned out to be lost.
    pub async fn tick(&self, store: &dyn Store) -> usize {
        let leases: Vec<(TaskId, LeaseToken)> =
            self.lock().held.iter().map(|(task, held)| (*task, held.token)).collect();
        if leases.is_empty() {
            return 0;
        }
        let asked = Instant::now();
        let renew = Renew { leases: leases.clone(), lease: self.duration };
        // A store that hangs must not keep this from seeing that a lease may be over.
        let answer = tokio::time::timeout(self.duration / RENEWALS_PER_LEASE, store.renew(renew)).await;
        let renewals = match answer {
            Ok(Ok(renewals)) => renewals,
            Ok(Err(error)) => {
                tracing::warn!(%error, "leases could not be renewed");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!("the store did not answer a renewal in time");
                Vec::new()
            }
        };
        let held = &mut self.lock().held;
        let mut lost = 0;
        for ((task, token), renewal) in leases.into_iter().zip(renewals) {
            // The task may have been taken anew in the meantime, under another token.
            let Some(lease) = held.get_mut(&task).filter(|lease| lease.token == token) else { continue };
            match renewal {
                Renewal::Renewed { signals, .. } => {
                    lease.deadline = asked + self.duration;
                    if signals {
                        lease.hold.signals.notify_one();
                    }
                }
                Renewal::Lost => {
                    lost += 1;
                    lease.hold.lost.cancel();
                }
            }
        }
        lost + expire(held, Instant::now())
    }

    /// Gives up each lease at the moment at which it may be over, whether the store answers or not. Does not end.
    pub async fn watch(&self) {
        loop {
            let next = {
                let mut book = self.lock();
                let alive = book.held.values().filter(|held| !held.hold.lost.is_cancelled());
                // With nothing to watch it looks after the length of a lease: tasks come and go by the thousand in a
                // second, and none that comes from now on ends much earlier.
                let next = alive.map(|held| held.deadline).min().unwrap_or_else(|| Instant::now() + self.duration);
                book.watched = Some(next);
                next
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.earlier.notified() => {}
            }
            let lost = expire(&mut self.lock().held, Instant::now());
            if lost > 0 {
                tracing::warn!(lost, "leases may be over: the store did not renew them in time");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        // Nothing that can panic runs under this lock.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn expire(held: &mut BTreeMap<TaskId, Held>, now: Instant) -> usize {
    let mut lost = 0;
    for lease in held.values().filter(|lease| lease.deadline <= now && !lease.hold.lost.is_cancelled()) {
        lost += 1;
        lease.hold.lost.cancel();
    }
    lost
}

#[cfg(test)]
mod tests {
    use common::clock::Timestamp;

    use super::*;

    #[tokio::test]
    async fn a_task_that_this_worker_takes_anew_is_lost_to_its_older_execution() {
        let leases = Leases::new(Duration::from_secs(8));
        let task = TaskId::new(Timestamp::from_millis(1), [1; 10]);
        let (older, newer) = (LeaseToken::new([1; 16]), LeaseToken::new([2; 16]));
        let first = leases.add(task, older, Instant::now());
        let second = leases.add(task, newer, Instant::now());
        assert!(first.lost.is_cancelled() && !second.lost.is_cancelled());
        leases.remove(task, older);
        assert_eq!(leases.len(), 1, "the older execution ends, and the newer lease is still renewed");
        leases.remove(task, newer);
        assert!(leases.is_empty());
    }

    #[tokio::test]
    async fn a_lease_is_given_up_at_its_deadline_and_not_at_the_next_renewal() {
        let leases = Leases::new(Duration::from_millis(30));
        let task = TaskId::new(Timestamp::from_millis(1), [1; 10]);
        let hold = leases.add(task, LeaseToken::new([1; 16]), Instant::now());
        let deadline = tokio::time::sleep(Duration::from_secs(10));
        tokio::select! {
            () = leases.watch() => {}
            () = hold.lost.cancelled() => {}
            () = deadline => {}
        }
        assert!(hold.lost.is_cancelled());
    }
}
