//! The Redis store: for fleets. One server, a master under sentinels, or a cluster.
//!
//! A task is a list: its record, then its journal. The record is the little that
//! scripts must know; everything else is the fold of the journal. Decisions are
//! made by the pure rules of `book`; a script checks that nothing has changed
//! since they were made, and writes: one script a state change, in one round trip,
//! because a process knows the tasks that it holds. What many callers want
//! written at the same time goes in one call (`group`).
//!
//! Tasks are spread over partitions by their shard, and all keys of an operation
//! lie in one partition, so that a cluster can serve each from another node
//! (`keys`). What spans partitions (the order of a queue, its depth, a batch, a
//! supersede group) is put together when it is asked for.
//!
//! Leases are judged by the server's clock, inside the scripts. Nothing blocks on
//! the server's side; waiting for work is a subscription with polling behind it.
//!
//! Memory, measured on Redis 7.0 over 20,000 tasks with inputs of 300 bytes, all
//! indexes included: 1,100 bytes for a ready task, 1,360 for one that waits in its
//! first step, 1,290 for one that finished after one step; a row of a batch is 470
//! more. Processor time of the server: 10 µs for a submit in batches,
//! 28 µs to take and finish a task, 10 µs for an append of 1 KiB.
//!
//! It needs a Redis from 7.0 with an append-only file and without eviction:
//! `examine` says what the settings of a server can lose.

mod address;
mod append;
mod batch;
mod bell;
mod blob;
mod catalog;
mod change;
mod clock;
mod connection;
mod depth;
mod desk;
mod due;
mod examine;
mod group;
mod halt;
mod hint;
mod keys;
mod meta;
mod meter;
mod read;
mod record;
mod reply;
mod restore;
mod retention;
mod scripts;
mod session;
mod stored;
mod submit;
mod supersede;
mod take;
mod trim;
mod unit;

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use tokio::sync::Semaphore;

use self::address::Address;
use self::bell::Bell;
use self::clock::ServerClock;
use self::connection::Link;
use self::depth::Depths;
use self::group::Groups;
use self::keys::Keys;
use self::meter::Meters;
use self::stored::Stored;
use super::{
    Append, AppendError, Appended, BatchRow, BatchStatus, Claim, ClaimTasks, Cursor, Definition, Due, Erasure, Filter,
    Finding, Halt, HaltChange, Hint, KeepSession, KeptSession, Meter, OpenBatch, Page, Queue, Reading, Receipt,
    RejectedRow, Renew, Renewal, Reserve, Reserved, Settle, Settled, SignalError, Signalled, Store, StoreError,
    StoreOptions, Submission, Take, Transcript, intake,
    meter::{teller::Teller, till::Order},
};
use crate::clock::Timestamp;
use crate::id::{BatchId, BlobName, Digest, PipelineName, QueueName, SessionName, TaskId};
use crate::journal::{Chained, Recorded, Seal};
use crate::task::{Head, Signal};

/// The most events that one read answers with.
const MOST: usize = 10_000;
/// Tasks that a process keeps in mind, of those that it holds.
const HELD: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

/// A store in a Redis. See the module.
#[derive(Debug)]
pub struct RedisStore {
    link: Arc<Link>,
    keys: Keys,
    clock: Arc<ServerClock>,
    groups: Groups,
    /// Charges meters.
    teller: Teller,
    /// The tasks that this process holds, as they were when it last wrote them.
    held: Mutex<LruCache<TaskId, Stored>>,
    options: StoreOptions,
    bell: Bell,
    depths: Depths,
    /// Which queue begins at the next take.
    turn: AtomicUsize,
    /// Whose turn it is to remove what retention does not keep.
    trimming: Semaphore,
}

impl RedisStore {
    /// Connects, and sets a new place up. For the forms of the URL see [`super::open`].
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL or a server that cannot be used, [`StoreError::Damaged`] for a place of
    /// another version, [`StoreError::Unavailable`] if the server cannot be reached now.
    pub async fn open(url: &str, options: StoreOptions) -> Result<Arc<Self>, StoreError> {
        let address =
            Address::parse(url).map_err(|why| StoreError::Refused(format!("{why} (see redis://HOST[:PORT][/DB])")))?;
        let prefix = address.prefix.clone();
        let link = Arc::new(Link::new(address)?);
        let clock = Arc::new(ServerClock::new(options.clock.clone()));
        let partitions = meta::settle(&link, &clock).await?;
        let keys = Keys::new(&prefix, partitions);
        let all = (0..keys.count()).map(|number| keys.partition(number).to_vec()).collect();
        let groups = Groups::start(all, &keys.channel(), &link, &clock);
        let meters = Meters {
            link: Arc::clone(&link),
            clock: Arc::clone(&clock),
            partition: keys.partition(0).to_vec(),
            entropy: Arc::clone(&options.entropy),
        };
        Ok(Arc::new(Self {
            teller: Teller::start(meters),
            link,
            keys,
            clock,
            groups,
            held: Mutex::new(LruCache::new(HELD)),
            options,
            bell: Bell::new(),
            depths: Depths::default(),
            turn: AtomicUsize::new(0),
            trimming: Semaphore::new(1),
        }))
    }

