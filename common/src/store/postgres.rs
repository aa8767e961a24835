//! The Postgres store: SQL truth for fleets, in a schema of its own that users
//! can look into with psql.
//!
//! A few `writer`s, each with its own connection, put what their callers want
//! into `group`s: one transaction in two flushes, the first locking and loading,
//! the second writing and committing. Every decision between the two is made by
//! [`super::book`]; SQL gives atomicity, order and durability. Rare writes and
//! all reads use a small pool of `connection`s. A `bell` wakes those who wait.

mod address;
mod batch;
mod bell;
mod blob;
mod catalog;
mod columns;
mod connection;
mod due;
mod erase;
mod examine;
mod fault;
mod group;
mod halt;
mod job;
mod lease;
mod meter;
mod outbox;
mod pipeline;
mod read;
mod restore;
mod retain;
mod row;
mod schema;
mod session;
mod submit;
mod tally;
mod tls;
mod transaction;
mod turns;
mod value;
mod write;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use self::address::Address;
use self::bell::{Bell, Messenger};
use self::connection::{Connection, Loan, Pool, Purpose};
use self::fault::{Fault, Stop};
use self::job::Job;
use self::meter::Meters;
use self::tls::Connector;
use self::writer::{Tools, Writers};
use super::{
    Append, AppendError, Appended, BatchRow, BatchStatus, Claim, ClaimTasks, Cursor, Definition, Due, Erasure, Filter,
    Finding, Halt, HaltChange, Hint, KeepSession, KeptSession, Meter, OpenBatch, Page, Queue, Reading, Receipt,
    RejectedRow, Renew, Renewal, Reserve, Reserved, Settle, Settled, SignalError, Signalled, Store, StoreError,
    StoreOptions, Submission, Take, Transcript, intake,
    meter::{MOST_READINGS, teller::Teller, till::Order},
};
use crate::clock::Timestamp;
use crate::id::{BatchId, BlobName, Digest, PipelineName, QueueName, SessionName, TaskId};
use crate::journal::{Chained, Recorded, Seal};
use crate::task::{Head, Signal};

/// The most events or rows that one read answers with.
const MOST: usize = 10_000;
/// A waiting `ready` looks for itself at least this often.
const LOOK: Duration = Duration::from_millis(900);
/// How often an operation is done again because another transaction was in its way, or its connection was stale.
const TRIES: u32 = 10;

/// A store in a Postgres database.
pub struct PostgresStore {
    address: Arc<Address>,
    options: StoreOptions,
    writers: Writers,
    pool: Arc<Pool>,
    /// Charges meters.
    teller: Teller,
    bell: Arc<Bell>,
    // Ends with the store.
    _messenger: Messenger,
    /// Which queue begins at the next take.
    turn: AtomicUsize,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("schema", &self.address.schema).finish_non_exhaustive()
    }
}

/// Does something on a connection of the pool, and again if another transaction was in its way. A transaction that was
/// begun and not finished is undone; a `read` has none, and may be given up at any time.
macro_rules! with {
    ($store:expr, read $connection:ident => $work:expr) => {
        with!(@ true, $store, $connection => $work)
    };
    ($store:expr, $connection:ident => $work:expr) => {
        with!(@ false, $store, $connection => $work)
    };
    (@ $clean:literal, $store:expr, $connection:ident => $work:expr) => {{
        let mut tries = 0;
        loop {
            let loan = $store.lend().await?;
            let $connection = loan.connection().map_err(StoreError::from)?;
            loan.set_clean($clean);
            let outcome = $work.await.map_err(Stop::<StoreError>::from);
            if !$clean {
                loan.set_clean(outcome.is_ok() || $connection.batch("ROLLBACK").await.is_ok());
            }
            match outcome {
                Ok(answer) => break answer,
                Err(Stop::Fault(Fault::Conflict(_) | Fault::Lost(_))) if tries < TRIES => tries += 1,
                Err(stop) => return Err(stop.into_error().into()),
            }
            drop(loan);
            let wait = Duration::from_millis(1 << tries.min(8));
            tokio::time::sleep(wait.mul_f64($store.options.entropy.unit())).await;
        }
    }};
}

