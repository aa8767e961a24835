//! A store around a store that measures its operations.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::Metrics;
use crate::clock::Timestamp;
use crate::id::{BatchId, BlobName, Digest, PipelineName, QueueName, SessionName, TaskId};
use crate::journal::{Chained, Event, Recorded, Seal};
use crate::store::{
    Append, AppendError, Appended, BatchRow, BatchStatus, Claim, ClaimTasks, Cursor, Definition, Due, Erasure, Filter,
    Finding, Halt, HaltChange, Hint, KeepSession, KeptSession, Meter, OpenBatch, Page, Queue, Reading, Receipt,
    RejectedRow, Renew, Renewal, Reserve, Reserved, Settle, Settled, SignalError, Signalled, Store, StoreError,
    Submission, Take, Transcript,
};
use crate::task::{Head, Signal};

/// See the module.
#[derive(Debug)]
pub struct Observed {
    inner: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

/// An error of the store, as far as it is the store's and not the caller's.
trait Blame {
    fn kind(&self) -> Option<&'static str>;
}

impl Blame for StoreError {
    fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unavailable(_) => "unavailable",
            Self::Damaged(_) => "damaged",
            Self::Refused(_) => "refused",
        })
    }
}

impl Blame for AppendError {
    fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => error.kind(),
            _ => None,
        }
    }
}

impl Blame for SignalError {
    fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => error.kind(),
            _ => None,
        }
    }
}

impl Observed {
    /// Measures what is asked of a store.
    pub fn around(inner: Arc<dyn Store>, metrics: Arc<Metrics>) -> Arc<dyn Store> {
        Arc::new(Self { inner, metrics })
    }

    async fn timed<T, E: Blame>(
        &self,
        operation: &'static str,
        asked: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = Instant::now();
        let answer = asked.await;
        self.metrics.store_operation.observe([operation], started.elapsed());
        if let Err(error) = &answer
            && let Some(kind) = error.kind()
        {
            self.metrics.store_errors.add([operation, kind], 1);
        }
        answer
    }

    /// How long taken tasks were ready: since the event before that of the lease.
    fn taken(&self, claims: &[Claim]) {
        for claim in claims {
            if let Some(Recorded { event: Event::Submitted(task), .. }) = claim.journal.first()
                && let [.., ready, leased] = claim.journal.as_slice()
            {
                let queue = self.metrics.queues.admit(task.queue.as_str());
                self.metrics.queue_wait.observe([&queue], leased.at.since(ready.at));
            }
        }
    }
}

#[async_trait]
impl Store for Observed {
    async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError> {
        let pipelines: Vec<PipelineName> = submissions.iter().map(|new| new.task().pipeline.clone()).collect();
        let receipts = self.timed("submit", self.inner.submit(submissions)).await?;
        for (pipeline, receipt) in pipelines.iter().zip(&receipts) {
            if receipt.created {
                self.metrics.tasks_submitted.add([pipeline.as_str()], 1);
            }
        }
        Ok(receipts)
    }

    async fn take(&self, request: Take) -> Result<Vec<Claim>, StoreError> {
        let claims = self.timed("take", self.inner.take(request)).await?;
        self.taken(&claims);
        Ok(claims)
    }

