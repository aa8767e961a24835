//! The book: what a store knows of the tasks that an operation touches, and what
//! becomes of them. Pure; every rule about leases, repeated appends, kept signals,
//! parents and children stands here once, for all backends.
//!
//! A backend loads the entries that an operation needs, calls the operation, and
//! writes the [`Change`]s in one atomic step, on the condition that nothing that
//! was loaded has changed meanwhile (by locks, or by comparing versions). An
//! operation that needs an entry which is not in the book says so
//! ([`Needs`]) and changes nothing: the backend loads it and calls again.

mod draft;
mod entry;

use std::collections::HashMap;
use std::sync::Arc;

use self::draft::{Draft, Pending};
pub use self::entry::{Added, Change, Entry, Known, LastAppend, Lease};
use super::intake::Encoded;
use super::ledger;
use super::{Append, AppendError, Erasure, Limits, SignalError, Signalled, StoreError};
use crate::clock::Timestamp;
use crate::id::{LeaseToken, TaskId, WorkerId};
use crate::journal::{Chained, Event, Recorded, SealKey};
use crate::task::{DeadReason, Signal, State};

/// Entries that must be loaded before the operation can be done. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs(pub Vec<TaskId>);

/// Why an operation did not come to an answer.
#[derive(Debug)]
pub enum Stop<E> {
    /// Load these and call again.
    Needs(Needs),
    /// It is refused. Nothing was changed.
    Refused(E),
}

/// The answer to an append.
#[derive(Debug, Clone, PartialEq)]
pub enum AppendAnswer {
    /// These were added.
    Added(Vec<Recorded>),
    /// It was done before: the events from a number up to but without another are the answer.
    Repeated {
        /// The first.
        from: u64,
        /// One after the last.
        to: u64,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    now: Timestamp,
    limits: Limits,
    key: Option<Arc<SealKey>>,
    loaded: HashMap<TaskId, Loaded>,
    changed: HashMap<TaskId, Pending>,
    order: Vec<TaskId>,
}

/// [`Known`], shared: an operation reads a task several times, and a head is large.
#[derive(Debug)]
enum Loaded {
    Missing,
    Unreadable(String),
    Task(Arc<Entry>),
}

impl Book {
    /// An empty book at the store's time `now`.
    pub fn new(now: Timestamp, limits: Limits) -> Self {
        Self { now, limits, key: None, loaded: HashMap::new(), changed: HashMap::new(), order: Vec::new() }
    }

    /// Journals that change are sealed with this key.
    #[must_use]
    pub fn sealed_with(mut self, key: Option<Arc<SealKey>>) -> Self {
        self.key = key;
        self
    }

