//! Large values beside the journals: a store around another one. What goes in
//! is searched for values above a threshold; each is kept as a blob, and the
//! journal gets a [`Reference`]. What comes out is whole again, so that nobody
//! outside of this module ever sees a reference.
//!
//! The inner store counts who refers to what, in the same atomic step that
//! writes the events, and condemns what nobody has referred to for
//! [`super::BLOB_GRACE`]. A value is kept *before* the event that refers to it is
//! written: a crash in between leaves garbage, which goes in time, and loses nothing.
//!
//! `limits.input` is about whole values. The limit of a journal counts
//! references, so that a long task does not die of large answers; each value by
//! itself must still be below it.

mod cache;
mod carrier;
mod codec;
mod incoming;
mod object;
mod outgoing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use self::cache::Cache;
use self::object::Objects;
use self::outgoing::{Kept, Unkept};
use super::{
    Append, AppendError, Appended, BatchRow, BatchStatus, BlobOptions, Claim, ClaimTasks, Cursor, Definition, Due,
    Erasure, Filter, Finding, Halt, HaltChange, Hint, KeepSession, KeptSession, Limits, Meter, OpenBatch, Page, Queue,
    Reading, Receipt, RejectedRow, Renew, Renewal, Reserve, Reserved, Settle, Settled, Severity, SignalError,
    Signalled, Store, StoreClock, StoreError, StoreOptions, Submission, Take, Transcript, intake,
};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::id::{BatchId, BlobHouse, BlobName, Digest, PipelineName, QueueName, SessionName, Shard, TaskId};
use crate::journal::{Chained, Recorded, Seal};
use crate::task::{Head, Signal};

#[cfg(doc)]
use crate::journal::Reference;

/// Requests for values that are under way at once, of all tasks of a process.
const AT_ONCE: usize = 16;
/// Objects that one call of `due` removes.
const REMOVALS: usize = 100;
/// The pause between two looks for objects to be removed.
const PAUSE: Duration = Duration::from_secs(10);
/// The pause after a removal that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// A store that keeps large values out of the journals of another one.
#[derive(Debug)]
pub struct Offload {
    inner: Arc<dyn Store>,
    /// Where values go, if it is not the inner store itself.
    objects: Option<Objects>,
    options: BlobOptions,
    limits: Limits,
    clock: StoreClock,
    entropy: Arc<dyn Entropy>,
    cache: Cache,
    requests: Semaphore,
    /// When to look again for objects to be removed.
    next_removal: Mutex<Timestamp>,
}

impl Offload {
    /// Puts itself around a store that was opened with the same options.
    ///
    /// # Errors
    /// Of opening the place of the values.
    pub fn around(inner: Arc<dyn Store>, options: &StoreOptions) -> Result<Arc<Self>, StoreError> {
        Ok(Arc::new(Self {
            inner,
            objects: Objects::open(&options.blobs)?,
            options: options.blobs.clone(),
            limits: options.limits,
            clock: options.clock.clone(),
            entropy: Arc::clone(&options.entropy),
            cache: Cache::new(options.blobs.cache),
            requests: Semaphore::new(AT_ONCE),
            next_removal: Mutex::new(Timestamp::from_millis(i64::MIN)),
        }))
    }

    /// The largest value that goes anywhere.
    fn largest(&self) -> usize {
        usize::try_from(self.limits.journal_bytes).unwrap_or(usize::MAX)
    }

    async fn accept(&self, submission: Submission, number: usize) -> Result<Submission, StoreError> {
        let (id, mut task) = submission.into_parts();
        self.keep_large(&mut task, id.shard(), self.limits.input_bytes).await.map_err(|unkept| match unkept {
            Unkept::TooLarge(bytes) => intake::too_large_an_input(number, bytes, &self.limits),
            Unkept::Store(error) => error,
        })?;
        Ok(Submission::new(id, task))
    }

