//! Where a worker's tasks come from: the store alone, or hints of a broker.
//!
//! With a broker, a worker waits for hints, claims the tasks that they name, and
//! acknowledges them as soon as the claim is decided, whichever way. Behind
//! that, it takes what is ready from the store by itself: at the start, after
//! the broker was out of reach, after hints that came too late, and every few seconds (`worker.poll`). So a broker that
//! is emptied or lost costs latency only; while it is out of reach, the worker
//! goes by the store's own ready queue as if there were none.

use std::sync::Arc;
use std::time::Duration;

use common::broker::{Broker, Delivery, Health, Subscription};
use common::id::{QueueName, TaskId, WorkerId};
use common::store::{Claim, ClaimTasks, Store, StoreError, Take};
use tokio::time::Instant;

/// How long a worker without work waits before it looks by itself, if there is no broker.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often a worker that serves all queues asks which there are, so that it hears of new ones.
const NEW_QUEUES: Duration = Duration::from_secs(2);

/// What an intake is made of.
#[derive(Debug)]
pub struct IntakeOptions {
    /// Where tasks are.
    pub store: Arc<dyn Store>,
    /// What brings hints.
    pub broker: Option<Arc<dyn Broker>>,
    /// Who takes.
    pub worker: WorkerId,
    /// From which queues; empty for all.
    pub queues: Vec<QueueName>,
    /// For how long.
    pub lease: Duration,
    /// The most tasks at once.
    pub slots: usize,
    /// How often the store is asked although there is a broker.
    pub poll: Duration,
}

/// Takes tasks for one worker.
#[derive(Debug)]
pub struct Intake {
    store: Arc<dyn Store>,
    worker: WorkerId,
    queues: Vec<QueueName>,
    lease: Duration,
    poll: Duration,
    hints: Option<Hints>,
}

/// The hints of a broker.
#[derive(Debug)]
struct Hints {
    broker: Arc<dyn Broker>,
    subscription: Box<dyn Subscription>,
    /// Received, and not claimed yet.
    received: Vec<Delivery>,
    /// When the store is asked next, whatever the broker says.
    look: Instant,
    /// When it is asked next which queues there are.
    refresh: Instant,
    /// Whether the broker was out of reach when it was last needed.
    lost: bool,
}

impl Intake {
    /// Nothing is taken before the first tick.
    pub fn new(options: IntakeOptions) -> Self {
        let IntakeOptions { store, broker, worker, queues, lease, slots, poll } = options;
        let now = Instant::now();
        let hints = broker.map(|broker| {
            let mut subscription = broker.subscribe(slots);
            subscription.follow(&queues);
            Hints { broker, subscription, received: Vec::new(), look: now, refresh: now, lost: false }
        });
        Self { store, worker, queues, lease, poll, hints }
    }

    /// Takes up to `free` tasks; none if there is nothing to do before [`Intake::wait`] ends.
    pub async fn tick(&mut self, free: usize) -> Result<Vec<Claim>, StoreError> {
        let Some(hints) = &mut self.hints else { return self.take(free).await };
        let now = Instant::now();
        if self.queues.is_empty() && hints.refresh <= now {
            hints.refresh = now + NEW_QUEUES;
            let queues: Vec<QueueName> = self.store.queues().await?.into_iter().map(|queue| queue.name).collect();
            hints.subscription.follow(&queues);
        }
        let down = hints.is_down();
        if !hints.received.is_empty() && hints.look > now {
            return self.claim(free).await;
        }
        if !down && hints.look > now {
            return Ok(Vec::new());
        }
        hints.look = now + self.poll;
        let claims = self.take(free).await?;
        if let Some(hints) = &mut self.hints
            && claims.len() == free
        {
            // There may be more.
            hints.look = now;
        }
        Ok(claims)
    }

    /// Waits until a tick may find something. Can be dropped at any time.
    pub async fn wait(&mut self, free: usize) {
        let Some(hints) = &mut self.hints else {
            tokio::select! {
                biased;
                () = self.store.ready(&self.queues) => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            return;
        };
        if !hints.received.is_empty() {
            return;
        }
        let down = hints.is_down();
        // Whether the broker is still there is looked at more often than the store.
        let look = hints.look.min(Instant::now() + LOOK_AGAIN);
        let refresh = if self.queues.is_empty() { hints.refresh } else { look };
        tokio::select! {
            biased;
            received = hints.subscription.receive(free) => hints.received = received,
            () = self.store.ready(&self.queues), if down => {}
            () = tokio::time::sleep_until(look.min(refresh)) => {}
        }
    }

    /// Takes no more: hints that are held go back to the broker.
    pub fn end(&mut self) {
        self.hints = None;
    }

    async fn take(&self, free: usize) -> Result<Vec<Claim>, StoreError> {
        let take = Take { worker: self.worker.clone(), queues: self.queues.clone(), max: free, lease: self.lease };
        self.store.take(take).await
    }

    /// Claims the tasks of the hints that were received.
    async fn claim(&mut self, free: usize) -> Result<Vec<Claim>, StoreError> {
        let Some(hints) = &mut self.hints else { return Ok(Vec::new()) };
        let rest = hints.received.split_off(free.min(hints.received.len()));
        let deliveries = std::mem::replace(&mut hints.received, rest);
        let mut tasks: Vec<TaskId> = deliveries.iter().map(|delivery| delivery.hint.task).collect();
        let mut seen = std::collections::HashSet::with_capacity(tasks.len());
        tasks.retain(|task| seen.insert(*task));
        let claim = ClaimTasks { worker: self.worker.clone(), tasks, lease: self.lease };
        match self.store.claim(claim).await {
            Ok(claims) => {
                hints.subscription.acknowledge(deliveries);
                if claims.is_empty() {
                    // Others have done all that they name. Behind a long line of such hints, the newest tasks must not
                    // wait until it has gone by.
                    hints.look = Instant::now();
                }
                Ok(claims)
            }
            Err(error) => {
                // Another worker may have more luck with the store.
                hints.subscription.give_back(deliveries);
                Err(error)
            }
        }
    }
}

impl Hints {
    /// Whether the broker is out of reach. When it is back, the store is asked at once.
    fn is_down(&mut self) -> bool {
        let down = matches!(self.broker.health(), Health::Down(_));
        if self.lost != down {
            self.lost = down;
            self.look = Instant::now();
        }
        down
    }
}
