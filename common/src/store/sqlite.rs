//! The `SQLite` store: the truth in one file, no server, users can look into it
//! with the `sqlite3` shell.
//!
//! One `writer` thread in each process group-commits what its callers want
//! written, with `synchronous=FULL`: what was answered is on disk. `connection`
//! has the readers beside it, which never wait for the writer. Several processes
//! may share the file: a transaction takes the lock when it begins, and a `bell`
//! notices what others committed. The modules named after operations hold the
//! SQL; every decision is made by the pure functions that they call.

mod append;
mod batch;
mod bell;
mod blob;
mod catalog;
mod connection;
mod due;
mod entries;
mod erase;
mod examine;
mod halt;
mod lease;
mod meter;
mod outbox;
mod read;
mod restore;
mod row;
mod schema;
mod session;
mod signal;
mod submit;
mod tally;
mod transaction;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use self::bell::{Bell, Lookout};
use self::connection::{Readers, Stop, open_writer};
use self::lease::{Leased, Loaded};
use self::writer::Writer;
use super::{
    Append, AppendError, Appended, BatchRow, BatchStatus, Claim, ClaimTasks, Cursor, Definition, Due, Erasure, Filter,
    Finding, Halt, HaltChange, Hint, KeepSession, KeptSession, Meter, OpenBatch, Page, Queue, Reading, Receipt,
    RejectedRow, Renew, Renewal, Reserve, Reserved, Settle, Settled, SignalError, Signalled, Store, StoreError,
    StoreOptions, Submission, Take, Transcript, intake,
    meter::{MOST_READINGS, till::Order},
};
use crate::clock::Timestamp;
use crate::id::{BatchId, BlobName, Digest, PipelineName, QueueName, SessionName, TaskId};
use crate::journal::{Chained, Recorded, Seal};
use crate::task::{Head, Signal};

/// The most events or rows that one read answers with.
const MOST: usize = 10_000;
/// A waiting `ready` looks for itself at least this often.
const LOOK: Duration = Duration::from_millis(900);

/// A store in a `SQLite` file. Dropping it waits until all that was asked for is written.
#[derive(Debug)]
pub struct SqliteStore {
    // Declared before the bell and the readers: it is dropped, and so finished, first.
    writer: Writer,
    lookout: OnceLock<Option<Lookout>>,
    readers: Arc<Readers>,
    bell: Arc<Bell>,
    options: StoreOptions,
    path: PathBuf,
    /// Which queue begins at the next take.
    turn: AtomicUsize,
}

