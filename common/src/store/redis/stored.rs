//! Tasks as they come from the server, taken apart: a record, and an entry of the
//! book where one is needed. Pure.

use std::collections::BTreeMap;

use redis::Value;
use serde::Deserialize;

use super::record::{Extra, Record, Stamp};
use super::reply::{self, Reply, damaged};
use super::unit;
use crate::clock::Timestamp;
use crate::id::{Digest, PipelineName, TaskId};
use crate::journal::chain::{self, Reading};
use crate::journal::{Chained, Event, EventHash, Recorded, Usage};
use crate::store::book::{Entry, Known};
use crate::store::{StoreError, ledger};
use crate::task::{DeadReason, Head, Signal, State};

/// A task as the store has it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    pub(super) stamp: Stamp,
    pub(super) extra: Extra,
    /// Signals that this version cannot read: they are left alone.
    pub(super) foreign: Vec<Vec<u8>>,
}

/// What an id leads to.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Missing,
    Task(Box<Stored>),
    Unreadable(Box<Unreadable>),
}

/// A task whose journal or head this version cannot read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) id: TaskId,
    pub(super) record: Record,
    pub(super) why: String,
    /// Its unfinished children.
    pub(super) children: Vec<TaskId>,
    /// What stands at the beginning of its first event, as far as it can be told.
    first: Option<Glimpse>,
}

/// What people are shown of a task that cannot be read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Glimpse {
    pipeline: Option<String>,
    digest: Option<String>,
}

impl Found {
    pub(super) fn known(&self) -> Known {
        match self {
            Self::Missing => Known::Missing,
            Self::Task(stored) => Known::Task(Box::new(stored.entry.clone())),
            Self::Unreadable(unreadable) => Known::Unreadable(unreadable.why.clone()),
        }
    }

    /// The mark by which a change is noticed.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Missing => None,
            Self::Task(stored) => Some(stored.stamp),
            Self::Unreadable(unreadable) => Some(unreadable.record.stamp),
        }
    }

    /// The head that readers are shown. A task that was set aside shows as a dead letter.
    pub(super) fn head(self) -> Option<Head> {
        match self {
            Self::Missing => None,
            Self::Task(stored) => {
                let Entry { mut head, set_aside, .. } = stored.entry;
                if set_aside && !head.state.is_terminal() {
                    let why = "it was set aside by a version that could not read it";
                    head.state = unreadable(why, head.updated_at);
                }
                Some(head)
            }
            Self::Unreadable(unreadable) => unreadable.stand_in(),
        }
    }
}

fn unreadable(why: impl std::fmt::Display, at: Timestamp) -> State {
    State::Dead { at, reason: DeadReason::Unreadable, error: ledger::unreadable(why), step: None }
}

impl Unreadable {
    fn stand_in(self) -> Option<Head> {
        let at = self.record.at.unwrap_or_default();
        let glimpse = self.first.unwrap_or_default();
        let digest = glimpse.digest.and_then(|digest| Digest::try_from(digest).ok());
        let named = glimpse.pipeline.and_then(|name| PipelineName::new(name).ok());
        Some(Head {
            id: self.id,
            pipeline: named.or_else(|| PipelineName::new("unreadable").ok())?,
            digest: digest.unwrap_or_else(|| Digest::of(self.why.as_bytes())),
            queue: self.record.queue,
            priority: self.record.priority,
            labels: BTreeMap::new(),
            key: None,
            parent: None,
            batch: None,
            created_at: at,
            updated_at: at,
            version: self.record.version,
            attempts: self.record.attempts,
            barren_attempts: 0,
            worked_ms: 0,
            usage: Usage::default(),
            open_approvals: Vec::new(),
            unknown_outcomes: Vec::new(),
            open_children: Vec::new(),
            open_entries: Vec::new(),
            erased_at: None,
            state: unreadable(self.why, at),
        })
    }

    /// What a caller is told who wants to change it.
    pub(super) fn damage(&self) -> StoreError {
        StoreError::Damaged(format!("task {} cannot be read by this version: {}", self.id, self.why))
    }
}

/// An event from an element of a journal, and its hash.
fn event(task: TaskId, seq: u64, element: &[u8]) -> Result<(Recorded, Option<EventHash>), String> {
    let wrong = |why: &dyn std::fmt::Display| format!("event {seq} of task {task}: {why}");
    let Chained { at, event, hash, .. } = unit::chained(seq, element).ok_or_else(|| wrong(&"it has no time"))?;
    let event: Event = serde_json::from_str(&event).map_err(|error| wrong(&error))?;
    Ok((Recorded { seq, at, event }, hash))
}