impl PostgresStore {
    /// Opens the schema that a `postgres://` URL names, makes it if there is none, and brings an older one to this
    /// version.
    ///
    /// Parameters of the URL beside those of libpq: `schema` (default `teamster`), `writers` (connections that write,
    /// 1 to 8, default 2), `ca` (a PEM file).
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL that is wrong. [`StoreError::Damaged`] if the schema belongs to another program
    /// or is of a newer version: it is left as it is. [`StoreError::Unavailable`] if the server cannot be used now.
    pub async fn open(url: &str, options: StoreOptions) -> Result<Arc<Self>, StoreError> {
        let address = Arc::new(Address::parse(url)?);
        let connector = Connector::new(&address.tls)?;
        let connection = Connection::open(&address, &connector, Purpose::General, None).await?;
        schema::migrate(&connection, &address).await.map_err(Stop::into_error)?;
        drop(connection);
        let bell = Arc::new(Bell::default());
        let tools = Tools {
            address: Arc::clone(&address),
            connector: connector.clone(),
            options: options.clone(),
            bell: Arc::clone(&bell),
        };
        let pool = Arc::new(Pool::new(Arc::clone(&address), connector.clone()));
        Ok(Arc::new(Self {
            writers: Writers::start(&tools),
            teller: Teller::start(Meters { pool: Arc::clone(&pool), options: options.clone() }),
            pool,
            _messenger: Messenger::start(&bell, Arc::clone(&address), connector),
            bell,
            address,
            options,
            turn: AtomicUsize::new(0),
        }))
    }

    async fn lend(&self) -> Result<Loan<'_>, StoreError> {
        Ok(self.pool.lend().await?)
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError> {
        let accepted = intake::submissions(submissions, &self.options.limits)?;
        let family = match accepted.as_slice() {
            [] => return Ok(Vec::new()),
            [one] => Some(one.id.shard()),
            _ => None,
        };
        self.writers.write(family, |call| Job::Submit(accepted, call)).await
    }

