//! A task as a store keeps it beside its journal, and what an operation made of it.

use crate::clock::Timestamp;
use crate::id::{AppendId, BlobName, LeaseToken, TaskId};
use crate::journal::{Chained, EventHash, Recorded, Reference, Seal, SealKey};
use crate::store::Hint;
use crate::task::{Head, Signal, State, StateName};

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
    /// The hash of its newest event, if the chain of its journal goes that far.
    pub hash: Option<EventHash>,
    /// See [`LastAppend`].
    pub last_append: Option<LastAppend>,
    /// Its unfinished children, whether it has journaled them or not. Only an operation
    /// that ends the task looks at them.
    pub children: Vec<TaskId>,
    /// For a task that is done: its newest event, which says how it ended; nothing if
    /// this version cannot read that.
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

/// What an operation did to a task: to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// As it was loaded: the condition under which the change may be written.
    pub before: Entry,
    /// As it is to be.
    pub after: Entry,
    /// The events to be added.
    pub added: Vec<Added>,
    /// The seal of the journal with these, if there is a key.
    pub seal: Option<Seal>,
    /// If its data is erased: all events that it had, in order, without data. It uses no blob any more.
    pub erased: Option<Vec<Chained>>,
}

/// An event that is to be added to a journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// The event.
    pub recorded: Recorded,
    /// The same as JSON.
    pub event: String,
    /// Its hash.
    pub hash: EventHash,
}

impl Change {
    /// The blobs that the task uses from now on: what its new events and newly kept signals refer to.
    pub fn blobs(&self) -> Vec<BlobName> {
        let mut names = Vec::new();
        for Added { recorded, event, .. } in &self.added {
            names.extend(Reference::in_event(&recorded.event, event));
        }
        let kept = self.after.kept.strip_prefix(self.before.kept.as_slice()).unwrap_or(&self.after.kept);
        names.extend(kept.iter().flat_map(Reference::in_signal));
        names
    }
}

impl Change {
    /// The hint that the task became ready by this change, if it did.
    pub fn hint(&self) -> Option<Hint> {
        self.after.ready_since()?;
        let mut head = self.before.head.clone();
        let mut version = None;
        for Added { recorded, .. } in &self.added {
            let ready = matches!(head.state, State::Ready { .. });
            head.apply(recorded).ok()?;
            match head.state {
                State::Ready { .. } if !ready => version = Some(recorded.seq),
                State::Ready { .. } => {}
                _ => version = None,
            }
        }
        version.map(|version| Hint { version, ..Hint::of(&self.after.head) })
    }
}

impl Entry {
    /// A task that was just accepted.
    pub fn open(head: Head, journal_bytes: u64, hash: Option<EventHash>) -> Self {
        Self {
            head,
            lease: None,
            kept: Vec::new(),
            journal_bytes,
            hash,
            last_append: None,
            children: Vec::new(),
            ending: None,
            set_aside: false,
        }
    }

    /// The seal of its journal as it is.
    pub fn sealed(&self, key: &SealKey) -> Option<Seal> {
        Some(key.seal(self.head.id, self.head.version, self.hash?))
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