/// Some events of a journal that follow upon each other, and the hash of the last, if that is known.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) events: Vec<Recorded>,
    pub(super) hash: Option<EventHash>,
}

/// Events from elements, numbered from `from`.
pub(super) fn events<E: AsRef<[u8]>>(task: TaskId, from: u64, elements: &[E]) -> Result<Stretch, String> {
    let mut events = Vec::with_capacity(elements.len());
    let mut hashes = Vec::with_capacity(elements.len());
    for (element, seq) in elements.iter().zip(from..) {
        let (recorded, hash) = event(task, seq, element.as_ref())?;
        events.push(recorded);
        hashes.push(hash);
    }
    // Those that a script wrote have none.
    let hash = chain::head(task, None, Reading::of(&events), events.iter().zip(hashes));
    Ok(Stretch { events, hash })
}

/// The bytes of elements.
pub(super) fn elements(values: impl IntoIterator<Item = Value>) -> Vec<Vec<u8>> {
    values.into_iter().map(reply::bytes).collect()
}

/// A task as `load.lua` answers with it.
pub(super) fn task(id: TaskId, value: Value) -> Result<Found, StoreError> {
    let mut parts = Reply::new(value);
    if parts.is_empty() {
        return Ok(Found::Missing);
    }
    let record = record(&parts.bytes())?;
    let snapshot = parts.bytes();
    let from = u64::try_from(parts.integer()?).map_err(|_| damaged("an event's number"))?;
    let elements = elements(parts.list());
    let signals: Vec<Vec<u8>> = parts.list().into_iter().map(reply::bytes).collect();
    let children = parts.list().into_iter().map(|id| reply::task(&reply::bytes(id))).collect::<Result<Vec<_>, _>>()?;
    let (kept, foreign) = kept(signals);
    match head(id, &snapshot, from, &elements) {
        Ok((head, newest, hash)) => {
            let mut stored = assemble(record, head, newest, hash);
            (stored.entry.kept, stored.foreign, stored.entry.children) = (kept, foreign, children);
            Ok(Found::Task(Box::new(stored)))
        }
        Err(why) => {
            let first = elements.first().filter(|_| from == 1).and_then(|first| {
                let start = first.iter().position(|byte| *byte == b'{')?;
                serde_json::from_slice(first.get(start..)?).ok()
            });
            Ok(Found::Unreadable(Box::new(Unreadable { id, record, why, children, first })))
        }
    }
}

/// The signals that this version can read, and the others.
fn kept(signals: Vec<Vec<u8>>) -> (Vec<Signal>, Vec<Vec<u8>>) {
    let mut kept = Vec::new();
    let mut foreign = Vec::new();
    for signal in signals {
        match serde_json::from_slice(&signal) {
            Ok(signal) => kept.push(signal),
            Err(_) => foreign.push(signal),
        }
    }
    (kept, foreign)
}

/// The record that some bytes are.
pub(super) fn record(bytes: &[u8]) -> Result<Record, StoreError> {
    Record::decode(bytes).ok_or_else(|| damaged("the record of a task"))
}

/// The head, from a snapshot and the events from there on; the newest event, and its hash.
fn head(
    id: TaskId,
    snapshot: &[u8],
    from: u64,
    elements: &[Vec<u8>],
) -> Result<(Head, Option<Recorded>, Option<EventHash>), String> {
    let Stretch { mut events, hash } = events(id, from, elements)?;
    if snapshot.is_empty() {
        let head = Head::fold(id, &events).map_err(|illegal| illegal.to_string())?;
        return Ok((head, events.pop(), hash));
    }
    let mut head: Head = serde_json::from_slice(snapshot).map_err(|error| format!("its snapshot: {error}"))?;
    for recorded in &events {
        if recorded.seq > head.version {
            head.apply(recorded).map_err(|illegal| illegal.to_string())?;
        }
    }
    Ok((head, events.pop(), hash))
}

/// A task of which nothing else is known than its record, its head, and its newest event with its hash.
pub(super) fn assemble(record: Record, head: Head, newest: Option<Recorded>, hash: Option<EventHash>) -> Stored {
    let ending = newest.filter(|_| head.state.is_terminal());
    let entry = Entry {
        head,
        lease: record.lease,
        kept: Vec::new(),
        journal_bytes: record.journal_bytes,
        hash,
        last_append: record.last_append,
        children: Vec::new(),
        ending,
        set_aside: record.set_aside,
    };
    Stored { entry, stamp: record.stamp, extra: record.extra, foreign: Vec::new() }
}
