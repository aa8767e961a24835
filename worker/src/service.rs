//! The worker process: takes tasks as slots come free, keeps their leases, and
//! drains when it is told to end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::broker::{Broker, Health};
use common::clock::Clock;
use common::config::Config;
use common::entropy::Entropy;
use common::failure::Failure;
use common::id::WorkerId;
use common::metrics::Metrics;
use common::shutdown::Shutdown;
use common::store::{Claim, Store, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::batching::{Batching, Inbox, Surroundings};
use crate::definitions::Definitions;
use crate::execute::Executor;
use crate::fault::{Fault, InvalidPoint};
use crate::halt::Halts;
use crate::intake::{Intake, IntakeOptions};
use crate::lease::{Leases, RENEWALS_PER_LEASE};
use crate::outside::Outside;
use crate::quota::Quotas;

/// The longest wait between two tries of a take that failed.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Where tasks come from.
    pub store: Arc<dyn Store>,
    /// What wakes the worker up; without it, the store does.
    pub broker: Option<Arc<dyn Broker>>,
    /// What the operator says.
    pub config: Arc<Config>,
    /// What templates see as `env`.
    pub env: BTreeMap<String, String>,
    /// The directory of `teamster.yaml`.
    pub dir: PathBuf,
    /// Who this is.
    pub id: WorkerId,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The configuration names what is not there.
    #[error("the worker cannot start: {0}")]
    Configuration(#[from] Failure),
    /// The environment asks for a fault that there is not.
    #[error(transparent)]
    Fault(#[from] InvalidPoint),
    /// There is no place for the working directories of tasks.
    #[error("the directory {path} for working directories cannot be made: {source} (worker.workspaces)")]
    Workspaces {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    id: WorkerId,
    store: Arc<dyn Store>,
    executor: Arc<Executor>,
    leases: Arc<Leases>,
    intake: Intake,
    slots: Arc<Semaphore>,
    slot_count: usize,
    lease: Duration,
    status: Arc<Status>,
    /// Requests that come to wait for others.
    inbox: Option<Inbox>,
}

/// What the health endpoint wants to know.
#[derive(Debug)]
pub struct Status {
    /// Why no tasks can be taken, as far as the last try has shown.
    trouble: Mutex<Option<String>>,
    broker: Option<Arc<dyn Broker>>,
    metrics: Arc<Metrics>,
    slots: Arc<Semaphore>,
    slot_count: usize,
}

impl Status {
    fn new(broker: Option<Arc<dyn Broker>>, metrics: Arc<Metrics>, slots: Arc<Semaphore>, slot_count: usize) -> Self {
        let trouble = Mutex::new(Some("the store was not asked yet".to_owned()));
        Self { trouble, broker, metrics, slots, slot_count }
    }

    /// The metrics of the process, with those of the slots as they are now.
    pub fn metrics(&self) -> &Metrics {
        self.metrics.slots(self.slot_count.saturating_sub(self.slots.available_permits()), self.slot_count);
        &self.metrics
    }

    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why no tasks can be taken from the store, as far as the last try has shown.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What makes tasks start later than they could: the broker is out of reach, or does not deliver.
    pub fn degraded(&self) -> Option<String> {
        match self.broker.as_ref()?.health() {
            Health::Up => None,
            Health::Down(why) => Some(why),
        }
    }
}

impl Worker {
    /// Prepares a worker; nothing is taken before [`Worker::run`].
    pub fn build(options: WorkerOptions) -> Result<Self, WorkerError> {
        let outside = Outside::from_config(&options.config)?.observed_by(&options.metrics);
        Self::with_outside(options, Arc::new(outside))
    }

    /// The same with an outside world that is there already, or has more in it than the configuration says.
    pub fn with_outside(options: WorkerOptions, outside: Arc<Outside>) -> Result<Self, WorkerError> {
        let WorkerOptions { store, broker, config, env, dir, id, clock, entropy, metrics } = options;
        let settings = config.worker.clone();
        let workspaces = dir.join(settings.workspaces.clone().unwrap_or_else(|| ".teamster/workspaces".into()));
        let workspaces = std::path::absolute(&workspaces)
            .and_then(|path| std::fs::create_dir_all(&path).map(|()| path))
            .map_err(|source| WorkerError::Workspaces { path: workspaces, source })?;
        let (quotas, halts) = (Arc::new(Quotas::from_config(&config)?), Arc::new(Halts::default()));
        let fault = Arc::new(Fault::from_env()?);
        let (batching, inbox) = Batching::new(Surroundings {
            store: Arc::clone(&store),
            outside: Arc::clone(&outside),
            quotas: Arc::clone(&quotas),
            halts: Arc::clone(&halts),
            fault: Arc::clone(&fault),
            clock: Arc::clone(&clock),
            worker: id.clone(),
            lease: settings.lease.get(),
        });
        let executor = Executor {
            store: Arc::clone(&store),
            env,
            definitions: Definitions::new(Arc::clone(&store)),
            outside,
            config,
            clock,
            entropy,
            workspaces,
            project: std::path::absolute(&dir).unwrap_or(dir),
            fault,
            halts,
            quotas,
            metrics: Arc::clone(&metrics),
            batching,
        };
        let slot_count = settings.slots.max(1);
        let slots = Arc::new(Semaphore::new(slot_count));
        let intake = Intake::new(IntakeOptions {
            store: Arc::clone(&store),
            broker: broker.clone(),
            worker: id.clone(),
            queues: settings.queues,
            lease: settings.lease.get(),
            slots: slot_count,
            poll: settings.poll.get(),
        });
        Ok(Self {
            id,
            store,
            executor: Arc::new(executor),
            leases: Arc::new(Leases::new(settings.lease.get())),
            intake,
            slots: Arc::clone(&slots),
            slot_count,
            lease: settings.lease.get(),
            status: Arc::new(Status::new(broker, metrics, slots, slot_count)),
            inbox: Some(inbox),
        })
    }

    /// What the health endpoint wants to know.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Works until the shutdown is asked for, then hands over what it holds.
    pub async fn run(mut self, shutdown: Shutdown) {
        tracing::info!(worker = %self.id, slots = self.slot_count, "takes tasks");
        // Should this future be dropped, nothing goes on without it.
        let renewing =
            AbortOnDropHandle::new(tokio::spawn(renew(Arc::clone(&self.leases), Arc::clone(&self.store), self.lease)));
        let (halts, store) = (Arc::clone(&self.executor.halts), Arc::clone(&self.store));
        let watching = AbortOnDropHandle::new(tokio::spawn(async move { halts.watch(&*store).await }));
        let batching = self.inbox.take().map(|inbox| {
            let (executor, shutdown) = (Arc::clone(&self.executor), shutdown.clone());
            AbortOnDropHandle::new(tokio::spawn(async move { executor.batching.run(inbox, &shutdown).await }))
        });
        let mut running = JoinSet::new();
        self.take_until_drained(&shutdown, &mut running).await;
        self.intake.end();
        tracing::info!(worker = %self.id, held = self.leases.len(), "drains");
        // Each execution ends by itself: at its next checkpoint, or when the drain has lasted too long.
        while running.join_next().await.is_some() {}
        drop(renewing);
        drop(watching);
        drop(batching);
        self.executor.outside.tools.shutdown().await;
        tracing::info!(worker = %self.id, "has ended");
    }

    async fn take_until_drained(&mut self, shutdown: &Shutdown, running: &mut JoinSet<()>) {
        let mut trouble = Duration::ZERO;
        while !shutdown.is_draining() {
            while running.try_join_next().is_some() {}
            tokio::select! {
                biased;
                () = self.executor.halts.until_lifted() => {}
                () = shutdown.draining() => return,
            }
            let Some(permits) = self.free_slots(shutdown).await else { return };
            let free = permits.len();
            match self.tick(permits, shutdown, running).await {
                Ok(taken) => {
                    trouble = Duration::ZERO;
                    self.status.note(None);
                    if taken == 0 {
                        tokio::select! {
                            biased;
                            () = self.intake.wait(free) => {}
                            () = shutdown.draining() => {}
                        }
                    }
                }
                Err(error) => {
                    self.status.note(Some(error.to_string()));
                    tracing::warn!(%error, "no tasks can be taken; trying again");
                    trouble = (trouble * 2).clamp(Duration::from_millis(50), LONGEST_WAIT);
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(trouble) => {}
                        () = shutdown.draining() => {}
                    }
                }
            }
        }
    }

    /// Waits for a free slot, and gives all that are free; none when it is time to end.
    async fn free_slots(&self, shutdown: &Shutdown) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            biased;
            permit = Arc::clone(&self.slots).acquire_owned() => permit.ok()?,
            () = shutdown.draining() => return None,
        };
        let others = std::iter::from_fn(|| Arc::clone(&self.slots).try_acquire_owned().ok());
        Some(std::iter::once(first).chain(others).collect())
    }

    /// Takes tasks into free slots, and starts them.
    async fn tick(
        &mut self,
        permits: Vec<OwnedSemaphorePermit>,
        shutdown: &Shutdown,
        running: &mut JoinSet<()>,
    ) -> Result<usize, StoreError> {
        let halts = &self.executor.halts;
        if !halts.are_known() {
            halts.look(&*self.store).await?;
        }
        if halts.cover_all() {
            return Ok(0);
        }
        let asked = Instant::now();
        let claims = self.intake.tick(permits.len()).await?;
        let taken = claims.len();
        for (claim, permit) in claims.into_iter().zip(permits) {
            running.spawn(self.hold(claim, asked, permit, shutdown.clone()));
        }
        Ok(taken)
    }

    /// Works on one task in its slot.
    fn hold(
        &self,
        claim: Claim,
        asked: Instant,
        permit: OwnedSemaphorePermit,
        shutdown: Shutdown,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (executor, leases) = (Arc::clone(&self.executor), Arc::clone(&self.leases));
        let (task, token) = (claim.task, claim.token);
        let hold = leases.add(task, token, asked);
        async move {
            executor.execute(claim, &hold, &shutdown).await;
            leases.remove(task, token);
            drop(permit);
        }
    }
}

async fn renew(leases: Arc<Leases>, store: Arc<dyn Store>, lease: Duration) {
    let mut ticks = tokio::time::interval(lease / RENEWALS_PER_LEASE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let renewing = async {
        loop {
            ticks.tick().await;
            let lost = leases.tick(&*store).await;
            if lost > 0 {
                tracing::warn!(lost, "leases were lost");
            }
        }
    };
    // A renewal that hangs keeps nobody from seeing that a lease may be over.
    let ((), ()) = tokio::join!(renewing, leases.watch());
}
