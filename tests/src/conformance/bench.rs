//! The bench on which a store is tried: the store, its clock, and short words
//! for what cases do again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::clock::{Clock, ManualClock, Timestamp};
use common::entropy::SeededEntropy;
use common::failure::{Failure, FailureClass};
use common::id::{
    AppendId, Digest, IdempotencyKey, LeaseToken, PipelineName, QueueName, StepId, StepKey, TaskId, WorkerId,
};
use common::journal::chain::{self, Verified, Witness};
use common::journal::{Event, PublicKey, Recorded, Run, StepOutcome, Submitted};
use common::store::{
    Append, AppendError, Appended, Claim, ClaimTasks, Cursor, Filter, Next, Receipt, Renew, Renewal, Store, StoreClock,
    StoreOptions, Submission, Take, Transcript,
};
use common::task::{DeadReason, Head, StateName};
use serde_json::json;

use super::Place;

/// How long the leases of the cases are.
pub const LEASE: Duration = Duration::from_secs(30);
/// One millisecond less than [`LEASE`].
pub const NEARLY_LEASE: Duration = Duration::from_millis(29_999);

/// A store under trial.
pub struct Bench {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its clock.
    pub clock: ManualClock,
    place: Place,
    options: StoreOptions,
    count: AtomicU64,
}

/// A task that a case holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// Its token.
    pub token: LeaseToken,
    /// The number of the newest event that was seen.
    pub version: u64,
}

impl From<&Claim> for Held {
    fn from(claim: &Claim) -> Self {
        Self { task: claim.task, token: claim.token, version: claim.journal.last().map_or(0, |last| last.seq) }
    }
}

impl Bench {
    /// A store with default options.
    pub async fn open(place: Place) -> Result<Self> {
        Self::tuned(place, |_| {}).await
    }

    /// A store with other options.
    pub async fn tuned(place: Place, tune: impl FnOnce(&mut StoreOptions)) -> Result<Self> {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let mut options = StoreOptions::new(Arc::new(SeededEntropy::new(1)));
        options.clock = StoreClock::Given(Arc::new(clock.clone()));
        tune(&mut options);
        let store = place.open(options.clone()).await?;
        Ok(Self { store, clock, place, options, count: AtomicU64::new(1) })
    }

    /// Another store on the same data, as of another process.
    pub async fn another(&self) -> Result<Arc<dyn Store>> {
        let mut options = self.options.clone();
        options.entropy = Arc::new(SeededEntropy::new(1 + self.number()));
        Ok(self.place.open(options).await?)
    }

    /// The same, opened with other options.
    pub async fn another_with(&self, tune: impl FnOnce(&mut StoreOptions)) -> Result<Arc<dyn Store>> {
        let mut options = self.options.clone();
        options.entropy = Arc::new(SeededEntropy::new(1 + self.number()));
        tune(&mut options);
        Ok(self.place.open(options).await?)
    }

    /// Ends the process that holds the store, in good order, and starts another.
    pub async fn restart(self) -> Result<Self> {
        let Self { store, clock, place, options, count } = self;
        drop(store);
        let store = place.open(options.clone()).await?;
        Ok(Self { store, clock, place, options, count })
    }

    fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// An id that no task has; later ones are greater.
    pub fn id(&self) -> TaskId {
        // The last 12 bits are the shard: the number stands above it, and the shards are spread.
        let number = self.number();
        let shard = number.wrapping_mul(1_103) & 0xFFF;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&(number << 12 | shard).to_be_bytes());
        TaskId::new(self.now(), random)
    }

    /// An append id that was not used yet.
    pub fn append_id(&self) -> AppendId {
        let mut random = [0; 16];
        random[..8].copy_from_slice(&self.number().to_be_bytes());
        AppendId::new(random)
    }

    /// A task for pipeline `p` and queue `q`.
    pub fn task(&self) -> Submission {
        Submission::new(self.id(), submitted())
    }

    /// A task that differs from the usual one.
    pub fn task_with(&self, change: impl FnOnce(&mut Submitted)) -> Submission {
        let (id, mut task) = self.task().into_parts();
        change(&mut task);
        Submission::new(id, task)
    }

    /// Submits one task.
    pub async fn submit(&self, submission: Submission) -> Result<Receipt> {
        let receipts = self.store.submit(vec![submission]).await?;
        receipts.into_iter().next().context("an answer for each submission")
    }

    /// Submits the usual task.
    pub async fn submitted(&self) -> Result<TaskId> {
        Ok(self.submit(self.task()).await?.id)
    }

    /// A request to take from queue `q`.
    pub fn request(&self, max: usize) -> Take {
        Take { worker: worker("w"), queues: vec![queue("q")], max, lease: LEASE }
    }

    /// Takes from queue `q`.
    pub async fn take(&self, max: usize) -> Result<Vec<Claim>> {
        Ok(self.store.take(self.request(max)).await?)
    }

    /// Takes the next task of queue `q`.
    pub async fn take_one(&self) -> Result<Held> {
        Ok(Held::from(self.take(1).await?.first().context("a task is ready")?))
    }

    /// Submits the usual task and takes it.
    pub async fn taken(&self) -> Result<Held> {
        let id = self.submitted().await?;
        self.claimed(id).await
    }

    /// Leases a named task.
    pub async fn claimed(&self, id: TaskId) -> Result<Held> {
        let request = ClaimTasks { worker: worker("w"), tasks: vec![id], lease: LEASE };
        let claims = self.store.claim(request).await?;
        Ok(Held::from(claims.first().context("the task is ready")?))
    }

    /// An append by the holder of a task.
    pub fn request_append(&self, held: &Held, events: Vec<Event>, next: Next) -> Append {
        let Held { task, token, version } = *held;
        Append { task, token, id: self.append_id(), expected: version, events, next }
    }

    /// Appends, and follows what comes back.
    pub async fn append(&self, held: &mut Held, events: Vec<Event>, next: Next) -> Result<Appended, AppendError> {
        let appended = self.store.append(self.request_append(held, events, next)).await?;
        if let Some(last) = appended.recorded.last() {
            held.version = last.seq;
        }
        Ok(appended)
    }

    /// Finishes a task.
    pub async fn succeed(&self, held: &mut Held) -> Result<()> {
        self.append(held, Vec::new(), Next::Succeed { output: json!("done") }).await?;
        Ok(())
    }

    /// Makes a dead letter of a task.
    pub async fn die(&self, held: &mut Held) -> Result<()> {
        self.append(held, Vec::new(), die()).await?;
        Ok(())
    }

    /// Renews one lease.
    pub async fn renew(&self, held: &Held) -> Result<Renewal> {
        let renew = Renew { leases: vec![(held.task, held.token)], lease: LEASE };
        self.store.renew(renew).await?.first().copied().context("an answer for each lease")
    }

    /// The state of a task.
    pub async fn state(&self, task: TaskId) -> Result<StateName> {
        Ok(self.head(task).await?.state.name())
    }

    /// The head of a task that is there.
    pub async fn head(&self, task: TaskId) -> Result<Head> {
        self.store.head(task).await?.with_context(|| format!("task {task} is there"))
    }

    /// The whole journal of a task.
    pub async fn journal(&self, task: TaskId) -> Result<Vec<Recorded>> {
        Ok(self.store.journal(task, 0, 10_000).await?)
    }

    /// A task with its journal and its hashes.
    pub async fn transcript(&self, task: TaskId) -> Result<Transcript> {
        let hashes = self.store.chain(task, 0, 10_000).await?.into_iter().map(|chained| chained.hash).collect();
        Ok(Transcript { id: task, journal: self.journal(task).await?, hashes, seal: self.store.seal(task).await? })
    }

    /// What the chain of a task's journal says, with these keys.
    pub async fn verified(&self, task: TaskId, keys: &[PublicKey]) -> Result<Verified> {
        let seal = self.store.seal(task).await?;
        let journal = self.store.chain(task, 0, 10_000).await?;
        let version = self.head(task).await?.version;
        Ok(chain::verify(&Witness { task, version, seal, keys }, &journal))
    }

    /// The kinds of all events of a task.
    pub async fn kinds(&self, task: TaskId) -> Result<Vec<&'static str>> {
        Ok(self.journal(task).await?.iter().map(|recorded| recorded.event.kind()).collect())
    }

    /// All tasks that match.
    pub async fn all(&self, filter: Filter) -> Result<Vec<Head>> {
        let mut tasks = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = self.store.list(filter.clone(), after, 1_000).await?;
            tasks.extend(page.tasks);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(tasks),
            }
        }
    }

    /// Every head is the fold of its journal, and every figure is what counting gives.
    pub async fn verify(&self) -> Result<()> {
        let mut depth: BTreeMap<(QueueName, StateName), u64> = BTreeMap::new();
        for head in self.all(Filter::default()).await? {
            self.verify_task(&head).await?;
            *depth.entry((head.queue.clone(), head.state.name())).or_default() += 1;
        }
        depth.retain(|(_, state), _| !matches!(state, StateName::Succeeded | StateName::Cancelled));
        let mut told = BTreeMap::new();
        for queue in self.store.queues().await? {
            for (state, count) in queue.depth.into_iter().filter(|(_, count)| *count > 0) {
                told.insert((queue.name.clone(), state), count);
            }
        }
        ensure!(told == depth, "the queues say {told:?}, counting says {depth:?}");
        Ok(())
    }

    /// A head is the fold of its journal, and the journal is what was written.
    pub async fn verify_task(&self, head: &Head) -> Result<()> {
        let journal = self.journal(head.id).await?;
        let folded = Head::fold(head.id, &journal)?;
        ensure!(*head == folded, "the head {head:#?} is not the fold {folded:#?}");
        let run = Run::fold(head.id, &journal)?;
        ensure!(run.head == folded, "the run folds to another head");
        let verified = self.verified(head.id, &[]).await?;
        ensure!(verified.faults.is_empty() && verified.starts == Some(1), "the chain of {}: {verified:?}", head.id);
        Ok(())
    }
}