    async fn take(&self, request: Take) -> Result<Vec<Claim>, StoreError> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        self.writers.write(None, |call| Job::Take(request, first, call)).await
    }

    async fn claim(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError> {
        let family = request.tasks.first().map(|task| task.shard());
        self.writers.write(family, |call| Job::Claim(request, call)).await
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let encoded = intake::append(&append)?;
        self.writers.write(Some(append.task.shard()), |call| Job::Append(Box::new(append), encoded, call)).await
    }

    async fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError> {
        if renew.leases.is_empty() {
            return Ok(Vec::new());
        }
        self.writers.write(None, |call| Job::Renew(renew, call)).await
    }

    async fn signal(&self, task: TaskId, signal: Signal) -> Result<Signalled, SignalError> {
        intake::signal(&signal, &self.options.limits)?;
        self.writers.write(Some(task.shard()), |call| Job::Signal(task, signal, call)).await
    }

    async fn forget(&self, task: TaskId) -> Result<bool, StoreError> {
        let (forgotten, rings) = with!(self, connection => due::forget(connection, &self.options, task));
        self.bell.ring(rings, &self.options);
        Ok(forgotten)
    }

    async fn erase(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError> {
        let (erasure, rings) = with!(self, connection => erase::erase(connection, &self.options, task, by));
        self.bell.ring(rings, &self.options);
        erasure
    }

    async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        let (mut due, rings) = with!(self, connection => due::due(connection, &self.options, limit));
        self.bell.ring(rings, &self.options);
        let agenda = with!(self, read connection => meter::agenda(connection, &self.options, limit));
        let (lapsed, next) = meter::look_at(agenda, &self.teller).await?;
        due.lapsed = lapsed;
        due.next = [due.next, next].into_iter().flatten().min();
        Ok(due)
    }

    async fn ready(&self, queues: &[QueueName]) {
        // Listening starts before looking: what becomes ready in between is heard.
        let listener = self.bell.listen(queues);
        loop {
            let looked = async {
                let loan = self.lend().await?;
                Ok::<_, StoreError>(read::any_ready(loan.connection()?, queues).await?)
            };
            match looked.await {
                Ok(true) => return,
                Ok(false) => {}
                // Whoever takes next will be told; meanwhile nobody spins.
                Err(_) => return tokio::time::sleep(LOOK).await,
            }
            if tokio::time::timeout(LOOK, listener.rung()).await.is_ok() {
                return;
            }
        }
    }

    async fn head(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        Ok(with!(self, read connection => read::find(connection, task)))
    }

    async fn journal(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        Ok(with!(self, read connection => read::journal(connection, task, after, limit.min(MOST))))
    }

    async fn chain(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Chained>, StoreError> {
        Ok(with!(self, read connection => read::chain(connection, task, after, limit.min(MOST))))
    }

    async fn seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError> {
        Ok(with!(self, read connection => read::seal(connection, task)))
    }

    async fn list(&self, filter: Filter, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        Ok(with!(self, read connection => read::list(connection, &filter, after, limit)))
    }

    async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        Ok(with!(self, read connection => read::queues(connection)))
    }

    async fn pause(&self, queue: QueueName, paused: bool) -> Result<(), StoreError> {
        let rings = with!(self, connection => catalog::pause(connection, &queue, paused));
        self.bell.ring(rings, &self.options);
        Ok(())
    }

    async fn apply(&self, definitions: Vec<Definition>) -> Result<(), StoreError> {
        with!(self, connection => catalog::apply(connection, &definitions));
        Ok(())
    }

    async fn definition(&self, digest: &Digest) -> Result<Option<Definition>, StoreError> {
        Ok(with!(self, read connection => catalog::definition(connection, digest)))
    }

    async fn current(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError> {
        Ok(with!(self, read connection => catalog::current(connection, pipeline)))
    }

    async fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        Ok(with!(self, read connection => catalog::definitions(connection)))
    }

    async fn open_batch(&self, batch: OpenBatch) -> Result<(), StoreError> {
        with!(self, connection => batch::open(connection, &self.options, &batch));
        Ok(())
    }

    async fn reject_rows(&self, batch: &BatchId, rows: Vec<RejectedRow>) -> Result<(), StoreError> {
        with!(self, connection => batch::reject(connection, &self.options, batch, &rows));
        Ok(())
    }

    async fn close_batch(&self, batch: &BatchId) -> Result<(), StoreError> {
        with!(self, connection => batch::close(connection, &self.options, batch));
        Ok(())
    }

    async fn batch(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError> {
        Ok(with!(self, read connection => batch::status(connection, batch)))
    }

    async fn batch_rows(&self, batch: &BatchId, after: u64, limit: usize) -> Result<Vec<BatchRow>, StoreError> {
        Ok(with!(self, read connection => batch::rows(connection, batch, after, limit.min(MOST))))
    }

    async fn schedule(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(with!(self, read connection => catalog::schedule(connection, name)))
    }

    async fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        with!(self, connection => catalog::serve_schedule(connection, name, until));
        Ok(())
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
        let limit = limit.min(MOST_READINGS);
        Ok(with!(self, read connection => meter::readings(connection, &self.options, prefix, limit)))
    }

    async fn session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError> {
        Ok(with!(self, read connection => session::read(connection, &self.options, name)))
    }

    async fn keep_session(&self, keep: KeepSession) -> Result<bool, StoreError> {
        Ok(with!(self, connection => session::keep(connection, &self.options, keep.clone())))
    }

    async fn change_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError> {
        Ok(with!(self, connection => halt::change(connection, &self.options, change.clone())))
    }

    async fn halts(&self) -> Result<Vec<Halt>, StoreError> {
        Ok(with!(self, read connection => halt::all(connection)))
    }

    async fn unsent(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError> {
        if self.options.doorbell.is_none() {
            return Ok(Vec::new());
        }
        Ok(with!(self, connection => outbox::unsent(connection, &self.options, age, limit.min(MOST))))
    }

    async fn sent(&self, hints: &[Hint]) -> Result<(), StoreError> {
        if hints.is_empty() {
            return Ok(());
        }
        with!(self, connection => outbox::sent(connection, hints));
        Ok(())
    }

    async fn keep_blob(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError> {
        Ok(with!(self, connection => blob::keep(connection, &self.options, name, data.as_ref())))
    }

    async fn blobs(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError> {
        Ok(with!(self, connection => blob::read(connection, names)))
    }

    async fn condemned_blobs(&self, limit: usize) -> Result<Vec<BlobName>, StoreError> {
        Ok(with!(self, connection => blob::condemned(connection, limit.min(MOST))))
    }

    async fn bury_blobs(&self, names: &[BlobName]) -> Result<(), StoreError> {
        with!(self, connection => blob::bury(connection, names));
        Ok(())
    }

    async fn restore(&self, tasks: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        let moved = intake::transcripts(tasks, &self.options.limits)?;
        let (new, rings) = with!(self, connection => restore::restore(connection, &self.options, &moved));
        self.bell.ring(rings, &self.options);
        Ok(new)
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        Ok(with!(self, read connection => examine::examine(connection, &self.address)))
    }

    async fn check(&self) -> Result<(), StoreError> {
        with!(self, connection => catalog::check(connection, &self.options));
        Ok(())
    }
}
