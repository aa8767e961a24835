//! The book: what a store knows of the tasks that an operation touches, and what
//! becomes of them. Pure; every rule about leases, repeated appends, kept signals,
//! parents and children stands here once, for all backends.
//!
//! A backend loads the entries that an operation needs, calls the operation, and
//! writes the [`Change`]s in one atomic step, on the condition that nothing that
//! was loaded has changed meanwhile (by locks, or by comparing versions). An
//! operation that needs an entry which is not in the book says so
//! ([`Needs`]) and changes nothing: the backend loads it and calls again.

use std::collections::HashMap;

use super::intake::Encoded;
use super::ledger;
use super::model::{Append, AppendError, Limits, SignalError, Signalled, StoreError};
use crate::clock::Timestamp;
use crate::id::{AppendId, LeaseToken, TaskId, WorkerId};
use crate::journal::{Event, Recorded};
use crate::task::{DeadReason, Head, Signal, State, StateName};

/// A lease as a store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The right to write.
    pub token: LeaseToken,
    /// Until when, by the store's clock.
    pub expires: Timestamp,
}

/// The newest append, so that it is answered again when its answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAppend {
    /// Which one.
    pub id: AppendId,
    /// The number of the first event that it added.
    pub from: u64,
    /// One more than the number of the last one.
    pub to: u64,
}

/// A task as a store keeps it, beside its journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The fold of its journal.
    pub head: Head,
    /// Who holds it; only while running.
    pub lease: Option<Lease>,
    /// Signals that wait for the holder, in order.
    pub kept: Vec<Signal>,
    /// The size of its journal: the sum of its events as JSON.
    pub journal_bytes: u64,
    /// See [`LastAppend`].
    pub last_append: Option<LastAppend>,
    /// Its unfinished children, whether it has journaled them or not.
    pub children: Vec<TaskId>,
    /// For a task that is done: its newest event, which says how it ended.
    pub ending: Option<Recorded>,
    /// A version that could not read it made a dead letter of it: it counts and is
    /// listed as one, although its journal does not say so yet.
    pub set_aside: bool,
}

/// What a store knows of an id.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// There is no such task.
    Missing,
    /// There is one, but this version cannot read it; why.
    Unreadable(String),
    /// It is this.
    Task(Box<Entry>),
}

/// Entries that must be loaded before the operation can be done. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs(pub Vec<TaskId>);

/// What an operation did to a task: to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// As it was loaded: the condition under which the change may be written.
    pub before: Entry,
    /// As it is to be.
    pub after: Entry,
    /// The events to be added, with their JSON.
    pub added: Vec<(Recorded, String)>,
}

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
    loaded: HashMap<TaskId, Known>,
    changed: HashMap<TaskId, Change>,
    order: Vec<TaskId>,
}

/// The changes of one operation, until it has come to its end.
struct Draft<'b> {
    book: &'b Book,
    changed: HashMap<TaskId, Change>,
    order: Vec<TaskId>,
    missing: Vec<TaskId>,
}

impl Book {
    /// An empty book at the store's time `now`.
    pub fn new(now: Timestamp, limits: Limits) -> Self {
        Self { now, limits, loaded: HashMap::new(), changed: HashMap::new(), order: Vec::new() }
    }

