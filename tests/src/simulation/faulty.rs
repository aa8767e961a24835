//! The way from a process to the store, with all that can go wrong on it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use common::clock::Timestamp;
use common::id::{BatchId, BlobName, Digest, PipelineName, QueueName, SessionName, TaskId};
use common::journal::{Chained, Recorded, Seal};
use common::store::{
    Append, AppendError, Appended, BatchRow, BatchStatus, Claim, ClaimTasks, Cursor, Definition, Doorbell, Due,
    Erasure, Filter, Finding, Halt, HaltChange, Hint, KeepSession, KeptSession, Meter, OpenBatch, Page, Queue, Reading,
    Receipt, RejectedRow, Renew, Renewal, Reserve, Reserved, Settle, Settled, SignalError, Signalled, Store,
    StoreError, Submission, Take, Transcript,
};
use common::task::{Head, Signal};

use super::process::Process;
use super::truth::Truth;
use super::weather::{Sabotage, Weather};

/// What happens to one call.
#[derive(Debug, Clone, Copy)]
enum Fault {
    CrashBefore,
    CrashAfter,
    NotReached,
    LostAnswer,
    LateAnswer(Duration),
    LateRequest(Duration),
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::CrashBefore => "fault/crash before a call",
            Self::CrashAfter => "fault/crash after a call",
            Self::NotReached => "fault/store out of reach",
            Self::LostAnswer => "fault/lost answer",
            Self::LateAnswer(_) => "fault/late answer",
            Self::LateRequest(_) => "fault/late request",
        }
    }
}

/// The store as one process reaches it.
#[derive(Debug)]
pub(super) struct Faulty {
    truth: Arc<Truth>,
    process: Arc<Process>,
    weather: Weather,
    heard: AtomicU64,
    /// What this process rings when it hears that it made tasks ready.
    bell: Option<Arc<dyn Doorbell>>,
}

impl Faulty {
    pub(super) fn new(
        truth: &Arc<Truth>,
        process: &Arc<Process>,
        weather: Weather,
        bell: Option<Arc<dyn Doorbell>>,
    ) -> Arc<Self> {
        let (truth, process) = (Arc::clone(truth), Arc::clone(process));
        Arc::new(Self { truth, process, weather, heard: AtomicU64::new(0), bell })
    }

    /// An answer has come, and with it the word that tasks are ready.
    fn ring(&self, hints: Vec<Hint>) {
        if let Some(bell) = &self.bell
            && !hints.is_empty()
        {
            bell.ring(hints);
        }
    }

    fn draw(&self) -> Option<Fault> {
        let chance = &self.process.chance;
        if self.truth.clock.elapsed() >= self.weather.clears || !chance.one_in(self.weather.one_in) {
            return None;
        }
        let half = self.weather.lease / 2;
        let late = chance.between(if chance.one_in(2) { Duration::ZERO..half } else { half..self.weather.latest() });
        let fault = match chance.below(if self.process.is_mortal() { 8 } else { 6 }) {
            0 => Fault::NotReached,
            1 | 2 => Fault::LostAnswer,
            3 => Fault::LateAnswer(late),
            4 | 5 => Fault::LateRequest(late),
            6 => Fault::CrashBefore,
            _ => Fault::CrashAfter,
        };
        self.truth.count(fault.name());
        Some(fault)
    }