    /// Removes objects that are condemned. What fails is tried again later, here or elsewhere.
    async fn remove_condemned(&self) -> Result<(), StoreError> {
        let Some(objects) = &self.objects else { return Ok(()) };
        let now = self.clock.now();
        {
            let mut next = self.next_removal.lock().unwrap_or_else(PoisonError::into_inner);
            if now < *next {
                return Ok(());
            }
            *next = now.plus(PAUSE);
        }
        let condemned = self.inner.condemned_blobs(REMOVALS).await?;
        let removals = condemned.into_iter().map(|name| async move { objects.remove(&name).await.map(|()| name) });
        let removed: Vec<_> = stream::iter(removals).buffer_unordered(AT_ONCE).collect().await;
        let mut gone = Vec::new();
        for answer in removed {
            match answer {
                Ok(name) => gone.push(name),
                Err(error) => {
                    tracing::warn!(%error, "values that no task uses stay for now");
                    *self.next_removal.lock().unwrap_or_else(PoisonError::into_inner) = now.plus(AFTER_FAILURE);
                }
            }
        }
        if gone.is_empty() { Ok(()) } else { self.inner.bury_blobs(&gone).await }
    }

    /// Whether the place of the values can be written, read and cleared: really tried.
    async fn examine_objects(&self, objects: &Objects) -> Finding {
        let probe = b"teamster probes whether this place can be used";
        let name =
            BlobName::new(BlobHouse::Object, Shard::numbered(0), self.entropy.bytes(), Digest::of(probe.as_slice()));
        let tried = async {
            objects.put(&name, Bytes::from_static(probe)).await?;
            let read = objects.get(&name).await?;
            objects.remove(&name).await?;
            Ok::<_, StoreError>(read.is_some_and(|read| read == probe.as_slice()))
        };
        let subject = "blobs.place".to_owned();
        let threshold = self.options.threshold;
        match tried.await {
            Ok(true) => Finding {
                severity: Severity::Good,
                subject,
                said: format!("values above {threshold} bytes go to {}; it can be used", objects.place()),
                advice: None,
            },
            Ok(false) => Finding {
                severity: Severity::Fatal,
                subject,
                said: format!("{} does not give back what was written to it", objects.place()),
                advice: Some("name another place".to_owned()),
            },
            Err(error) => Finding {
                severity: Severity::Warning,
                subject,
                said: format!("tasks with values above {threshold} bytes wait: {error}"),
                advice: Some(
                    "check that the place is there and that the credentials may read, write and delete".to_owned(),
                ),
            },
        }
    }
}

#[async_trait]
impl Store for Offload {
    async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError> {
        if !submissions.iter().any(|submission| self.has_large(submission.task())) {
            return self.inner.submit(submissions).await;
        }
        intake::number_of_submissions(submissions.len(), &self.limits)?;
        let accepted = stream::iter(submissions.into_iter().zip(1..))
            .map(|(submission, number)| self.accept(submission, number))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        self.inner.submit(accepted).await
    }

    async fn take(&self, request: Take) -> Result<Vec<Claim>, StoreError> {
        let lease = request.lease;
        let claims = self.inner.take(request).await?;
        Ok(self.whole_claims(claims, lease).await)
    }