    /// The next operation happens at this time.
    pub fn at(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Enters what was loaded.
    pub fn load(&mut self, id: TaskId, known: Known) {
        self.loaded.insert(id, known);
    }

    /// Whether an id was loaded.
    pub fn knows(&self, id: TaskId) -> bool {
        self.loaded.contains_key(&id)
    }

    /// A task as it is after the operations so far.
    pub fn entry(&self, id: TaskId) -> Option<&Entry> {
        match (self.changed.get(&id), self.loaded.get(&id)) {
            (Some(change), _) => Some(&change.after),
            (None, Some(Known::Task(entry))) => Some(entry),
            _ => None,
        }
    }

    /// All changes, each task once, in the order in which they were touched first.
    pub fn into_changes(mut self) -> Vec<Change> {
        self.order.iter().filter_map(|id| self.changed.remove(id)).collect()
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
            let mut after = before.clone();
            let mut signals = std::mem::take(&mut after.kept);
            signals.extend(draft.ended_children(task, &append.events));
            let recorded = ledger::append(&mut after.head, append.events.clone(), append.next.clone(), &signals, now)?;
            let to = after.head.version + 1;
            after.last_append = Some(LastAppend { id: append.id, from: before.head.version + 1, to });
            draft.put(&before, after, &recorded, &encoded.events).map_err(AppendError::Store)?;
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
            let mut after = before.clone();
            let Ok(recorded) = ledger::lease(&mut after.head, worker, now) else { return Ok(false) };
            after.lease = Some(lease);
            draft.put(&before, after, &recorded, &[])?;
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
            let mut after = before.clone();
            let expired = matches!(before.head.state, State::Running { .. });
            let moved = if expired {
                ledger::expire(&mut after.head, &std::mem::take(&mut after.kept), barren_limit, now)
            } else {
                ledger::wake(&mut after.head, now)
            };
            let Ok(recorded) = moved else { return Ok(DueAnswer::NotDue) };
            let poison = matches!(after.head.state, State::Dead { reason: DeadReason::Poison, .. });
            draft.put(&before, after, &recorded, &[])?;
            draft.settle(&before, task, now)?;
            Ok(match (expired, poison) {
                (true, true) => DueAnswer::Poisoned,
                (true, false) => DueAnswer::Expired,
                (false, _) => DueAnswer::Woken,
            })
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
            let mut after = before.clone();
            after.kept.clear();
            if let Ok(recorded) = ledger::set_aside(&mut after.head, ledger::unreadable(why), now) {
                draft.put(&before, after, &recorded, &[])?;
                draft.settle(&before, task, now)?;
            }
            Ok(())
        })
    }

    /// Does an operation on a draft, and keeps what it changed if it comes to an answer.
    fn operation<T, E>(&mut self, work: impl FnOnce(&mut Draft<'_>) -> Result<T, E>) -> Result<T, Stop<E>> {
        let mut draft = Draft { book: self, changed: HashMap::new(), order: Vec::new(), missing: Vec::new() };
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

impl Entry {
    /// A task that was just accepted.
    pub fn open(head: Head, journal_bytes: u64) -> Self {
        Self {
            head,
            lease: None,
            kept: Vec::new(),
            journal_bytes,
            last_append: None,
            children: Vec::new(),
            ending: None,
            set_aside: false,
        }
    }

    /// Whether this token may write now.
    pub fn is_held_by(&self, token: LeaseToken, now: Timestamp) -> bool {
        matches!(self.head.state, State::Running { .. })
            && self.lease.is_some_and(|lease| lease.token == token && now < lease.expires)
    }

    /// The state that it counts under.
    pub const fn state(&self) -> StateName {
        if self.set_aside { StateName::Dead } else { self.head.state.name() }
    }

    /// When the store has to look at it: a timer, or the end of its lease.
    pub fn due_at(&self) -> Option<Timestamp> {
        if self.set_aside {
            return None;
        }
        self.lease.map(|lease| lease.expires).or_else(|| self.head.due_at())
    }

    /// Since when it has been ready, if it is.
    pub const fn ready_since(&self) -> Option<Timestamp> {
        match &self.head.state {
            State::Ready { since } if !self.set_aside => Some(*since),
            _ => None,
        }
    }
}

impl Draft<'_> {
    /// A task as it is now. One that was not loaded is noted, and seems to be missing until it is.
    fn find(&mut self, id: TaskId) -> Result<Option<Entry>, StoreError> {
        if let Some(change) = self.changed.get(&id).or_else(|| self.book.changed.get(&id)) {
            return Ok(Some(change.after.clone()));
        }
        match self.book.loaded.get(&id) {
            Some(Known::Task(entry)) => Ok(Some((**entry).clone())),
            Some(Known::Missing) => Ok(None),
            Some(Known::Unreadable(why)) => {
                Err(StoreError::Damaged(format!("task {id} cannot be read by this version: {why}")))
            }
            None => {
                self.missing.push(id);
                Ok(None)
            }
        }
    }

    /// Notes a task as it is to be, with events of which the first may be encoded already.
    fn put(
        &mut self,
        before: &Entry,
        mut after: Entry,
        recorded: &[Recorded],
        encoded: &[String],
    ) -> Result<(), StoreError> {
        let mut added = Vec::with_capacity(recorded.len());
        for (index, new) in recorded.iter().enumerate() {
            let event = match encoded.get(index) {
                Some(event) => event.clone(),
                None => serde_json::to_string(&new.event)
                    .map_err(|error| StoreError::Refused(format!("an event cannot be encoded: {error}")))?,
            };
            after.journal_bytes += event.len() as u64;
            added.push((new.clone(), event));
        }
        if !matches!(after.head.state, State::Running { .. }) {
            after.lease = None;
        }
        after.ending = if after.head.state.is_terminal() { recorded.last().cloned().or(after.ending) } else { None };
        let id = after.head.id;
        if let Some(change) = self.changed.get_mut(&id) {
            change.after = after;
            change.added.extend(added);
            return Ok(());
        }
        let change = match self.book.changed.get(&id) {
            Some(earlier) => {
                let mut change = earlier.clone();
                change.after = after;
                change.added.extend(added);
                change
            }
            None => {
                self.order.push(id);
                Change { before: before.clone(), after, added }
            }
        };
        self.changed.insert(id, change);
        Ok(())
    }

    /// Applies a signal, and says the state that the task is in then; or keeps it for the holder.
    fn tell(&mut self, before: &Entry, signal: &Signal, now: Timestamp) -> Result<Option<StateName>, SignalError> {
        let mut after = before.clone();
        let mut recorded = Vec::new();
        if before.set_aside && !after.head.state.is_terminal() {
            // This version can read it: now its journal can say what happened to it.
            let failure = ledger::unreadable("it was set aside by a version that could not read it");
            recorded = ledger::set_aside(&mut after.head, failure, now).unwrap_or_default();
        }
        if let Some(applied) = ledger::signal(&mut after.head, &before.kept, signal, now)? {
            let state = after.head.state.name();
            recorded.extend(applied);
            after.set_aside = false;
            self.put(before, after, &recorded, &[])?;
            return Ok(Some(state));
        }
        // Asking twice for the same end keeps one request, so that the inbox stays small.
        let cancel = |signal: &Signal| matches!(signal, Signal::Cancel { .. });
        if !(cancel(signal) && after.kept.iter().any(cancel)) {
            after.kept.push(signal.clone());
            self.put(before, after, &[], &[])?;
        }
        Ok(None)
    }

    /// Everyone who must hear of a change hears of it: the parent of a task that is
    /// done, and its unfinished children; and so on.
    fn settle(&mut self, before: &Entry, task: TaskId, now: Timestamp) -> Result<(), StoreError> {
        let mut unsettled = vec![(before.clone(), task)];
        while let Some((before, id)) = unsettled.pop() {
            let Some(after) = self.find(id)? else { continue };
            if before.head.state.is_terminal() || !after.head.state.is_terminal() {
                continue;
            }
            let newest: Vec<Recorded> = after.ending.iter().cloned().collect();
            let to_parent = ledger::notice(&before.head, &after.head, &newest);
            let to_children = after.children.iter().map(|child| (*child, ledger::cancel_child(id)));
            for (other, signal) in to_parent.into_iter().chain(to_children) {
                // What this version cannot read is set aside by whoever comes upon it.
                let Ok(Some(found)) = self.find(other) else { continue };
                match self.tell(&found, &signal, now) {
                    Ok(Some(_)) => unsettled.push((found, other)),
                    Ok(None) | Err(SignalError::Refused(_) | SignalError::NotFound(_)) => {}
                    Err(SignalError::Store(error)) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// A child may be done before its parent has journaled that there is one, and
    /// its signal may have come and gone by then. So whoever says that a task has a
    /// child is told at once how it ended: no parent waits for a child that is done.
    fn ended_children(&mut self, parent: TaskId, events: &[Event]) -> Vec<Signal> {
        let mut signals = Vec::new();
        for event in events {
            let Event::ChildSubmitted { child, .. } = event else { continue };
            if *child == parent {
                continue;
            }
            match self.find(*child) {
                Ok(Some(entry)) if entry.head.state.is_terminal() => {
                    let newest: Vec<Recorded> = entry.ending.into_iter().collect();
                    signals.extend(ledger::ended(*child, &newest));
                }
                Ok(_) => {}
                Err(error) => signals.push(ledger::lost_child(*child, &error.to_string())),
            }
        }
        signals
    }
}
