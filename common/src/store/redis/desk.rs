//! The desk: where an operation is planned and brought about. What it needs is
//! loaded (or known, for tasks that this process holds), the book says what
//! changes, and one call writes it on the condition that nothing that was loaded
//! has changed. If something has, it is loaded and planned again.

use std::collections::HashMap;
use std::time::Duration;

use super::RedisStore;
use super::blob;
use super::change::{self, Manner};
use super::group::{Committed, Kept};
use super::record::Stamp;
use super::reply::{self, Reply};
use super::scripts::{Args, LOAD};
use super::stored::{self, Found, Stored, Unreadable};
use super::unit::{Outcome, Unit};
use crate::id::TaskId;
use crate::store::book::{Book, Change, Needs, Stop};
use crate::store::{Hint, SignalError, Signalled, StoreError, ledger, witness};
use crate::task::Signal;

/// How often an operation is planned before its caller is told to try again.
const TRIES: u32 = 24;
/// Tasks that are read in one call: their journals come back in one answer.
const LOADED: usize = 200;
/// How many tasks' ids a call that reads records alone may name.
const RECORDS: usize = 2_000;

/// What an operation was planned upon.
pub(super) type Desk = HashMap<TaskId, Found>;

/// An operation that was brought about.
#[derive(Debug)]
pub(super) struct Outcomes<T> {
    pub(super) answer: T,
    /// What retention counts now in the partition, if a task ended.
    pub(super) kept: Option<[Kept; 2]>,
}

impl RedisStore {
    /// Reads tasks with all that an entry needs.
    pub(super) async fn load(&self, tasks: &[TaskId], desk: &mut Desk) -> Result<(), StoreError> {
        for (partition, tasks) in self.by_partition(tasks) {
            for tasks in tasks.chunks(LOADED) {
                for (task, value) in tasks.iter().zip(self.read(partition, b"E", tasks).await?) {
                    desk.insert(*task, stored::task(*task, value)?);
                }
            }
        }
        Ok(())
    }

    /// Reads the records of tasks of one partition; nothing for those that are not there.
    pub(super) async fn records(
        &self,
        partition: usize,
        tasks: &[TaskId],
    ) -> Result<Vec<Option<super::record::Record>>, StoreError> {
        let mut records = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(RECORDS) {
            for value in self.read(partition, b"R", tasks).await? {
                let mut parts = Reply::new(value);
                records.push(if parts.is_empty() { None } else { Some(stored::record(&parts.bytes())?) });
            }
        }
        Ok(records)
    }

