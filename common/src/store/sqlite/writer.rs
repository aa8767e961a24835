//! The one writer of a process: a thread that takes what many callers want
//! written, puts it into one transaction, commits once and then answers all of
//! them. No caller hears of success before the commit returned.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::bell::Bell;
use super::connection::{Stop, store_error};
use super::tally::Tally;
use super::transaction::{News, Transaction};
use crate::store::{StoreError, StoreOptions};

/// Operations that may wait for the writer; more callers wait for room.
const QUEUE: usize = 1024;
/// Tasks and events that go into one transaction.
const GROUP: usize = 4096;
/// For how long the writer goes on without letting other processes write.
const STINT: Duration = Duration::from_millis(25);
/// How long it lets go: longer than another process sleeps between two tries.
const BREATH: Duration = Duration::from_micros(700);

/// A handle on the writer thread; dropping it writes what was asked for, and ends the thread.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// An operation that waits to be written, and its caller.
trait Job: Send {
    fn weight(&self) -> usize;
    /// Whether nobody waits for the answer any more.
    fn abandoned(&self) -> bool;
    /// Does it inside a transaction; may be called again if that was undone.
    fn run(&mut self, tx: &mut Transaction<'_>) -> rusqlite::Result<()>;
    /// Tells the caller, after the commit.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

struct Operation<T, E, F> {
    weight: usize,
    work: F,
    done: Option<Result<T, E>>,
    caller: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Job for Operation<T, E, F>
where
    T: Send,
    E: From<StoreError> + Send,
    F: FnMut(&mut Transaction<'_>) -> Result<T, Stop<E>> + Send,
{
    fn weight(&self) -> usize {
        self.weight
    }

    fn abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn run(&mut self, tx: &mut Transaction<'_>) -> rusqlite::Result<()> {
        self.done = None;
        self.done = Some(match (self.work)(tx) {
            Ok(answer) => Ok(answer),
            Err(Stop::Refused(error)) => Err(error),
            Err(Stop::Sql(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let answer = match (failure, self.done) {
            (Some(failure), _) => Err(failure.into()),
            (None, Some(done)) => done,
            (None, None) => Err(StoreError::Unavailable("the operation was not run".to_owned()).into()),
        };
        // A caller that went away does not want to know.
        let _ = self.caller.send(answer);
    }
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        db: Connection,
        path: PathBuf,
        options: StoreOptions,
        bell: Arc<Bell>,
    ) -> Result<Self, StoreError> {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || Loop { db, path, options, bell }.run(jobs))
            .map_err(|error| StoreError::Unavailable(format!("cannot start the store's writer thread: {error}")))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread) })
    }

    /// Has `work` done in a transaction, possibly together with others, and waits for its commit.
    /// `work` writes nothing if it refuses, and may be called again if the transaction was undone.
    pub(super) async fn write<T, E, F>(&self, weight: usize, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop<E>> + Send + 'static,
    {
        let stopped = || E::from(StoreError::Unavailable("the store's writer has stopped".to_owned()));
        let (caller, answer) = oneshot::channel();
        let job = Box::new(Operation { weight, work, done: None, caller });
        let Some(jobs) = &self.jobs else { return Err(stopped()) };
        jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread had panicked");
        }
    }
}

struct Loop {
    db: Connection,
    path: PathBuf,
    options: StoreOptions,
    bell: Arc<Bell>,
}

/// Where a group failed.
enum Failed {
    /// The transaction could not begin or commit.
    Group(rusqlite::Error),
    /// One of the operations, or the sums of all of them.
    Within(rusqlite::Error),
}

impl Loop {
    fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
        let mut rested = Instant::now();
        while let Some(first) = jobs.blocking_recv() {
            let mut weight = first.weight();
            let mut group = vec![first];
            while weight < GROUP
                && let Ok(job) = jobs.try_recv()
            {
                weight += job.weight();
                group.push(job);
            }
            group.retain(|job| !job.abandoned());
            self.write(group);
            if jobs.is_empty() {
                rested = Instant::now();
            } else if rested.elapsed() >= STINT {
                // SQLite's lock is not fair: without a pause another process may wait for ever.
                std::thread::sleep(BREATH);
                rested = Instant::now();
            }
        }
        // Leaves one file behind instead of two; the log would be read at the next opening otherwise.
        if let Err(error) = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!(%error, "the write-ahead log stays until the next opening");
        }
    }

    fn write(&mut self, mut group: Vec<Box<dyn Job>>) {
        if group.is_empty() {
            return;
        }
        match self.commit(&mut group) {
            Ok(()) => group.into_iter().for_each(|job| job.answer(None)),
            Err(Failed::Within(_)) if group.len() > 1 => {
                // One bad operation must not fail its neighbours.
                for job in group {
                    self.write(vec![job]);
                }
            }
            Err(Failed::Group(error) | Failed::Within(error)) => {
                tracing::warn!(%error, operations = group.len(), "a write to the store failed");
                for job in group {
                    job.answer(Some(store_error(&self.path, &error)));
                }
            }
        }
    }

    /// All of the group, or nothing.
    fn commit(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), Failed> {
        self.statement("BEGIN IMMEDIATE").map_err(Failed::Group)?;
        let outcome = self.fill(group).and_then(|news| {
            self.statement("COMMIT").map_err(Failed::Group)?;
            Ok(news)
        });
        match outcome {
            Ok(news) => {
                self.tell(news);
                Ok(())
            }
            Err(failed) => {
                // Some failures undo the transaction by themselves.
                if !self.db.is_autocommit()
                    && let Err(error) = self.statement("ROLLBACK")
                {
                    tracing::error!(%error, "a failed transaction could not be rolled back");
                }
                Err(failed)
            }
        }
    }

    /// What was written is on the disk now.
    fn tell(&self, news: News) {
        if let Some(witness) = &self.options.witness {
            witness.witness(&news.facts);
        }
        if news.rings {
            self.bell.ring();
        }
        if let Some(doorbell) = &self.options.doorbell
            && !news.hints.is_empty()
        {
            doorbell.ring(news.hints);
        }
    }

    fn fill(&self, group: &mut [Box<dyn Job>]) -> Result<News, Failed> {
        let mut tx = Transaction::new(&self.db, &self.options, Tally::default());
        for job in group {
            tx.start_operation();
            job.run(&mut tx).map_err(Failed::Within)?;
        }
        tx.finish().map_err(Failed::Within)
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached(sql)?.execute([]).map(drop)
    }
}
