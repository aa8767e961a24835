//! One operation on a book, until it has come to its end: what it finds, changes,
//! and passes on to parents and children.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{Added, Change, Entry};
use super::{Book, Loaded};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::journal::{Chained, Event, EventHash, Fingerprint, Recorded, SealKey};
use crate::store::intake::Encoded;
use crate::store::{SignalError, StoreError, ledger};
use crate::task::{Signal, State, StateName};

/// What an operation is about to make of a task.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) before: Arc<Entry>,
    pub(super) after: Arc<Entry>,
    pub(super) added: Vec<Added>,
    pub(super) erased: Option<Vec<Chained>>,
}

/// The changes of one operation, until it has come to its end.
pub(super) struct Draft<'b> {
    book: &'b Book,
    pub(super) changed: HashMap<TaskId, Pending>,
    /// Those that the book has no change of yet, as they were touched.
    pub(super) order: Vec<TaskId>,
    /// What was looked for and was not loaded.
    pub(super) missing: Vec<TaskId>,
}

impl Pending {
    pub(super) fn into_change(self, key: Option<&SealKey>) -> Change {
        let Self { before, after, added, erased } = self;
        // One signature for all that was added.
        let seal = if added.is_empty() { None } else { key.and_then(|key| after.sealed(key)) };
        Change { before: Arc::unwrap_or_clone(before), after: Arc::unwrap_or_clone(after), added, seal, erased }
    }
}

impl<'b> Draft<'b> {
    pub(super) fn new(book: &'b Book) -> Self {
        Self { book, changed: HashMap::new(), order: Vec::new(), missing: Vec::new() }
    }

    /// A task as it is now. One that was not loaded is noted, and seems to be missing until it is.
    pub(super) fn find(&mut self, id: TaskId) -> Result<Option<Arc<Entry>>, StoreError> {
        if let Some(pending) = self.changed.get(&id).or_else(|| self.book.changed.get(&id)) {
            return Ok(Some(Arc::clone(&pending.after)));
        }
        match self.book.loaded.get(&id) {
            Some(Loaded::Task(entry)) => Ok(Some(Arc::clone(entry))),
            Some(Loaded::Missing) => Ok(None),
            Some(Loaded::Unreadable(why)) => {
                Err(StoreError::Damaged(format!("task {id} cannot be read by this version: {why}")))
            }
            None => {
                if !self.missing.contains(&id) {
                    self.missing.push(id);
                }
                Ok(None)
            }
        }
    }

    /// Notes a task as it is to be, with new events, of which the first may be encoded already: here each gets its hash.
    pub(super) fn put(
        &mut self,
        before: &Arc<Entry>,
        mut after: Entry,
        recorded: &[Recorded],
        encoded: Option<&Encoded>,
    ) -> Result<(), StoreError> {
        let unencodable = |error| StoreError::Refused(format!("an event cannot be encoded: {error}"));
        let mut added = Vec::with_capacity(recorded.len());
        for (index, new) in recorded.iter().enumerate() {
            let known = encoded.and_then(|encoded| Some((encoded.events.get(index)?, encoded.prints.get(index)?)));
            let (event, print) = match known {
                Some((event, print)) => (event.clone(), *print),
                None => (
                    serde_json::to_string(&new.event).map_err(unencodable)?,
                    Fingerprint::of(&new.event).map_err(unencodable)?,
                ),
            };
            after.journal_bytes += event.len() as u64;
            let hash = EventHash::of(after.head.id, after.hash, new.seq, new.at, &print);
            after.hash = Some(hash);
            added.push(Added { recorded: new.clone(), event, hash });
        }
        if !matches!(after.head.state, State::Running { .. }) {
            after.lease = None;
        }
        after.ending = if after.head.state.is_terminal() { recorded.last().cloned().or(after.ending) } else { None };
        let (id, after) = (after.head.id, Arc::new(after));
        if let Some(pending) = self.changed.get_mut(&id) {
            pending.after = after;
            pending.added.extend(added);
            return Ok(());
        }
        let pending = if let Some(earlier) = self.book.changed.get(&id) {
            let added = earlier.added.iter().cloned().chain(added).collect();
            Pending { before: Arc::clone(&earlier.before), after, added, erased: earlier.erased.clone() }
        } else {
            self.order.push(id);
            Pending { before: Arc::clone(before), after, added, erased: None }
        };
        self.changed.insert(id, pending);
        Ok(())
    }

    /// Notes that what a task's journal said is to be without data: all events but those that were just added.
    pub(super) fn rewrite(&mut self, task: TaskId, events: Vec<Chained>) {
        if let Some(pending) = self.changed.get_mut(&task) {
            pending.erased = Some(events);
        }
    }

    /// Applies a signal, and says the state that the task is in then; or keeps it for the holder.
    pub(super) fn tell(
        &mut self,
        before: &Arc<Entry>,
        signal: &Signal,
        now: Timestamp,
    ) -> Result<Option<StateName>, SignalError> {
        let mut after = Entry::clone(before);
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
            self.put(before, after, &recorded, None)?;
            return Ok(Some(state));
        }
        // Asking twice for the same end keeps one request, so that the inbox stays small.
        let cancel = |signal: &Signal| matches!(signal, Signal::Cancel { .. });
        if !(cancel(signal) && after.kept.iter().any(cancel)) {
            after.kept.push(signal.clone());
            self.put(before, after, &[], None)?;
        }
        Ok(None)
    }

    /// Everyone who must hear of a change hears of it: the parent of a task that is
    /// done, and its unfinished children; and so on.
    pub(super) fn settle(&mut self, before: &Arc<Entry>, task: TaskId, now: Timestamp) -> Result<(), StoreError> {
        let mut unsettled = vec![(Arc::clone(before), task)];
        while let Some((before, id)) = unsettled.pop() {
            let Some(after) = self.find(id)? else { continue };
            if before.head.state.is_terminal() || !after.head.state.is_terminal() {
                continue;
            }
            let to_parent = ledger::notice(&before.head, &after.head, after.ending.as_slice());
            let to_children = self.children(&after).into_iter().map(|child| (child, ledger::cancel_child(id)));
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

    /// The unfinished children of a task, with those that earlier operations of the book sent on their way again.
    fn children(&self, parent: &Entry) -> Vec<TaskId> {
        let of_parent = |entry: &Entry| entry.head.parent.as_ref().is_some_and(|of| of.task == parent.head.id);
        let mut children = parent.children.clone();
        for (id, pending) in self.book.changed.iter().chain(&self.changed) {
            if of_parent(&pending.after) && !pending.after.head.state.is_terminal() && !children.contains(id) {
                children.push(*id);
            }
        }
        children.sort_unstable();
        children
    }

    /// A child may be done before its parent has journaled that there is one, and
    /// its signal may have come and gone by then. So whoever says that a task has a
    /// child is told at once how it ended: no parent waits for a child that is done.
    pub(super) fn ended_children(&mut self, parent: TaskId, events: &[Event]) -> Vec<Signal> {
        let mut signals = Vec::new();
        for event in events {
            let Event::ChildSubmitted { child, .. } = event else { continue };
            if *child == parent {
                continue;
            }
            match self.find(*child) {
                Ok(Some(entry)) if entry.state().is_terminal() => {
                    let ended = entry.ending.as_slice();
                    let lost = || ledger::lost_child(*child, "its last event cannot be read by this version");
                    signals.push(ledger::ended(*child, ended).unwrap_or_else(lost));
                }
                Ok(_) => {}
                Err(error) => signals.push(ledger::lost_child(*child, &error.to_string())),
            }
        }
        signals
    }
}