    async fn claim(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError> {
        let lease = request.lease;
        let claims = self.inner.claim(request).await?;
        Ok(self.whole_claims(claims, lease).await)
    }

    async fn append(&self, mut append: Append) -> Result<Appended, AppendError> {
        let task = append.task;
        let kept = if self.has_large(&append) {
            self.keep_large(&mut append, task.shard(), self.largest()).await.map_err(|unkept| match unkept {
                Unkept::TooLarge(_) => AppendError::JournalFull { task, limit: self.limits.journal_bytes },
                Unkept::Store(error) => error.into(),
            })?
        } else {
            Kept::default()
        };
        let mut appended = self.inner.append(append).await?;
        self.make_whole(&mut appended.recorded, kept).await.map_err(StoreError::from)?;
        Ok(appended)
    }

    async fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError> {
        self.inner.renew(renew).await
    }

    async fn signal(&self, task: TaskId, mut signal: Signal) -> Result<Signalled, SignalError> {
        if self.has_large(&signal) {
            let most = intake::largest_signal(&self.limits);
            self.keep_large(&mut signal, task.shard(), most).await.map_err(|unkept| match unkept {
                Unkept::TooLarge(bytes) => intake::too_large_a_signal(bytes, &self.limits),
                Unkept::Store(error) => error,
            })?;
        }
        self.inner.signal(task, signal).await
    }

    async fn forget(&self, task: TaskId) -> Result<bool, StoreError> {
        self.inner.forget(task).await
    }

    async fn erase(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError> {
        self.inner.erase(task, by).await
    }

    async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        let due = self.inner.due(limit).await?;
        self.remove_condemned().await?;
        Ok(due)
    }

    async fn ready(&self, queues: &[QueueName]) {
        self.inner.ready(queues).await;
    }

    async fn head(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        self.inner.head(task).await
    }

    async fn journal(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        let mut events = self.inner.journal(task, after, limit).await?;
        self.make_whole(&mut events, Kept::default()).await?;
        Ok(events)
    }

    async fn chain(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Chained>, StoreError> {
        self.inner.chain(task, after, limit).await
    }

    async fn seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError> {
        self.inner.seal(task).await
    }

    async fn list(&self, filter: Filter, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(filter, after, limit).await
    }

    async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        self.inner.queues().await
    }

    async fn pause(&self, queue: QueueName, paused: bool) -> Result<(), StoreError> {
        self.inner.pause(queue, paused).await
    }

    async fn apply(&self, definitions: Vec<Definition>) -> Result<(), StoreError> {
        self.inner.apply(definitions).await
    }

    async fn definition(&self, digest: &Digest) -> Result<Option<Definition>, StoreError> {
        self.inner.definition(digest).await
    }

    async fn current(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError> {
        self.inner.current(pipeline).await
    }

    async fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        self.inner.definitions().await
    }

    async fn open_batch(&self, batch: OpenBatch) -> Result<(), StoreError> {
        self.inner.open_batch(batch).await
    }

    async fn reject_rows(&self, batch: &BatchId, rows: Vec<RejectedRow>) -> Result<(), StoreError> {
        self.inner.reject_rows(batch, rows).await
    }

    async fn close_batch(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.inner.close_batch(batch).await
    }

    async fn batch(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError> {
        self.inner.batch(batch).await
    }

    async fn batch_rows(&self, batch: &BatchId, after: u64, limit: usize) -> Result<Vec<BatchRow>, StoreError> {
        self.inner.batch_rows(batch, after, limit).await
    }

    async fn schedule(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        self.inner.schedule(name).await
    }

    async fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        self.inner.serve_schedule(name, until).await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Reserved, StoreError> {
        self.inner.reserve(reserve).await
    }

    async fn settle(&self, settle: Settle) -> Result<Settled, StoreError> {
        self.inner.settle(settle).await
    }

    async fn hold_back(&self, meter: &Meter, until: Timestamp) -> Result<(), StoreError> {
        self.inner.hold_back(meter, until).await
    }

    async fn meters(&self, prefix: &str, limit: usize) -> Result<Vec<Reading>, StoreError> {
        self.inner.meters(prefix, limit).await
    }

    async fn session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError> {
        self.inner.session(name).await
    }

    async fn keep_session(&self, keep: KeepSession) -> Result<bool, StoreError> {
        self.inner.keep_session(keep).await
    }

    async fn change_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError> {
        self.inner.change_halt(change).await
    }

    async fn halts(&self) -> Result<Vec<Halt>, StoreError> {
        self.inner.halts().await
    }

    async fn unsent(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError> {
        self.inner.unsent(age, limit).await
    }

    async fn sent(&self, hints: &[Hint]) -> Result<(), StoreError> {
        self.inner.sent(hints).await
    }

    async fn keep_blob(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError> {
        self.inner.keep_blob(name, data).await
    }

    async fn blobs(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.inner.blobs(names).await
    }

    async fn condemned_blobs(&self, limit: usize) -> Result<Vec<BlobName>, StoreError> {
        self.inner.condemned_blobs(limit).await
    }

    async fn bury_blobs(&self, names: &[BlobName]) -> Result<(), StoreError> {
        self.inner.bury_blobs(names).await
    }

    async fn restore(&self, tasks: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        let mut small = Vec::with_capacity(tasks.len());
        for mut transcript in tasks {
            let id = transcript.id;
            if self.has_large(&transcript) {
                self.keep_large(&mut transcript, id.shard(), self.largest()).await.map_err(|unkept| match unkept {
                    Unkept::TooLarge(bytes) => StoreError::Refused(format!(
                        "a value of task {id} has {bytes} bytes; at most {} are allowed (limits.journal)",
                        self.limits.journal_bytes
                    )),
                    Unkept::Store(error) => error,
                })?;
            }
            small.push(transcript);
        }
        self.inner.restore(small).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = self.inner.examine().await?;
        if let Some(objects) = &self.objects {
            findings.push(self.examine_objects(objects).await);
        }
        Ok(findings)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }
}