    async fn read(&self, partition: usize, how: &[u8], tasks: &[TaskId]) -> Result<Vec<redis::Value>, StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.push(how);
        for task in tasks {
            args.push(task.as_uuid().as_bytes());
        }
        let mut reply = LOAD.call(&self.link, self.keys.partition(partition), &[&args]).await?;
        self.clock.heard(reply.time()?);
        let values = reply.list();
        if values.len() == tasks.len() { Ok(values) } else { Err(reply::damaged("a task for each id")) }
    }

    /// Tasks by the partition that they lie in.
    pub(super) fn by_partition(&self, tasks: &[TaskId]) -> HashMap<usize, Vec<TaskId>> {
        let mut by_partition: HashMap<usize, Vec<TaskId>> = HashMap::new();
        for task in tasks {
            by_partition.entry(self.keys.of_task(*task)).or_default().push(*task);
        }
        by_partition
    }

    pub(super) fn manner(&self) -> Manner {
        Manner { hints: self.options.doorbell.is_some(), now: self.clock.now() }
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.options.entropy.bytes()
    }

    /// Brings an operation about that touches `first`. `desk` has what is known already; what comes from the cache
    /// of this process is never the ground for a refusal. With `alive`, the lease on that task must hold.
    pub(super) async fn operate<T, E>(
        &self,
        first: TaskId,
        mut desk: Desk,
        alive: Option<TaskId>,
        mut work: impl FnMut(&mut Book) -> Result<T, Stop<E>>,
    ) -> Result<Outcomes<T>, E>
    where
        E: From<StoreError>,
    {
        let mut cached = !desk.is_empty();
        for tries in 0..TRIES {
            pause(tries, self.options.entropy.unit()).await;
            if !desk.contains_key(&first) {
                self.load(&[first], &mut desk).await?;
            }
            let (answer, changes) = loop {
                let mut book = Book::new(self.clock.now(), self.options.limits).sealed_with(self.options.seal.clone());
                for (task, found) in &desk {
                    book.load(*task, found.known());
                }
                match work(&mut book) {
                    Ok(answer) => break (Ok(answer), book.into_changes()),
                    Err(Stop::Needs(Needs(tasks))) => self.load(&tasks, &mut desk).await?,
                    Err(Stop::Refused(error)) => break (Err(error), Vec::new()),
                }
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(_) if cached => {
                    (cached, desk) = (false, Desk::new());
                    continue;
                }
                Err(error) => return Err(error),
            };
            if changes.is_empty() {
                return Ok(Outcomes { answer, kept: None });
            }
            let (committed, written) = self.write(&desk, &changes, alive).await?;
            if committed.outcome == Outcome::Done {
                self.remember(written);
                self.tell_of(&changes);
                return Ok(Outcomes { answer, kept: committed.kept });
            }
            if committed.outcome == Outcome::Gone {
                return Err(blob::gone().into());
            }
            (cached, desk) = (false, Desk::new());
        }
        Err(StoreError::Unavailable(format!("others change task {first} again and again; try again")).into())
    }

    /// Writes changes, if all is as it was loaded. Tasks of other partitions are only read, and not checked.
    async fn write(
        &self,
        desk: &Desk,
        changes: &[Change],
        alive: Option<TaskId>,
    ) -> Result<(Committed, Vec<Stored>), StoreError> {
        let Some(first) = changes.first() else { return Err(reply::damaged("a change")) };
        let partition = self.keys.of_task(first.after.head.id);
        let manner = self.manner();
        let mut unit = Unit::default();
        for (task, found) in desk.iter().filter(|(task, _)| self.keys.of_task(**task) == partition) {
            match found.stamp() {
                Some(stamp) => unit.expect(*task, stamp, alive == Some(*task)),
                None => unit.expect_none(*task),
            }
        }
        let mut written = Vec::with_capacity(changes.len());
        for change in changes {
            let Some(Found::Task(before)) = desk.get(&change.after.head.id) else {
                return Err(reply::damaged("a task that was loaded"));
            };
            written.push(change::write(&mut unit, before, change, self.stamp(), manner)?);
        }
        Ok((self.groups.commit(partition, unit).await?, written))
    }

    /// Keeps what this process holds in mind; everything else that was known of these tasks is forgotten.
    fn remember(&self, written: Vec<Stored>) {
        let mut cache = self.cache();
        for stored in written {
            let task = stored.entry.head.id;
            if stored.entry.lease.is_some() && cache.contains(&task) {
                cache.put(task, stored);
            } else {
                cache.pop(&task);
            }
        }
    }

    /// Tells the broker's side of tasks that became ready.
    fn tell_of(&self, changes: &[Change]) {
        if let Some(witness) = &self.options.witness {
            let mut facts = Vec::new();
            for change in changes {
                witness::facts(change, &mut facts);
            }
            witness.witness(&facts);
        }
        let Some(doorbell) = &self.options.doorbell else { return };
        let became_ready =
            |change: &&Change| change.after.ready_since().is_some() && change.before.ready_since().is_none();
        let hints: Vec<Hint> = changes.iter().filter(became_ready).map(|change| Hint::of(&change.after.head)).collect();
        if !hints.is_empty() {
            doorbell.ring(hints);
        }
    }

    /// Puts a task aside that this version cannot read, and tells its parent and its children. It must not stop others.
    pub(super) async fn set_aside(&self, unreadable: &Unreadable) -> Result<(), StoreError> {
        let (task, why) = (unreadable.id, &unreadable.why);
        if unreadable.record.set_aside {
            return Ok(());
        }
        tracing::error!(%task, why, "a task cannot be read by this version; it is a dead letter now");
        let mut unit = Unit::default();
        change::set_aside(&mut unit, unreadable, self.stamp(), self.manner());
        self.cache().pop(&task);
        if self.groups.commit(self.keys.of_task(task), unit).await?.outcome != Outcome::Done {
            return Ok(()); // It has changed: whoever comes upon it next looks again.
        }
        if let Some(parent) = unreadable.record.parent {
            self.tell(parent, ledger::lost_child(task, why)).await?;
        }
        for child in &unreadable.children {
            let cancel = Signal::Cancel { by: "store".to_owned(), reason: "its parent cannot be read".to_owned() };
            self.tell(*child, cancel).await?;
        }
        Ok(())
    }

    /// Gives a signal to a task that may not want it any more.
    pub(super) async fn tell(&self, task: TaskId, signal: Signal) -> Result<Option<Signalled>, StoreError> {
        match self.apply_signal(task, &signal).await {
            Ok(signalled) => Ok(Some(signalled)),
            Err(SignalError::Store(StoreError::Damaged(_)) | SignalError::NotFound(_) | SignalError::Refused(_)) => {
                Ok(None)
            }
            Err(SignalError::Store(error)) => Err(error),
        }
    }
}

/// Before a plan is made again: at once first, later after a moment that differs between callers.
async fn pause(tries: u32, chance: f64) {
    if tries > 2 {
        let most = Duration::from_millis(1) * (1 << tries.min(8));
        tokio::time::sleep(most.mul_f64(chance)).await;
    }
}