/// What is submitted for pipeline `p` and queue `q`, with nothing particular.
pub fn submitted() -> Submitted {
    Submitted {
        pipeline: pipeline("p"),
        digest: Digest::of(b"p"),
        queue: queue("q"),
        priority: 4,
        input: json!({"n": 1}),
        run_at: None,
        labels: BTreeMap::new(),
        key: None,
        parent: None,
        batch: None,
        line: None,
        supersede: None,
        traceparent: None,
        allowances: Vec::new(),
        sealed: common::journal::SealedValues::default(),
    }
}

/// A pipeline's name.
pub fn pipeline(name: &str) -> PipelineName {
    valid(PipelineName::new(name))
}

/// A queue's name.
pub fn queue(name: &str) -> QueueName {
    valid(QueueName::new(name))
}

/// A worker's id.
pub fn worker(name: &str) -> WorkerId {
    valid(WorkerId::new(name))
}

/// An idempotency key.
pub fn key(text: &str) -> IdempotencyKey {
    valid(IdempotencyKey::new(text))
}

/// A step's key.
pub fn step(name: &str) -> StepKey {
    StepKey::of(valid(StepId::new(name)))
}

/// A name that a case wrote down is valid.
///
/// # Panics
/// If it is not: a mistake in the case.
#[expect(clippy::panic, reason = "a case with an invalid name is a mistake in the case")]
pub fn valid<T, E: std::fmt::Display>(name: Result<T, E>) -> T {
    name.unwrap_or_else(|error| panic!("{error}"))
}

/// A step that went well.
pub fn finished(name: &str) -> Event {
    Event::StepFinished { step: step(name), outcome: StepOutcome::Succeeded { output: json!({"of": name}) } }
}

/// The end of a task that failed.
pub fn die() -> Next {
    let error = Failure::new(FailureClass::Tool, "it broke");
    Next::Die { reason: DeadReason::Failed, error, step: Some(step("s")) }
}
