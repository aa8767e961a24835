//! The writers: each has a connection of its own, takes what many callers want
//! written, puts it into one transaction, commits once and then answers all of
//! them. No caller hears of success before the commit is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::address::Address;
use super::bell::Bell;
use super::connection::{Connection, Purpose};
use super::fault::Fault;
use super::group::{self, Failed, STATEMENTS};
use super::job::{Call, Job};
use super::tls::Connector;
use crate::id::Shard;
use crate::store::{StoreError, StoreOptions};

/// Operations that may wait for one writer; more callers wait for room.
const QUEUE: usize = 1024;
/// Tasks and events that go into one transaction.
const GROUP: usize = 4096;
/// Bytes of them.
const BYTES: usize = 16 << 20;
/// How often a group is done again because another transaction was in its way.
const CONFLICTS: usize = 10;
/// After so many of them, each operation goes alone.
const TOGETHER: usize = 3;
/// How often a group is begun again on a new connection.
const LOSSES: usize = 2;
/// A plan is made for the tables as they were then, perhaps empty: it is made anew after so long.
const PLAN: Duration = Duration::from_secs(5);
/// The waits between tries to connect, before whoever waits is told.
const BACKOFF: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// All writers of a store. They end when it is dropped and nothing waits any more.
pub(super) struct Writers {
    queues: Vec<mpsc::Sender<Job>>,
    turn: AtomicUsize,
}

/// What every writer works with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) address: Arc<Address>,
    pub(super) connector: Connector,
    pub(super) options: StoreOptions,
    pub(super) bell: Arc<Bell>,
}

struct Writer {
    tools: Tools,
    connection: Option<Connection>,
    /// When its statements were planned.
    planned: Instant,
}

impl Writers {
    /// Starts them.
    pub(super) fn start(tools: &Tools) -> Self {
        let start = |_| {
            let (sender, jobs) = mpsc::channel(QUEUE);
            tokio::spawn(Writer { tools: tools.clone(), connection: None, planned: Instant::now() }.run(jobs));
            sender
        };
        Self { queues: (0..tools.address.writers).map(start).collect(), turn: AtomicUsize::new(0) }
    }

    /// Has a job done and waits for its commit. Jobs of one family go to one writer, so that they do not wait for each
    /// other's locks; those without take turns.
    pub(super) async fn write<T, E: From<StoreError>>(
        &self,
        family: Option<Shard>,
        job: impl FnOnce(Call<T, E>) -> Job,
    ) -> Result<T, E> {
        let stopped = || E::from(StoreError::Unavailable("the store's writer has stopped".to_owned()));
        let number = match family {
            Some(shard) => usize::from(shard.number()),
            None => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let (call, answer) = Call::new();
        let Some(queue) = self.queues.get(number % self.queues.len().max(1)) else { return Err(stopped()) };
        queue.send(job(call)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Writer {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let (mut weight, mut bytes) = (first.weight(), first.bytes());
            let mut group = vec![first];
            while weight < GROUP
                && bytes < BYTES
                && let Ok(job) = jobs.try_recv()
            {
                weight += job.weight();
                bytes += job.bytes();
                group.push(job);
            }
            self.write(group).await;
        }
    }

    /// Does a group; should that not work, each of its operations alone: a bad one must not fail its neighbours.
    async fn write(&mut self, mut group: Vec<Job>) {
        group.retain(|job| !job.is_abandoned());
        match self.attempt(&mut group).await {
            Ok(()) => answer(group, None),
            Err(fault) if group.len() > 1 && !matches!(fault, Fault::Lost(_) | Fault::Unreachable(_)) => {
                for job in group {
                    let mut alone = vec![job];
                    let failure = self.attempt(&mut alone).await.err().map(StoreError::from);
                    answer(alone, failure.as_ref());
                }
            }
            Err(fault) => {
                let failure = StoreError::from(fault);
                tracing::warn!(%failure, operations = group.len(), "a write to the store failed");
                answer(group, Some(&failure));
            }
        }
    }

    /// Tries until a group is committed, or there is no hope.
    async fn attempt(&mut self, group: &mut Vec<Job>) -> Result<(), Fault> {
        let (mut conflicts, mut losses) = (0, 0);
        while !group.is_empty() {
            let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            if self.planned.elapsed() >= PLAN {
                self.planned = Instant::now();
                // Should it fail, so does what comes next, and says why.
                let _ = connection.batch("DISCARD PLANS").await;
            }
            let careful = conflicts + losses > 0;
            let Failed { fault, committing } = match group::run(&connection, &self.tools.options, group, careful).await
            {
                Ok(done) => {
                    self.connection = Some(connection);
                    self.tools.bell.ring(done.rings, &self.tools.options);
                    for (task, token, why) in done.unreadable {
                        tracing::error!(%task, why, "a journal cannot be read by this version; its task is a dead letter now");
                        let mut give_up = vec![Job::GiveUp(task, token, why)];
                        Box::pin(self.attempt(&mut give_up)).await?;
                    }
                    return Ok(());
                }
                Err(failed) => failed,
            };
            if matches!(fault, Fault::Lost(_)) {
                losses += 1;
                if losses > LOSSES {
                    return Err(fault);
                }
                tracing::warn!(?fault, "a connection to Postgres is lost; connecting again");
                if committing {
                    // It may have been done. What would give another answer the second time is not repeated.
                    let (repeated, uncertain) = std::mem::take(group).into_iter().partition(Job::is_repeatable);
                    *group = repeated;
                    let failure = StoreError::from(fault);
                    let uncertain: Vec<Job> = uncertain;
                    answer(uncertain, Some(&failure));
                }
                continue;
            }
            if connection.batch("ROLLBACK").await.is_ok() {
                self.connection = Some(connection);
            }
            conflicts += 1;
            if !fault.is_conflict() || conflicts > CONFLICTS || (conflicts > TOGETHER && group.len() > 1) {
                return Err(fault);
            }
            tracing::debug!(?fault, conflicts, "a transaction is done again");
            self.pause(Duration::from_millis(1 << conflicts.min(6))).await;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let mut outcome = Err(Fault::Unavailable("there is no connection to Postgres".to_owned()));
        for wait in BACKOFF {
            self.pause(wait).await;
            outcome = self.open().await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn open(&self) -> Result<Connection, Fault> {
        let connection = Connection::open(&self.tools.address, &self.tools.connector, Purpose::Writing, None).await?;
        connection.warm(STATEMENTS).await?;
        Ok(connection)
    }

    /// Sleeps for a random part of a time: many writers must not come back at the same moment.
    async fn pause(&self, longest: Duration) {
        tokio::time::sleep(longest.mul_f64(self.tools.options.entropy.unit())).await;
    }
}

/// Gives all callers their answers, or tells them of the failure.
fn answer(jobs: Vec<Job>, failure: Option<&StoreError>) {
    for job in jobs {
        job.answer(failure.map(again));
    }
}

/// The same failure for another caller.
fn again(failure: &StoreError) -> StoreError {
    match failure {
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::Damaged(why) => StoreError::Damaged(why.clone()),
        StoreError::Refused(why) => StoreError::Refused(why.clone()),
    }
}
