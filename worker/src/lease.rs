//! The leases that a worker holds: renewed together, and given up in time.
//!
//! A lease is judged by the store's clock. What this module knows of it is on
//! the safe side: the local deadline counts from *before* the request that
//! granted or renewed it, so that a worker which cannot reach its store stops
//! touching the outside world no later than another may start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::id::{LeaseToken, TaskId};
use common::store::{Renew, Renewal, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

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
    held: Mutex<HashMap<TaskId, Held>>,
}

impl Leases {
    /// For leases that last so long.
    pub fn new(duration: Duration) -> Self {
        Self { duration, held: Mutex::default() }
    }

    /// Adds a lease that was asked for at `asked`.
    pub fn add(&self, task: TaskId, token: LeaseToken, asked: Instant) -> Hold {
        let hold = Hold { lost: CancellationToken::new(), signals: Arc::new(Notify::new()) };
        let held = Held { token, deadline: asked + self.duration, hold: hold.clone() };
        self.lock().insert(task, held);
        hold
    }

    /// Forgets a lease that has ended.
    pub fn remove(&self, task: TaskId) {
        self.lock().remove(&task);
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Renews all of them in one call. Returns how many turned out to be lost.
    pub async fn tick(&self, store: &dyn Store) -> usize {
        let leases: Vec<(TaskId, LeaseToken)> = self.lock().iter().map(|(task, held)| (*task, held.token)).collect();
        if leases.is_empty() {
            return 0;
        }
        let asked = Instant::now();
        let renew = Renew { leases: leases.clone(), lease: self.duration };
        // The answer is worth nothing once the leases may be over.
        let answer = tokio::time::timeout(self.duration / 2, store.renew(renew)).await;
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
        let mut held = self.lock();
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
        lost + expire(&mut held, Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Held>> {
        // Nothing that can panic runs under this lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn expire(held: &mut HashMap<TaskId, Held>, now: Instant) -> usize {
    let mut lost = 0;
    for lease in held.values().filter(|lease| lease.deadline <= now && !lease.hold.lost.is_cancelled()) {
        lost += 1;
        lease.hold.lost.cancel();
    }
    lost
}
