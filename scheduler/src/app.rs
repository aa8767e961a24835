//! What the handlers and the loops of one scheduler share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::broker::Broker;
use common::clock::{Clock, Timestamp};
use common::entropy::Entropy;
use common::id::TaskId;
use common::metrics::Metrics;
use common::pipeline::model::Pipeline;
use common::store::{Receipt, Store, StoreError, Submission};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::problem::{Kind, Problem};
use crate::settings::Settings;
use crate::wire::Complaint;
use common::submission::{self, NewTask};

/// What an HTTP client may take of this process. The defaults serve a fleet;
/// tests shorten the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once; each serves one request at a time. Default 1,024.
    pub connections: usize,
    /// How long the headers of a request, or the pause before them, may take. Default 30 s.
    pub header_timeout: Duration,
    /// How long a whole body may take, and each piece of a batch. Default 30 s.
    pub body_timeout: Duration,
    /// How long an answer may wait for its reader to take the next piece. Default 30 s.
    pub write_timeout: Duration,
    /// How long a request may take in all, batches and live events aside. Default 90 s.
    pub request_timeout: Duration,
    /// Headers of a request. Default 100.
    pub headers: usize,
    /// The headers of a request, in bytes. Default 64 KiB.
    pub header_bytes: usize,
    /// What the bodies of all requests together may take in memory, in bytes. Default 256 MiB.
    pub body_memory: usize,
    /// Clients that watch live events at once. Default 256.
    pub watchers: usize,
    /// How long open requests may go on when the scheduler is asked to end. Default 10 s.
    pub drain: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(90),
            headers: 100,
            header_bytes: 64 << 10,
            body_memory: 256 << 20,
            watchers: 256,
            drain: Duration::from_secs(10),
        }
    }
}

/// What stays the same while a scheduler lives.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Option<Arc<dyn Broker>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) http: HttpLimits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) address: SocketAddr,
}

/// Everything that handlers and loops need. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct App(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    broker: Option<Arc<dyn Broker>>,
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    last_id: Mutex<Option<TaskId>>,
    http: HttpLimits,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    settings: watch::Sender<Arc<Settings>>,
    body_memory: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    closing: CancellationToken,
}

/// The unit in which memory for bodies is counted: a semaphore counts to 2^61, requests in `u32`.
const PAGE: usize = 1 << 10;
/// How long a request waits for memory.
const PATIENCE: Duration = Duration::from_secs(5);

impl App {
    pub(crate) fn new(parts: Parts, settings: Settings) -> Self {
        let Parts { store, broker, clock, entropy, http, metrics, address } = parts;
        Self(Arc::new(Shared {
            catalog: Catalog::new(Arc::clone(&store)),
            store,
            broker,
            clock,
            entropy,
            last_id: Mutex::new(None),
            http,
            metrics,
            address,
            settings: watch::Sender::new(Arc::new(settings)),
            body_memory: Arc::new(Semaphore::new((http.body_memory / PAGE).min(Semaphore::MAX_PERMITS))),
            watchers: Arc::new(Semaphore::new(http.watchers.min(Semaphore::MAX_PERMITS))),
            closing: CancellationToken::new(),
        }))
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    pub(crate) fn shared_store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0.store)
    }

    /// What carries hints, where there is something.
    pub(crate) fn broker(&self) -> Option<&dyn Broker> {
        self.0.broker.as_deref()
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    pub(crate) fn http(&self) -> &HttpLimits {
        &self.0.http
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The configuration in force now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.0.settings.borrow())
    }

    pub(crate) fn replace_settings(&self, settings: Settings) {
        self.0.settings.send_replace(Arc::new(settings));
    }

    /// Cancelled when the scheduler ends: what streams without an end must end then.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// An id for a task that is accepted now: behind all that this scheduler gave before.
    pub(crate) fn task_id(&self) -> TaskId {
        // Nothing that can panic runs under this lock.
        let mut last = self.0.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        let next = TaskId::following(*last, self.now(), self.0.entropy.bytes());
        *last = Some(next);
        next
    }

    /// Submits one task for the current definition of its pipeline.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Receipt, StoreError> {
        let mut receipts = self.store().submit(vec![submission]).await?;
        receipts.pop().ok_or_else(|| StoreError::Damaged("it answered a submission with nothing".to_owned()))
    }

    /// The submission of a new task, or what is wrong with it.
    pub(crate) fn submission(&self, pipeline: &Pipeline, new: NewTask) -> Result<Submission, Vec<Complaint>> {
        submission::submission(pipeline, new, self.task_id(), self.settings().private.as_ref())
            .map_err(|complaints| complaints.into_iter().map(Complaint::from).collect())
    }

    /// Sets memory aside for a body of so many bytes.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let pages = u32::try_from(bytes.min(self.0.http.body_memory) / PAGE).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.0.body_memory).acquire_many_owned(pages);
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::new(Kind::Unavailable, "too many bodies are being read at once")),
        }
    }

    /// A place among the clients that watch live events.
    pub(crate) fn watcher(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0.watchers)
            .try_acquire_owned()
            .map_err(|_| Problem::new(Kind::Unavailable, "too many clients watch live events at once"))
    }
}