    /// Makes a call, with whatever happens to it on its way.
    async fn call<T, E>(&self, work: impl FnOnce(&Truth) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let lost = |why: &str| Err(StoreError::Unavailable(why.to_owned()).into());
        self.process.still_alive().await;
        let fault = self.draw();
        pause(self.process.chance.millis(0..3)).await;
        self.process.still_alive().await;
        let work = |truth: &Truth| {
            let answer = work(truth);
            (answer, truth.made_ready())
        };
        let (answer, hints) = match fault {
            None => work(&self.truth),
            Some(Fault::CrashBefore) => return self.process.crash().await,
            Some(Fault::CrashAfter) => {
                let _ = work(&self.truth);
                return self.process.crash().await;
            }
            Some(Fault::NotReached) => return lost("it cannot be reached"),
            Some(Fault::LostAnswer) => {
                // Nor does it hear which tasks it made ready: that is left to the outbox.
                let _ = work(&self.truth);
                pause(self.process.chance.millis(0..30)).await;
                return lost("its answer was lost");
            }
            Some(Fault::LateAnswer(late)) => {
                let answer = work(&self.truth);
                pause(late).await;
                answer
            }
            Some(Fault::LateRequest(late)) => {
                // It is on its way, whatever its sender does meanwhile.
                let truth = Arc::clone(&self.truth);
                let on_its_way = tokio::spawn(async move {
                    pause(late).await;
                    work(&truth)
                });
                match on_its_way.await {
                    Ok(answer) => answer,
                    Err(_) => return lost("it was lost on its way"),
                }
            }
        };
        pause(self.process.chance.millis(0..2)).await;
        self.process.still_alive().await;
        self.ring(hints);
        answer
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// An append without the fence.
fn append_anyway(truth: &Truth, mut append: Append) -> Result<Appended, AppendError> {
    let token = append.token;
    match truth.append(append.clone(), token) {
        Err(AppendError::LeaseLost(task)) => {
            append.token = truth.lease_of(task).unwrap_or(token);
            append.expected = truth.journal(task).last().map_or(0, |last| last.seq);
            truth.append(append, token)
        }
        answer => answer,
    }
}

#[async_trait]
impl Store for Faulty {
    async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError> {
        let sabotaged = self.weather.sabotage == Sabotage::Keys;
        self.call(move |truth| truth.submit(submissions, sabotaged)).await
    }

    async fn take(&self, request: Take) -> Result<Vec<Claim>, StoreError> {
        let work = |truth: &Truth| {
            let claims = truth.ask("take", async |store| store.take(request).await)?;
            truth.took(&claims);
            Ok(claims)
        };
        self.call(work).await
    }

    async fn claim(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError> {
        let work = |truth: &Truth| {
            let claims = truth.ask("claim", async |store| store.claim(request).await)?;
            truth.took(&claims);
            Ok(claims)
        };
        self.call(work).await
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let sabotage = self.weather.sabotage;
        self.call(move |truth| {
            let token = append.token;
            if sabotage == Sabotage::Fence { append_anyway(truth, append) } else { truth.append(append, token) }
        })
        .await
    }

    async fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError> {
        self.call(|truth| truth.renew(renew)).await
    }

    async fn signal(&self, task: TaskId, signal: Signal) -> Result<Signalled, SignalError> {
        self.call(move |truth| truth.ask("signal", async |store| store.signal(task, signal).await)).await
    }

    async fn forget(&self, task: TaskId) -> Result<bool, StoreError> {
        self.call(move |truth| truth.ask("forget", async |store| store.forget(task).await)).await
    }

    async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        self.call(move |truth| truth.ask("due", async |store| store.due(limit).await)).await
    }

    /// Late, for nothing, or not heard.
    async fn ready(&self, _queues: &[QueueName]) {
        self.process.still_alive().await;
        let chance = &self.process.chance;
        if self.truth.clock.elapsed() < self.weather.clears && chance.one_in(20) {
            self.truth.count("fault/bell for nothing");
            return pause(chance.millis(0..200)).await;
        }
        self.truth.bell.rung(&self.heard).await;
        if self.truth.clock.elapsed() < self.weather.clears && chance.one_in(5) {
            self.truth.count("fault/late bell");
            pause(chance.millis(0..1_000)).await;
        }
    }

    async fn head(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        self.call(move |truth| truth.ask("head", async |store| store.head(task).await)).await
    }

    async fn journal(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        self.call(move |truth| truth.ask("journal", async |store| store.journal(task, after, limit).await)).await
    }

    async fn chain(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Chained>, StoreError> {
        self.call(move |truth| truth.ask("chain", async |store| store.chain(task, after, limit).await)).await
    }

    async fn seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError> {
        self.call(move |truth| truth.ask("seal", async |store| store.seal(task).await)).await
    }

    async fn erase(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError> {
        let by = by.to_owned();
        self.call(move |truth| truth.ask("erase", async |store| store.erase(task, &by).await)).await
    }

    async fn list(&self, filter: Filter, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.call(move |truth| truth.ask("list", async |store| store.list(filter, after, limit).await)).await
    }

    async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        self.call(|truth| truth.ask("queues", async |store| store.queues().await)).await
    }

    async fn pause(&self, queue: QueueName, paused: bool) -> Result<(), StoreError> {
        self.call(move |truth| truth.ask("pause", async |store| store.pause(queue, paused).await)).await
    }

    async fn apply(&self, definitions: Vec<Definition>) -> Result<(), StoreError> {
        self.call(|truth| truth.ask("apply", async |store| store.apply(definitions).await)).await
    }

    async fn definition(&self, digest: &Digest) -> Result<Option<Definition>, StoreError> {
        let digest = digest.clone();
        self.call(move |truth| truth.ask("definition", async |store| store.definition(&digest).await)).await
    }

    async fn current(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError> {
        let pipeline = pipeline.clone();
        self.call(move |truth| truth.ask("current", async |store| store.current(&pipeline).await)).await
    }

    async fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        self.call(|truth| truth.ask("definitions", async |store| store.definitions().await)).await
    }

    async fn open_batch(&self, batch: OpenBatch) -> Result<(), StoreError> {
        self.call(|truth| truth.ask("open_batch", async |store| store.open_batch(batch).await)).await
    }

    async fn reject_rows(&self, batch: &BatchId, rows: Vec<RejectedRow>) -> Result<(), StoreError> {
        let batch = batch.clone();
        self.call(move |truth| truth.ask("reject_rows", async |store| store.reject_rows(&batch, rows).await)).await
    }

    async fn close_batch(&self, batch: &BatchId) -> Result<(), StoreError> {
        let batch = batch.clone();
        self.call(move |truth| truth.ask("close_batch", async |store| store.close_batch(&batch).await)).await
    }

    async fn batch(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError> {
        let batch = batch.clone();
        self.call(move |truth| truth.ask("batch", async |store| store.batch(&batch).await)).await
    }

    async fn batch_rows(&self, batch: &BatchId, after: u64, limit: usize) -> Result<Vec<BatchRow>, StoreError> {
        let batch = batch.clone();
        self.call(move |truth| truth.ask("batch_rows", async |store| store.batch_rows(&batch, after, limit).await))
            .await
    }

    async fn schedule(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        let name = name.to_owned();
        self.call(move |truth| truth.ask("schedule", async |store| store.schedule(&name).await)).await
    }

    async fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.call(move |truth| truth.serve_schedule(&name, until)).await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Reserved, StoreError> {
        self.call(|truth| truth.ask("reserve", async |store| store.reserve(reserve).await)).await
    }

    async fn settle(&self, settle: Settle) -> Result<Settled, StoreError> {
        self.call(|truth| truth.ask("settle", async |store| store.settle(settle).await)).await
    }

    async fn hold_back(&self, meter: &Meter, until: Timestamp) -> Result<(), StoreError> {
        let meter = meter.clone();
        self.call(move |truth| truth.ask("hold_back", async |store| store.hold_back(&meter, until).await)).await
    }

    async fn meters(&self, prefix: &str, limit: usize) -> Result<Vec<Reading>, StoreError> {
        let prefix = prefix.to_owned();
        self.call(move |truth| truth.ask("meters", async |store| store.meters(&prefix, limit).await)).await
    }

    async fn session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError> {
        let name = name.clone();
        self.call(move |truth| truth.ask("session", async |store| store.session(&name).await)).await
    }

    async fn keep_session(&self, keep: KeepSession) -> Result<bool, StoreError> {
        self.call(|truth| truth.ask("keep_session", async |store| store.keep_session(keep).await)).await
    }

    async fn change_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError> {
        self.call(|truth| truth.ask("change_halt", async |store| store.change_halt(change).await)).await
    }

    async fn halts(&self) -> Result<Vec<Halt>, StoreError> {
        self.call(|truth| truth.ask("halts", async |store| store.halts().await)).await
    }

    async fn unsent(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError> {
        self.call(move |truth| truth.ask("unsent", async |store| store.unsent(age, limit).await)).await
    }

    async fn sent(&self, hints: &[Hint]) -> Result<(), StoreError> {
        let hints = hints.to_vec();
        self.call(move |truth| truth.ask("sent", async |store| store.sent(&hints).await)).await
    }

    async fn keep_blob(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError> {
        let name = name.clone();
        self.call(move |truth| truth.ask("keep_blob", async |store| store.keep_blob(&name, data).await)).await
    }

    async fn blobs(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let names = names.to_vec();
        self.call(move |truth| truth.ask("blobs", async |store| store.blobs(&names).await)).await
    }

    async fn condemned_blobs(&self, limit: usize) -> Result<Vec<BlobName>, StoreError> {
        self.call(move |truth| truth.ask("condemned_blobs", async |store| store.condemned_blobs(limit).await)).await
    }

    async fn bury_blobs(&self, names: &[BlobName]) -> Result<(), StoreError> {
        let names = names.to_vec();
        self.call(move |truth| truth.ask("bury_blobs", async |store| store.bury_blobs(&names).await)).await
    }

    async fn restore(&self, tasks: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        self.call(|truth| truth.ask("restore", async |store| store.restore(tasks).await)).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.call(|truth| truth.ask("examine", async |store| store.examine().await)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.call(|truth| truth.ask("check", async |store| store.check().await)).await
    }
}