    /// The tasks that this process holds. Not to be kept over an await.
    fn cache(&self) -> MutexGuard<'_, LruCache<TaskId, Stored>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError> {
        self.accept(submissions).await
    }

    async fn take(&self, request: Take) -> Result<Vec<Claim>, StoreError> {
        self.take_ready(request).await
    }

    async fn claim(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError> {
        self.claim_named(request).await
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let encoded = intake::append(&append)?;
        self.apply_append(&append, &encoded).await
    }

    async fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError> {
        self.renew_leases(&renew).await
    }

    async fn signal(&self, task: TaskId, signal: Signal) -> Result<Signalled, SignalError> {
        intake::signal(&signal, &self.options.limits)?;
        self.apply_signal(task, &signal).await
    }

    async fn forget(&self, task: TaskId) -> Result<bool, StoreError> {
        self.forget_dead(task).await
    }

    async fn erase(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError> {
        self.erase_data(task, by).await
    }

    async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        self.sweep(limit).await
    }

    async fn ready(&self, queues: &[QueueName]) {
        self.wait_until_ready(queues).await;
    }

    async fn head(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        self.head_of(task).await
    }

    async fn journal(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        self.events(task, after.saturating_add(1), limit.min(MOST)).await
    }

    async fn chain(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Chained>, StoreError> {
        self.chained(task, after.saturating_add(1), limit.min(MOST)).await
    }

    async fn seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError> {
        self.newest_seal(task).await
    }

    async fn list(&self, filter: Filter, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.list_tasks(&filter, after, limit).await
    }

    async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        self.all_queues().await
    }

    async fn pause(&self, queue: QueueName, paused: bool) -> Result<(), StoreError> {
        self.set_paused(&queue, paused).await
    }

    async fn apply(&self, definitions: Vec<Definition>) -> Result<(), StoreError> {
        self.apply_definitions(&definitions).await
    }

    async fn definition(&self, digest: &Digest) -> Result<Option<Definition>, StoreError> {
        self.definition_of(digest).await
    }

    async fn current(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError> {
        self.current_of(pipeline).await
    }

    async fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        self.all_definitions().await
    }

    async fn open_batch(&self, batch: OpenBatch) -> Result<(), StoreError> {
        self.open_a_batch(&batch).await
    }

    async fn reject_rows(&self, batch: &BatchId, rows: Vec<RejectedRow>) -> Result<(), StoreError> {
        self.reject(batch, &rows).await
    }

    async fn close_batch(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.close_a_batch(batch).await
    }

    async fn batch(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError> {
        self.batch_status(batch).await
    }

    async fn batch_rows(&self, batch: &BatchId, after: u64, limit: usize) -> Result<Vec<BatchRow>, StoreError> {
        self.rows_of_batch(batch, after, limit).await
    }

    async fn schedule(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        self.served(name).await
    }

    async fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        self.note_served(name, until).await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Reserved, StoreError> {
        reserve.check()?;
        self.teller.order(Order::Reserve(reserve)).await?.reserved()
    }

    async fn settle(&self, settle: Settle) -> Result<Settled, StoreError> {
        settle.check()?;
        self.teller.order(Order::Settle(settle)).await?.settled()
    }

    async fn hold_back(&self, meter: &Meter, until: Timestamp) -> Result<(), StoreError> {
        self.teller.order(Order::HoldBack(meter.clone(), until)).await.map(drop)
    }

    async fn meters(&self, prefix: &str, limit: usize) -> Result<Vec<Reading>, StoreError> {
        self.readings(prefix, limit).await
    }

    async fn session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError> {
        self.kept_session(name).await
    }

    async fn keep_session(&self, keep: KeepSession) -> Result<bool, StoreError> {
        self.replace_session(keep).await
    }

    async fn change_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError> {
        self.alter_halt(change).await
    }

    async fn halts(&self) -> Result<Vec<Halt>, StoreError> {
        self.all_halts().await
    }

    async fn unsent(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError> {
        self.unsent_hints(age, limit).await
    }

    async fn sent(&self, hints: &[Hint]) -> Result<(), StoreError> {
        self.forget_hints(hints).await
    }

    async fn keep_blob(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError> {
        self.keep_bytes(name, data).await
    }

    async fn blobs(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.bytes_of(names).await
    }

    async fn condemned_blobs(&self, limit: usize) -> Result<Vec<BlobName>, StoreError> {
        self.condemned(limit).await
    }

    async fn bury_blobs(&self, names: &[BlobName]) -> Result<(), StoreError> {
        self.bury(names).await
    }

    async fn restore(&self, tasks: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        self.restore_tasks(tasks).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.examine_server().await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.check_writes().await
    }
}
