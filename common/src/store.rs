//! The store: where the truth lives. One trait, one module a backend.
//!
//! A store keeps tasks, journals, leases, timers and definitions, and makes
//! each operation below atomic. It decides nothing: what a transition does is
//! said by the pure functions in [`crate::task`] and [`ledger`]; a store adds
//! atomicity, order and durability. All times are by the store's own clock.
//!
//! A backend is done when the conformance suite in `tests/` passes on it.

mod blob;
pub mod book;
mod error;
mod finding;
mod halt;
pub mod intake;
pub mod ledger;
pub mod meter;
mod model;
pub mod offload;
mod options;
pub mod postgres;
pub mod redis;
pub mod session;
pub mod sqlite;
pub mod url;
pub mod witness;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use blob::{BLOB_GRACE, BlobOptions, BlobPlace};
pub use error::{AppendError, SignalError, StoreError};
pub use finding::{Finding, Severity};
pub use halt::{Halt, HaltChange, HaltState};
pub use meter::{Charge, Holder, Meter, Reading, Refusal, Reserve, Reserved, Settle, Settled, Usage, Window};
pub use model::{
    Append, Appended, BatchRow, BatchRowState, BatchStatus, Claim, ClaimTasks, Cursor, Definition, Doorbell, Due,
    Erasure, Filter, Hint, Next, OpenBatch, Page, Queue, Receipt, RejectedRow, Renew, Renewal, Signalled, Submission,
    Take, Transcript,
};
pub use offload::Offload;
pub use options::{Keep, Limits, Retention, StoreClock, StoreOptions};
pub use postgres::PostgresStore;
pub use redis::RedisStore;
pub use session::{KeepSession, KeptSession};
pub use sqlite::SqliteStore;
pub use url::open;

use crate::clock::Timestamp;
use crate::id::{BatchId, BlobName, Digest, PipelineName, QueueName, SessionName, TaskId};
use crate::journal::{Chained, Recorded, Seal};
use crate::task::{Head, Signal};