    /// The next operation happens at this time.
    pub fn at(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Enters what was loaded.
    pub fn load(&mut self, id: TaskId, known: Known) {
        let loaded = match known {
            Known::Missing => Loaded::Missing,
            Known::Unreadable(why) => Loaded::Unreadable(why),
            Known::Task(entry) => Loaded::Task(Arc::new(*entry)),
        };
        self.loaded.insert(id, loaded);
    }

    /// Enters a task that is new with this operation: its parent knows of it from now on.
    pub fn open(&mut self, entry: Entry) {
        let id = entry.head.id;
        if let Some(parent) = entry.head.parent.as_ref().map(|parent| parent.task) {
            if let Some(Loaded::Task(parent)) = self.loaded.get_mut(&parent) {
                Arc::make_mut(parent).children.push(id);
            }
            if let Some(pending) = self.changed.get_mut(&parent) {
                Arc::make_mut(&mut pending.after).children.push(id);
            }
        }
        self.loaded.insert(id, Loaded::Task(Arc::new(entry)));
    }

    /// Whether an id was loaded.
    pub fn knows(&self, id: TaskId) -> bool {
        self.loaded.contains_key(&id)
    }

    /// A task as it is after the operations so far.
    pub fn entry(&self, id: TaskId) -> Option<&Entry> {
        match (self.changed.get(&id), self.loaded.get(&id)) {
            (Some(change), _) => Some(&change.after),
            (None, Some(Loaded::Task(entry))) => Some(entry),
            _ => None,
        }
    }

    /// All changes, each task once, in the order in which they were touched first.
    pub fn into_changes(self) -> Vec<Change> {
        let Self { loaded, mut changed, order, key, .. } = self;
        // Nobody else reads what was loaded any more: nothing has to be copied.
        drop(loaded);
        order.iter().filter_map(|id| changed.remove(id)).map(|pending| pending.into_change(key.as_deref())).collect()
    }

    /// Appends under a lease; see [`super::Store::append`].
    ///
    /// # Errors
    /// As [`super::Store::append`] says.
    pub fn append(&mut self, append: &Append, encoded: &Encoded) -> Result<AppendAnswer, Stop<AppendError>> {
        let now = self.now;
        let limit = self.limits.journal_bytes;
        self.operation(|draft| {
            let task = append.task;
            let Some(before) = draft.find(task).map_err(AppendError::Store)? else {
                return Err(AppendError::LeaseLost(task));
            };
            if let Some(last) = before.last_append
                && last.id == append.id
            {
                return Ok(AppendAnswer::Repeated { from: last.from, to: last.to });
            }
            if !before.is_held_by(append.token, now) {
                return Err(AppendError::LeaseLost(task));
            }
            if before.head.version != append.expected {
                return Err(AppendError::Conflict { task, expected: append.expected, actual: before.head.version });
            }
            if encoded.counted_bytes > 0 && before.journal_bytes.saturating_add(encoded.counted_bytes) > limit {
                return Err(AppendError::JournalFull { task, limit });
            }
            let mut after = Entry::clone(&before);
            let mut signals = std::mem::take(&mut after.kept);
            signals.extend(draft.ended_children(task, &append.events));
            let recorded = ledger::append(&mut after.head, append.events.clone(), append.next.clone(), &signals, now)?;
            let to = after.head.version + 1;
            after.last_append = Some(LastAppend { id: append.id, from: before.head.version + 1, to });
            draft.put(&before, after, &recorded, Some(encoded)).map_err(AppendError::Store)?;
            draft.settle(&before, task, now).map_err(AppendError::Store)?;
            Ok(AppendAnswer::Added(recorded))
        })
    }

    /// Gives a signal to a task; see [`super::Store::signal`].
    ///
    /// # Errors
    /// As [`super::Store::signal`] says.
    pub fn signal(&mut self, task: TaskId, signal: &Signal) -> Result<Signalled, Stop<SignalError>> {
        let now = self.now;
        self.operation(|draft| {
            let Some(before) = draft.find(task)? else { return Err(SignalError::NotFound(task)) };
            match draft.tell(&before, signal, now)? {
                Some(state) => {
                    draft.settle(&before, task, now)?;
                    Ok(Signalled::Applied(state))
                }
                None => Ok(Signalled::Requested),
            }
        })
    }

    /// Takes the lease on a task if it is ready: whether it was.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if this version cannot read the task.
    pub fn lease(&mut self, task: TaskId, worker: &WorkerId, lease: Lease) -> Result<bool, Stop<StoreError>> {
        let now = self.now;
        self.operation(|draft| {
            let Some(before) = draft.find(task)? else { return Ok(false) };
            if before.set_aside {
                return Ok(false);
            }
            let mut after = Entry::clone(&before);
            let Ok(recorded) = ledger::lease(&mut after.head, worker, now) else { return Ok(false) };
            after.lease = Some(lease);
            draft.put(&before, after, &recorded, None)?;
            Ok(true)
        })
    }

    /// Moves a task on whose time has come: a timer, or the end of its lease. Whoever finds that it is not due
    /// (any more) has an index that is wrong, and gets [`DueAnswer::NotDue`].
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if this version cannot read the task.
    pub fn due(&mut self, task: TaskId) -> Result<DueAnswer, Stop<StoreError>> {
        let (now, barren_limit) = (self.now, self.limits.barren_attempts);
        self.operation(|draft| {
            let Some(before) = draft.find(task)? else { return Ok(DueAnswer::NotDue) };
            if before.due_at().is_none_or(|due_at| due_at > now) {
                return Ok(DueAnswer::NotDue);
            }
            let mut after = Entry::clone(&before);
            let expired = matches!(before.head.state, State::Running { .. });
            let moved = if expired {
                ledger::expire(&mut after.head, &std::mem::take(&mut after.kept), barren_limit, now)
            } else {
                ledger::wake(&mut after.head, now)
            };
            let Ok(recorded) = moved else { return Ok(DueAnswer::NotDue) };
            let poison = matches!(after.head.state, State::Dead { reason: DeadReason::Poison, .. });
            draft.put(&before, after, &recorded, None)?;
            draft.settle(&before, task, now)?;
            Ok(match (expired, poison) {
                (true, true) => DueAnswer::Poisoned,
                (true, false) => DueAnswer::Expired,
                (false, _) => DueAnswer::Woken,
            })
        })
    }

    /// Erases the data of a task that is done, given its whole journal; see [`super::Store::erase`].
    ///
    /// # Errors
    /// As [`super::Store::erase`] says.
    pub fn erase(&mut self, task: TaskId, by: &str, journal: &[Chained]) -> Result<Erasure, Stop<SignalError>> {
        let now = self.now;
        self.operation(|draft| {
            let Some(before) = draft.find(task)? else { return Err(SignalError::NotFound(task)) };
            if before.head.erased_at.is_some() {
                return Ok(Erasure::Before);
            }
            let mut after = Entry::clone(&before);
            let recorded = ledger::erase(&mut after.head, by, now)?;
            if journal.len() as u64 != before.head.version {
                let (found, version) = (journal.len(), before.head.version);
                let why = format!("task {task} is at version {version}, and its journal has {found} events");
                return Err(StoreError::Damaged(why).into());
            }
            let events = journal.iter().map(|chained| without_data(task, chained)).collect::<Result<Vec<_>, _>>()?;
            after.journal_bytes = events.iter().map(|chained| chained.event.len() as u64).sum();
            after.kept.clear();
            draft.put(&before, after, &recorded, None)?;
            draft.rewrite(task, events);
            Ok(Erasure::Erased)
        })
    }

    /// Makes a dead letter of a task whose journal cannot be read, for the holder of a lease who found out.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if this version cannot read its head either.
    pub fn give_up(&mut self, task: TaskId, token: LeaseToken, why: &str) -> Result<(), Stop<StoreError>> {
        let now = self.now;
        self.operation(|draft| {
            let Some(before) = draft.find(task)? else { return Ok(()) };
            if before.lease.is_none_or(|lease| lease.token != token) {
                return Ok(());
            }
            let mut after = Entry::clone(&before);
            after.kept.clear();
            if let Ok(recorded) = ledger::set_aside(&mut after.head, ledger::unreadable(why), now) {
                draft.put(&before, after, &recorded, None)?;
                draft.settle(&before, task, now)?;
            }
            Ok(())
        })
    }

    /// Does an operation on a draft, and keeps what it changed if it comes to an answer.
    fn operation<T, E>(&mut self, work: impl FnOnce(&mut Draft<'_>) -> Result<T, E>) -> Result<T, Stop<E>> {
        let mut draft = Draft::new(self);
        let answer = work(&mut draft);
        let Draft { changed, order, missing, .. } = draft;
        if !missing.is_empty() {
            return Err(Stop::Needs(Needs(missing)));
        }
        let answer = answer.map_err(Stop::Refused)?;
        self.order.extend(order);
        self.changed.extend(changed);
        Ok(answer)
    }
}

/// An event without data.
fn without_data(task: TaskId, chained: &Chained) -> Result<Chained, StoreError> {
    let wrong = |error: serde_json::Error| {
        StoreError::Damaged(format!("event {} of task {task} cannot be erased by this version: {error}", chained.seq))
    };
    let mut event: Event = serde_json::from_str(&chained.event).map_err(wrong)?;
    event.erase().map_err(wrong)?;
    Ok(Chained { event: serde_json::to_string(&event).map_err(wrong)?, ..chained.clone() })
}

/// What became of a task that seemed due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueAnswer {
    /// A timer: it is ready.
    Woken,
    /// Its lease ran out.
    Expired,
    /// Its lease ran out, once too often.
    Poisoned,
    /// It is not due.
    NotDue,
}

#[cfg(test)]
mod tests;
