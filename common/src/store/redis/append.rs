//! Appending under a lease, and signals from outside of it.

use super::RedisStore;
use super::desk::{Desk, Outcomes};
use super::stored::{self, Found};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::journal::{Chained, Recorded, Seal};
use crate::store::book::AppendAnswer;
use crate::store::intake::Encoded;
use crate::store::{Append, AppendError, Appended, Erasure, SignalError, Signalled, StoreError};
use crate::task::Signal;

impl RedisStore {
    /// Appends: in one call to the server if this process took the task.
    pub(super) async fn apply_append(&self, append: &Append, encoded: &Encoded) -> Result<Appended, AppendError> {
        let task = append.task;
        let known = self.cache().get(&task).cloned();
        let desk: Desk = known.map(|stored| (task, Found::Task(Box::new(stored)))).into_iter().collect();
        let work = |book: &mut crate::store::book::Book| book.append(append, encoded);
        let Outcomes { answer, kept, .. } = self.operate(task, desk, Some(task), work).await?;
        if let Some(kept) = kept {
            self.trim(self.keys.of_task(task), kept).await;
        }
        match answer {
            AppendAnswer::Added(recorded) => Ok(Appended { recorded }),
            AppendAnswer::Repeated { from, to } => {
                let length = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
                let recorded = self.events(task, from, length).await?;
                if recorded.len() == length {
                    return Ok(Appended { recorded });
                }
                // The server has lost what this process was told is written (a failover): what it has now counts.
                self.cache().pop(&task);
                Err(AppendError::LeaseLost(task))
            }
        }
    }

    /// Events of a journal from a number on, at most so many.
    pub(super) async fn events(&self, task: TaskId, from: u64, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        let elements = self.elements(task, from, limit).await?;
        stored::events(task, from.max(1), &elements).map(|stretch| stretch.events).map_err(StoreError::Damaged)
    }

    /// The same as they lie there.
    pub(super) async fn chained(&self, task: TaskId, from: u64, limit: usize) -> Result<Vec<Chained>, StoreError> {
        let elements = self.elements(task, from, limit).await?;
        let chained = |(element, seq): (Vec<u8>, u64)| {
            let damaged = || Chained {
                seq,
                at: Timestamp::default(),
                event: String::from_utf8_lossy(&element).into_owned(),
                hash: None,
            };
            super::unit::chained(seq, &element).unwrap_or_else(damaged)
        };
        Ok(elements.into_iter().zip(from.max(1)..).map(chained).collect())
    }

    async fn elements(&self, task: TaskId, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let Some(last) = u64::try_from(limit).unwrap_or(u64::MAX).checked_sub(1) else { return Ok(Vec::new()) };
        let from = from.max(1);
        let key = self.keys.key(self.keys.of_task(task), &super::keys::of(b't', task));
        let last = from.saturating_add(last).min(1 << 52);
        let mut command = redis::cmd("LRANGE");
        command.arg(key).arg(from.min(1 << 52)).arg(last);
        Ok(stored::elements(super::reply::list(super::scripts::ask(&self.link, &command).await?)))
    }

    /// The newest seal of a task's journal.
    pub(super) async fn newest_seal(&self, task: TaskId) -> Result<Option<Seal>, StoreError> {
        let record = self.records(self.keys.of_task(task), &[task]).await?.pop().flatten();
        Ok(record.and_then(|record| record.extra.seal))
    }

    /// Erases the data of a task that is done.
    pub(super) async fn erase_data(&self, task: TaskId, by: &str) -> Result<Erasure, SignalError> {
        let journal = self.chained(task, 1, usize::MAX).await?;
        let work = |book: &mut crate::store::book::Book| book.erase(task, by, &journal);
        Ok(self.operate(task, Desk::new(), None, work).await?.answer)
    }

    /// Gives a signal to a task: applied now, or kept for its holder.
    pub(super) async fn apply_signal(&self, task: TaskId, signal: &Signal) -> Result<Signalled, SignalError> {
        if matches!(signal, Signal::Replay { .. }) {
            self.rejoin_group(task).await?;
        }
        let work = |book: &mut crate::store::book::Book| book.signal(task, signal);
        Ok(self.operate(task, Desk::new(), None, work).await?.answer)
    }

    /// Makes a dead letter of a task that was leased and whose journal then could not be read.
    pub(super) async fn give_up(&self, task: TaskId) -> Result<(), StoreError> {
        let mut desk = Desk::new();
        self.load(&[task], &mut desk).await?;
        match desk.get(&task) {
            Some(Found::Unreadable(unreadable)) => self.set_aside(unreadable).await,
            _ => Ok(()),
        }
    }
}