/// The operations of a store. Every write is safe to repeat.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    // ---- the protocol ---------------------------------------------------------

    /// Accepts tasks, all or none. When this answers, they are durable (I1). A
    /// submission whose idempotency key the pipeline knows already makes no
    /// task and is answered with the old one (I6), also within one call.
    /// With `supersede`, older unfinished tasks of the group are cancelled in the
    /// same step. A child of a task that is done is refused.
    async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError>;

    /// Takes up to `max` ready tasks of unpaused queues (of all, if none is named) and leases them: highest
    /// priority first, then oldest; fair among the queues named.
    async fn take(&self, request: Take) -> Result<Vec<Claim>, StoreError>;

    /// Leases those of the named tasks that are ready and whose queue is not paused.
    async fn claim(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError>;

    /// Appends to a journal under a lease (I2), and in the same step goes on,
    /// parks, releases or finishes. Signals that were kept for the holder are
    /// taken up and come back in the answer. Finishing tells the parent and
    /// cancels unfinished children, in the same step.
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// Renews all leases of a worker at once; the answers are in the same order.
    async fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError>;

    /// Sends a signal to a task: applied now, or kept for the worker that holds it.
    async fn signal(&self, task: TaskId, signal: Signal) -> Result<Signalled, SignalError>;

    /// Removes a dead letter with its journal and its idempotency key; false if
    /// there is no such task, or it is not dead (any more).
    async fn forget(&self, task: TaskId) -> Result<bool, StoreError>;

    /// Erases the data of a task that is done: in its journal stand marks with the digests of all values and words for
    /// people, and a last event says so. Its chain still verifies. What it was called (its labels and keys) stays.
    async fn erase(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError>;

    /// Moves up to `limit` tasks whose time has come: timers, expired leases,
    /// retention; and looks at as many meters and reservations. O(due), never O(tasks).
    async fn due(&self, limit: usize) -> Result<Due, StoreError>;

    /// Returns when something may be ready in one of the queues: a doorbell, not
    /// a promise. May ring for nothing; must ring within a second of work
    /// becoming ready, in whatever process that happened. Cancel-safe.
    async fn ready(&self, queues: &[QueueName]);

    // ---- reading --------------------------------------------------------------

    /// A task without its journal.
    async fn head(&self, task: TaskId) -> Result<Option<Head>, StoreError>;

    /// Up to `limit` events of a journal after number `after`; empty for an unknown task.
    async fn journal(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Recorded>, StoreError>;

    /// Up to `limit` events of a journal after number `after` as they lie in the store, each with its hash; of those
    /// that cannot be read, too. Large values stay references.
    async fn chain(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Chained>, StoreError>;

    /// The newest seal of a task's journal.
    async fn seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError>;

    /// Tasks that match, newest first, at most `limit` (up to 1,000).
    async fn list(&self, filter: Filter, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError>;

    // ---- queues ---------------------------------------------------------------

    /// Every queue that has tasks or is paused, by name.
    async fn queues(&self) -> Result<Vec<Queue>, StoreError>;

    /// Pauses or resumes a queue: tasks are accepted, none is taken.
    async fn pause(&self, queue: QueueName, paused: bool) -> Result<(), StoreError>;

    // ---- definitions ----------------------------------------------------------

    /// Keeps definitions and makes them the current ones of their names, all or none.
    async fn apply(&self, definitions: Vec<Definition>) -> Result<(), StoreError>;

    /// A definition by its digest.
    async fn definition(&self, digest: &Digest) -> Result<Option<Definition>, StoreError>;

    /// The current definition of a pipeline.
    async fn current(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError>;

    /// All current definitions, by name.
    async fn definitions(&self) -> Result<Vec<Definition>, StoreError>;

    // ---- batches --------------------------------------------------------------

    /// Opens a batch, or finds it open already.
    async fn open_batch(&self, batch: OpenBatch) -> Result<(), StoreError>;

    /// Notes rows of a batch that made no task.
    async fn reject_rows(&self, batch: &BatchId, rows: Vec<RejectedRow>) -> Result<(), StoreError>;

    /// Says that all rows of a batch have been read.
    async fn close_batch(&self, batch: &BatchId) -> Result<(), StoreError>;

    /// How far a batch is.
    async fn batch(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError>;

    /// Rows of a batch after line `after`, in order.
    async fn batch_rows(&self, batch: &BatchId, after: u64, limit: usize) -> Result<Vec<BatchRow>, StoreError>;

    // ---- schedules ------------------------------------------------------------

    /// Up to when a schedule has been served.
    async fn schedule(&self, name: &str) -> Result<Option<Timestamp>, StoreError>;

    /// Notes up to when a schedule has been served; never moves backwards.
    async fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError>;

    // ---- meters ---------------------------------------------------------------

    /// Reserves the worst case of something on all of its meters, or on none (see [`meter`]). However many callers
    /// race, what is granted stays within the limits. An id that is held or settled is granted again and charges
    /// nothing twice; held, it is held anew. Without a word until it lapses, its places are free again, and its
    /// worst case counts as used until the window turns.
    async fn reserve(&self, reserve: Reserve) -> Result<Reserved, StoreError>;

    /// Says what a reservation has really used: the rest is given back, or what was used beyond it is added, also
    /// beyond the limit. The first word counts. Nothing is found if there is no such reservation (any more): it can be
    /// settled until [`meter::LATE_SETTLEMENT`] after it has lapsed.
    async fn settle(&self, settle: Settle) -> Result<Settled, StoreError>;

    /// Nothing of a meter is granted before a time: somebody outside says so (`retry-after`). Never ends a longer one
    /// early, and counts at most [`meter::LONGEST_HOLD_BACK`] from now.
    async fn hold_back(&self, meter: &Meter, until: Timestamp) -> Result<(), StoreError>;

    /// Up to `limit` meters (at most [`meter::MOST_READINGS`]) whose names begin like this, by name.
    async fn meters(&self, prefix: &str, limit: usize) -> Result<Vec<Reading>, StoreError>;

    // ---- sessions ----------------------------------------------------------------

    /// What is kept of a session ([`session::Session`]), if its time is not over.
    async fn session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError>;

    /// Keeps a session in place of the version that is expected; false if it has another one by now.
    async fn keep_session(&self, keep: KeepSession) -> Result<bool, StoreError>;

    // ---- the emergency stop -----------------------------------------------------

    /// Begins, lifts or ends a halt: the halt as it is now, or nothing if that cannot be done to it.
    async fn change_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError>;

    /// The newest halt of the fleet and of each pipeline, in force or not: that of the fleet, then by name.
    async fn halts(&self) -> Result<Vec<Halt>, StoreError>;

    // ---- hints, where there is a broker ----------------------------------------

    /// Hints of up to `limit` ready tasks that have been kept for at least `age` without
    /// a word that the broker has them. They are not given again for another
    /// `age`, so that several relays share the work. Empty without a doorbell.
    async fn unsent(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError>;

    /// The broker has these hints: they need not be kept any more.
    async fn sent(&self, hints: &[Hint]) -> Result<(), StoreError>;

    // ---- large values ---------------------------------------------------------

    // Events refer to blobs ([`crate::journal::Reference`]). A store notes, in the step that writes
    // an event or keeps a signal, that the task uses what it refers to, and forgets that in the step
    // that removes the task. An event that refers to what is not kept is refused as
    // [`StoreError::Unavailable`]: keep the value again. What no task has used for [`BLOB_GRACE`],
    // since it was kept last or since its last user went, `due` removes: bytes that are in this
    // store at once, the others are condemned.

    /// Keeps a blob under this name, or, if the same content is kept in the same house already and
    /// is not condemned, under the name that it has: the answer. Without `data`, the bytes are kept
    /// elsewhere by the caller, once this has answered.
    async fn keep_blob(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError>;

    /// The bytes of blobs that are kept in this store, in the same order.
    async fn blobs(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Up to `limit` blobs that are to be removed from where they are kept, since no task uses them
    /// nor ever will. They are named again until they are buried.
    async fn condemned_blobs(&self, limit: usize) -> Result<Vec<BlobName>, StoreError>;

    /// Condemned blobs that are gone from where they were kept.
    async fn bury_blobs(&self, names: &[BlobName]) -> Result<(), StoreError>;

    // ---- moving ---------------------------------------------------------------

    /// Puts tasks here with the journals that they had in another store, all or
    /// none; false for those that are here already. One that was running there
    /// is released.
    async fn restore(&self, tasks: Vec<Transcript>) -> Result<Vec<bool>, StoreError>;

    // ---- health ---------------------------------------------------------------

    /// Looks at versions, settings and permissions, and says what they mean for tasks.
    async fn examine(&self) -> Result<Vec<Finding>, StoreError>;

    /// Whether the store can accept work right now: a real, small write.
    async fn check(&self) -> Result<(), StoreError>;
}