impl SqliteStore {
    /// Opens the file, makes it and its directory if there is none, and brings an older one to this version.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the file is no database, is corrupt, belongs to another program or is
    /// of a newer version: it is left as it is. [`StoreError::Unavailable`] if it cannot be opened now.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Arc<Self>, StoreError> {
        let path = std::path::absolute(path)
            .map_err(|error| StoreError::Unavailable(format!("cannot open {}: {error}", path.display())))?;
        let db = open_writer(&path)?;
        Self::start(db, path, options)
    }

    fn start(db: rusqlite::Connection, path: PathBuf, options: StoreOptions) -> Result<Arc<Self>, StoreError> {
        let bell = Arc::new(Bell::new());
        let writer = Writer::start(db, path.clone(), options.clone(), Arc::clone(&bell))?;
        Ok(Arc::new(Self {
            writer,
            lookout: OnceLock::new(),
            readers: Arc::new(Readers::new(path.clone())),
            bell,
            options,
            path,
            turn: AtomicUsize::new(0),
        }))
    }

    /// The journals of leased tasks. One that cannot be read makes its task a dead letter, and stops no other.
    async fn claims(&self, leased: Vec<Leased>) -> Result<Vec<Claim>, StoreError> {
        if leased.is_empty() {
            return Ok(Vec::new());
        }
        let Loaded { claims, unreadable } =
            self.readers.read(move |db| lease::load(db, leased).map_err(Stop::<StoreError>::from)).await?;
        for (leased, why) in unreadable {
            self.writer.write(1, move |tx| lease::give_up(tx, &leased, &why)).await?;
        }
        Ok(claims)
    }

    /// Starts to watch for other processes when somebody waits for the first time.
    fn watch(&self) {
        self.lookout.get_or_init(|| {
            let started = Lookout::start(&self.path, &self.bell);
            if let Err(error) = &started {
                tracing::warn!(%error, "cannot watch for tasks from other processes; looking each second instead");
            }
            started.ok()
        });
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError> {
        let prepared = intake::submissions(submissions, &self.options.limits)?;
        if prepared.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(prepared.len(), move |tx| submit::submit(tx, &prepared)).await
    }

    async fn take(&self, request: Take) -> Result<Vec<Claim>, StoreError> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let leased = self.writer.write(request.max, move |tx| lease::take(tx, &request, first)).await?;
        self.claims(leased).await
    }

    async fn claim(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError> {
        let leased = self.writer.write(request.tasks.len(), move |tx| lease::claim(tx, &request)).await?;
        self.claims(leased).await
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let encoded = intake::append(&append)?;
        self.writer.write(2, move |tx| append::append(tx, &append, &encoded)).await
    }

    async fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError> {
        if renew.leases.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(renew.leases.len(), move |tx| lease::renew(tx, &renew)).await
    }

    async fn signal(&self, task: TaskId, signal: Signal) -> Result<Signalled, SignalError> {
        intake::signal(&signal, &self.options.limits)?;
        self.writer.write(2, move |tx| signal::signal(tx, task, &signal)).await
    }

    async fn forget(&self, task: TaskId) -> Result<bool, StoreError> {
        self.writer.write(1, move |tx| due::forget(tx, task)).await
    }

    async fn erase(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError> {
        let by = by.to_owned();
        self.writer.write(2, move |tx| erase::erase(tx, task, &by)).await
    }

    async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        self.writer.write(limit, move |tx| due::due(tx, limit)).await
    }

    async fn ready(&self, queues: &[QueueName]) {
        self.watch();
        // Listening starts before looking: what becomes ready in between is heard.
        let mut listener = self.bell.listen();
        loop {
            let queues = queues.to_vec();
            let look = self.readers.read(move |db| lease::any_ready(db, &queues).map_err(Stop::<StoreError>::from));
            match look.await {
                Ok(true) => return,
                Ok(false) => {}
                // Whoever takes next will be told; meanwhile nobody spins.
                Err(_) => return tokio::time::sleep(LOOK).await,
            }
            let _ = tokio::time::timeout(LOOK, listener.rung()).await;
        }
    }

    async fn head(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        self.readers.read(move |db| read::head(db, task)).await
    }

    async fn journal(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        let limit = limit.min(MOST) as u64;
        let read = move |db: &rusqlite::Connection| {
            row::read_events(db, task, after.saturating_add(1), u64::MAX, limit).map_err(Stop::<StoreError>::from)
        };
        self.readers.read(read).await
    }

    async fn chain(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Chained>, StoreError> {
        let limit = limit.min(MOST) as u64;
        let read =
            move |db: &rusqlite::Connection| row::read_chain(db, task, after, limit).map_err(Stop::<StoreError>::from);
        self.readers.read(read).await
    }

    async fn seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError> {
        self.readers.read(move |db| row::read_seal(db, task).map_err(Stop::<StoreError>::from)).await
    }

    async fn list(&self, filter: Filter, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.readers.read(move |db| read::list(db, &filter, after, limit)).await
    }

    async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        self.readers.read(read::queues).await
    }

    async fn pause(&self, queue: QueueName, paused: bool) -> Result<(), StoreError> {
        self.writer.write(1, move |tx| catalog::pause(tx, &queue, paused)).await
    }

    async fn apply(&self, definitions: Vec<Definition>) -> Result<(), StoreError> {
        self.writer.write(definitions.len(), move |tx| catalog::apply(tx, &definitions)).await
    }

    async fn definition(&self, digest: &Digest) -> Result<Option<Definition>, StoreError> {
        let digest = digest.clone();
        self.readers.read(move |db| catalog::definition(db, &digest)).await
    }

    async fn current(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError> {
        let pipeline = pipeline.clone();
        self.readers.read(move |db| catalog::current(db, &pipeline)).await
    }

    async fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        self.readers.read(catalog::definitions).await
    }

    async fn open_batch(&self, batch: OpenBatch) -> Result<(), StoreError> {
        self.writer.write(1, move |tx| batch::open(tx, &batch)).await
    }

    async fn reject_rows(&self, batch: &BatchId, rows: Vec<RejectedRow>) -> Result<(), StoreError> {
        let batch = batch.clone();
        self.writer.write(rows.len(), move |tx| batch::reject(tx, &batch, &rows)).await
    }

    async fn close_batch(&self, batch: &BatchId) -> Result<(), StoreError> {
        let batch = batch.clone();
        self.writer.write(1, move |tx| batch::close(tx, &batch)).await
    }

    async fn batch(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError> {
        let batch = batch.clone();
        self.readers.read(move |db| batch::status(db, &batch)).await
    }

    async fn batch_rows(&self, batch: &BatchId, after: u64, limit: usize) -> Result<Vec<BatchRow>, StoreError> {
        let batch = batch.clone();
        self.readers.read(move |db| batch::rows(db, &batch, after, limit.min(MOST))).await
    }

    async fn schedule(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        let name = name.to_owned();
        self.readers.read(move |db| catalog::schedule(db, &name)).await
    }

    async fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.writer.write(1, move |tx| catalog::serve_schedule(tx, &name, until)).await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Reserved, StoreError> {
        reserve.check()?;
        let (weight, order) = (reserve.charges.len(), Order::Reserve(reserve));
        self.writer.write(weight, move |tx| meter::perform(tx, &order)).await?.reserved()
    }

    async fn settle(&self, settle: Settle) -> Result<Settled, StoreError> {
        settle.check()?;
        let (weight, order) = (settle.spent.len(), Order::Settle(settle));
        self.writer.write(weight, move |tx| meter::perform(tx, &order)).await?.settled()
    }

    async fn hold_back(&self, meter: &Meter, until: Timestamp) -> Result<(), StoreError> {
        let order = Order::HoldBack(meter.clone(), until);
        self.writer.write(1, move |tx| meter::perform(tx, &order)).await.map(drop)
    }

    async fn meters(&self, prefix: &str, limit: usize) -> Result<Vec<Reading>, StoreError> {
        let (prefix, now) = (prefix.to_owned(), self.options.clock.now());
        self.readers.read(move |db| meter::readings(db, &prefix, limit.min(MOST_READINGS), now)).await
    }

    async fn session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError> {
        let (name, now) = (name.clone(), self.options.clock.now());
        self.readers.read(move |db| session::read(db, &name, now)).await
    }

    async fn keep_session(&self, keep: KeepSession) -> Result<bool, StoreError> {
        self.writer.write(1, move |tx| session::keep(tx, &keep)).await
    }

    async fn change_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError> {
        self.writer.write(1, move |tx| halt::change(tx, change.clone())).await
    }

    async fn halts(&self) -> Result<Vec<Halt>, StoreError> {
        self.readers.read(halt::all).await
    }

    async fn unsent(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError> {
        if self.options.doorbell.is_none() || limit == 0 {
            return Ok(Vec::new());
        }
        self.writer.write(limit.min(MOST), move |tx| outbox::unsent(tx, age, limit.min(MOST))).await
    }

    async fn sent(&self, hints: &[Hint]) -> Result<(), StoreError> {
        if hints.is_empty() {
            return Ok(());
        }
        let hints = hints.to_vec();
        self.writer.write(hints.len(), move |tx| outbox::sent(tx, &hints)).await
    }

    async fn keep_blob(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError> {
        let name = name.clone();
        self.writer.write(1, move |tx| blob::keep(tx, &name, data.as_ref())).await
    }

    async fn blobs(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let names = names.to_vec();
        self.readers.read(move |db| blob::read(db, &names).map_err(Stop::<StoreError>::from)).await
    }

    async fn condemned_blobs(&self, limit: usize) -> Result<Vec<BlobName>, StoreError> {
        self.readers.read(move |db| blob::condemned(db, limit.min(MOST)).map_err(Stop::<StoreError>::from)).await
    }

    async fn bury_blobs(&self, names: &[BlobName]) -> Result<(), StoreError> {
        let names = names.to_vec();
        self.writer.write(names.len(), move |tx| blob::bury(tx, &names).map_err(Stop::<StoreError>::from)).await
    }

    async fn restore(&self, tasks: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        let moved = intake::transcripts(tasks, &self.options.limits)?;
        if moved.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(moved.len(), move |tx| restore::restore(tx, &moved)).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = self.writer.write(1, examine::settings).await?;
        let path = self.path.clone();
        let looked = tokio::task::spawn_blocking(move || examine::file(&path)).await;
        findings.extend(looked.map_err(|error| StoreError::Unavailable(error.to_string()))?);
        Ok(findings)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.writer.write(1, catalog::check).await
    }
}

#[cfg(test)]
mod tests;