    async fn claim(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError> {
        let claims = self.timed("claim", self.inner.claim(request)).await?;
        self.taken(&claims);
        Ok(claims)
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.timed("append", self.inner.append(append)).await
    }

    async fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError> {
        let renewals = self.timed("renew", self.inner.renew(renew)).await?;
        for renewal in &renewals {
            let outcome = if matches!(renewal, Renewal::Renewed { .. }) { "renewed" } else { "lost" };
            self.metrics.lease_renewals.add([outcome], 1);
        }
        Ok(renewals)
    }

    async fn signal(&self, task: TaskId, signal: Signal) -> Result<Signalled, SignalError> {
        self.timed("signal", self.inner.signal(task, signal)).await
    }

    async fn forget(&self, task: TaskId) -> Result<bool, StoreError> {
        self.timed("forget", self.inner.forget(task)).await
    }

    async fn erase(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError> {
        self.timed("erase", self.inner.erase(task, by)).await
    }

    async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        self.timed("due", self.inner.due(limit)).await
    }

    async fn ready(&self, queues: &[QueueName]) {
        // A wait, and no operation.
        self.inner.ready(queues).await;
    }

    async fn head(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        self.timed("head", self.inner.head(task)).await
    }

    async fn journal(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        self.timed("journal", self.inner.journal(task, after, limit)).await
    }

    async fn chain(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Chained>, StoreError> {
        self.timed("chain", self.inner.chain(task, after, limit)).await
    }

    async fn seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError> {
        self.timed("seal", self.inner.seal(task)).await
    }

    async fn list(&self, filter: Filter, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.timed("list", self.inner.list(filter, after, limit)).await
    }

    async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        self.timed("queues", self.inner.queues()).await
    }

    async fn pause(&self, queue: QueueName, paused: bool) -> Result<(), StoreError> {
        self.timed("pause", self.inner.pause(queue, paused)).await
    }

    async fn apply(&self, definitions: Vec<Definition>) -> Result<(), StoreError> {
        self.timed("apply", self.inner.apply(definitions)).await
    }

    async fn definition(&self, digest: &Digest) -> Result<Option<Definition>, StoreError> {
        self.timed("definition", self.inner.definition(digest)).await
    }

    async fn current(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError> {
        self.timed("current", self.inner.current(pipeline)).await
    }

    async fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        self.timed("definitions", self.inner.definitions()).await
    }

    async fn open_batch(&self, batch: OpenBatch) -> Result<(), StoreError> {
        self.timed("open_batch", self.inner.open_batch(batch)).await
    }

    async fn reject_rows(&self, batch: &BatchId, rows: Vec<RejectedRow>) -> Result<(), StoreError> {
        self.timed("reject_rows", self.inner.reject_rows(batch, rows)).await
    }

    async fn close_batch(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.timed("close_batch", self.inner.close_batch(batch)).await
    }

    async fn batch(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError> {
        self.timed("batch", self.inner.batch(batch)).await
    }

    async fn batch_rows(&self, batch: &BatchId, after: u64, limit: usize) -> Result<Vec<BatchRow>, StoreError> {
        self.timed("batch_rows", self.inner.batch_rows(batch, after, limit)).await
    }

    async fn schedule(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        self.timed("schedule", self.inner.schedule(name)).await
    }

    async fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        self.timed("serve_schedule", self.inner.serve_schedule(name, until)).await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Reserved, StoreError> {
        self.timed("reserve", self.inner.reserve(reserve)).await
    }

    async fn settle(&self, settle: Settle) -> Result<Settled, StoreError> {
        self.timed("settle", self.inner.settle(settle)).await
    }

    async fn hold_back(&self, meter: &Meter, until: Timestamp) -> Result<(), StoreError> {
        self.timed("hold_back", self.inner.hold_back(meter, until)).await
    }

    async fn meters(&self, prefix: &str, limit: usize) -> Result<Vec<Reading>, StoreError> {
        self.timed("meters", self.inner.meters(prefix, limit)).await
    }

    async fn session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError> {
        self.timed("session", self.inner.session(name)).await
    }

    async fn keep_session(&self, keep: KeepSession) -> Result<bool, StoreError> {
        self.timed("keep_session", self.inner.keep_session(keep)).await
    }

    async fn change_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError> {
        self.timed("change_halt", self.inner.change_halt(change)).await
    }

    async fn halts(&self) -> Result<Vec<Halt>, StoreError> {
        self.timed("halts", self.inner.halts()).await
    }

    async fn unsent(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError> {
        self.timed("unsent", self.inner.unsent(age, limit)).await
    }

    async fn sent(&self, hints: &[Hint]) -> Result<(), StoreError> {
        self.timed("sent", self.inner.sent(hints)).await
    }

    async fn keep_blob(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError> {
        self.timed("keep_blob", self.inner.keep_blob(name, data)).await
    }

    async fn blobs(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.timed("blobs", self.inner.blobs(names)).await
    }

    async fn condemned_blobs(&self, limit: usize) -> Result<Vec<BlobName>, StoreError> {
        self.timed("condemned_blobs", self.inner.condemned_blobs(limit)).await
    }

    async fn bury_blobs(&self, names: &[BlobName]) -> Result<(), StoreError> {
        self.timed("bury_blobs", self.inner.bury_blobs(names)).await
    }

    async fn restore(&self, tasks: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        self.timed("restore", self.inner.restore(tasks)).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.timed("examine", self.inner.examine()).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.timed("check", self.inner.check()).await
    }
}
