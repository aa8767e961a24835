//! What a change of a task means for everything that is kept of it: its record,
//! its journal, and the indexes and counters that lead to it. Pure; the rules of
//! what changes are those of the book.

use super::keys;
use super::record::{self, Extra, Record, Stamp, millis, ready_score};
use super::stored::{Stored, Unreadable};
use super::unit::{Unit, element};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::StoreError;
use crate::store::book::{Change, Entry};
use crate::task::{Signal, StateName};

/// A snapshot of the head is kept each time that so many events were added since the one before,
/// so that reading a head costs O(recent events).
const SNAPSHOT: u64 = 64;

/// What a done task counts for in retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Finished,
    Dead,
}

impl Class {
    pub(super) const ALL: [Self; 2] = [Self::Finished, Self::Dead];

    pub(super) const fn of(state: StateName) -> Option<Self> {
        match state {
            StateName::Succeeded | StateName::Cancelled => Some(Self::Finished),
            StateName::Dead => Some(Self::Dead),
            _ => None,
        }
    }

    /// The list of those that finished, which is also the counter of tasks; and the counter of bytes.
    pub(super) const fn names(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Finished => (b"f", b"F"),
            Self::Dead => (b"d", b"D"),
        }
    }

    /// The sorted set of those that do not stand in the list in order: that finished in another store, or that
    /// retention looks at later because an unfinished parent may still ask for them.
    pub(super) const fn by_time(self) -> &'static [u8] {
        match self {
            Self::Finished => b"ft",
            Self::Dead => b"dt",
        }
    }
}

/// The sorted set of ids that tasks of a state are listed in.
pub(super) const fn listed_in(state: StateName) -> &'static str {
    match state {
        StateName::Succeeded => "done",
        StateName::Cancelled | StateName::Dead => "failed",
        _ => "open",
    }
}

/// What retention is to look at in time: the task, and when it finished.
fn finished(task: TaskId, at: Timestamp) -> Vec<u8> {
    [task.as_uuid().as_bytes().as_slice(), &millis(at).to_be_bytes()].concat()
}

/// Where a task stands in indexes and counters.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    state: StateName,
    ready: Option<i64>,
    due: Option<Timestamp>,
    finished: Option<(Class, Timestamp)>,
    asks: bool,
    bytes: u64,
}

impl Place {
    fn of(entry: &Entry, at: Option<Timestamp>) -> Self {
        let state = entry.state();
        Self {
            state,
            ready: entry.ready_since().map(|since| ready_score(entry.head.priority, since)),
            due: entry.due_at(),
            finished: Class::of(state).zip(at.or(Some(entry.head.updated_at))),
            asks: !entry.set_aside && !entry.head.open_approvals.is_empty(),
            bytes: entry.journal_bytes,
        }
    }
}

/// What all tasks of a unit share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Whether hints are kept until a broker has them.
    pub(super) hints: bool,
    pub(super) now: Timestamp,
}

/// Moves a task from where it was (nowhere, if it is new) to where it is (nowhere, if it goes).
fn move_task(
    unit: &mut Unit,
    task: TaskId,
    queue: &str,
    batch: Option<&str>,
    from: Option<Place>,
    to: Option<Place>,
    manner: Manner,
) {
    let id = || task.as_uuid().as_bytes().to_vec();
    let queued = |place: Option<Place>| place.and_then(|place| place.ready);
    if queued(from) != queued(to) {
        if let Some(score) = queued(to) {
            unit.command("ZADD", keys::named("q", queue), [score.to_string().into_bytes(), id()]);
            if manner.hints {
                unit.command("ZADD", b"outbox".to_vec(), [millis(manner.now).to_string().into_bytes(), id()]);
            }
        } else {
            unit.strike(&keys::named("q", queue), task);
            unit.strike(b"outbox", task);
        }
    }
    let due = |place: Option<Place>| place.and_then(|place| place.due);
    if due(from) != due(to) {
        match due(to) {
            Some(at) => unit.command("ZADD", b"due".to_vec(), [millis(at).to_string().into_bytes(), id()]),
            None => unit.strike(b"due", task),
        }
    }
    let state = |place: Option<Place>| place.map(|place| place.state);
    let listed = |place| state(place).map(listed_in);
    if listed(from) != listed(to) {
        if let Some(list) = listed(from) {
            unit.strike(list.as_bytes(), task);
        }
        if let Some(list) = listed(to) {
            unit.list_under(list, task);
        }
    }
    let asks = |place: Option<Place>| place.is_some_and(|place| place.asks);
    match (asks(from), asks(to)) {
        (false, true) => unit.list_under("ask", task),
        (true, false) => unit.strike(b"ask", task),
        _ => {}
    }
    if state(from) != state(to) {
        for (state, by) in [(state(from), -1), (state(to), 1)] {
            let Some(state) = state else { continue };
            unit.count(b"n", keys::counter(state, queue), by);
            if let Some(batch) = batch {
                unit.count(&keys::named("bn", batch), vec![record::digit(state)], by);
            }
        }
    }
    let kept = |place: Option<Place>| place.and_then(|place| Some((place.finished?, place.bytes)));
    if kept(from) != kept(to) {
        for (kept, by) in [(kept(from), -1), (kept(to), 1)] {
            let Some(((class, _), bytes)) = kept else { continue };
            let (tasks_field, bytes_field) = class.names();
            unit.count(b"n", tasks_field.to_vec(), by);
            unit.count(b"n", bytes_field.to_vec(), by * i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let finish = |place: Option<Place>| place.and_then(|place| place.finished);
        match (from, finish(to)) {
            (None, Some((class, at))) => stand_by_time(unit, class, task, at),
            (Some(_), Some((class, at))) if finish(from) != finish(to) => {
                unit.command("RPUSH", class.names().0.to_vec(), [finished(task, at)]);
            }
            _ => {}
        }
    }
}

/// Retention looks at a done task at a time that is not that of the newest.
pub(super) fn stand_by_time(unit: &mut Unit, class: Class, task: TaskId, at: Timestamp) {
    let score = millis(at).to_string().into_bytes();
    unit.command("ZADD", class.by_time().to_vec(), [score, finished(task, at)]);
}

/// Adds a new task with the first events of its journal.
pub(super) fn bear(unit: &mut Unit, entry: &Entry, extra: &Extra, stamp: Stamp, events: &[Vec<u8>], manner: Manner) {
    let task = entry.head.id;
    let record = Record::of(entry, 0, extra, stamp);
    let Some((first, more)) = events.split_first() else { return };
    unit.bear(task, &record, first);
    for event in more {
        unit.command("RPUSH", keys::of(b't', task), [event.clone()]);
    }
    let (queue, batch) = (entry.head.queue.as_str(), extra.batch.as_ref().map(AsRef::as_ref));
    move_task(unit, task, queue, batch, None, Some(Place::of(entry, record.at)), manner);
    if let Some(batch) = batch {
        unit.count(&keys::named("bn", batch), b"t".to_vec(), 1);
        if entry.head.usage.cost_usd != 0.0 {
            unit.cost(batch, entry.head.usage.cost_usd);
        }
    }
    if let Some(key) = &extra.key {
        unit.command("HSET", b"keys".to_vec(), [key.to_vec(), task.as_uuid().as_bytes().to_vec()]);
    }
    if let Some(parent) = &entry.head.parent {
        unit.command("ZADD", keys::of(b'c', parent.task), [b"0".to_vec(), task.as_uuid().as_bytes().to_vec()]);
        if !entry.state().is_terminal() {
            unit.command("SADD", keys::of(b'u', parent.task), [task.as_uuid().as_bytes().to_vec()]);
        }
    }
}

/// Writes a change of a task that was loaded; answers with the task as it is then.
pub(super) fn write(
    unit: &mut Unit,
    before: &Stored,
    change: &Change,
    stamp: Stamp,
    manner: Manner,
) -> Result<Stored, StoreError> {
    let after = &change.after;
    let task = after.head.id;
    let mut extra = before.extra.clone();
    extra.seal = change.seal.or(extra.seal);
    let erased = change.erased.is_some();
    if after.head.version >= extra.snapshot + SNAPSHOT || (erased && extra.snapshot > 0) {
        extra.snapshot = after.head.version;
        unit.command("SET", keys::of(b'h', task), [encode(&after.head)?]);
    }
    let foreign = write_kept(unit, before, after)?;
    let stored = Stored { entry: after.clone(), stamp, extra, foreign };
    let record = stored.record();
    // A lease that goes on keeps the end that the store has for it: it may have been renewed meanwhile.
    let keep = record.lease.is_some() && before.entry.lease.map(|l| l.token) == record.lease.map(|l| l.token);
    let added = change.added.iter().map(|added| element(added.recorded.at, &added.event, Some(added.hash)));
    if let Some(journal) = &change.erased {
        let key = keys::of(b't', task);
        unit.command("UNLINK", key.clone(), []);
        unit.command("RPUSH", key.clone(), [record.encode()]);
        let before = journal.iter().map(|one| element(one.at, &one.event, one.hash));
        for element in before.chain(added) {
            unit.command("RPUSH", key.clone(), [element]);
        }
        unit.quit_blobs(task);
    } else {
        unit.write(task, &record, keep, &added.collect::<Vec<_>>());
    }
    for name in change.blobs() {
        unit.use_blob(task, &name);
    }

    let batch = stored.extra.batch.as_ref().map(AsRef::as_ref);
    let (from, to) = (Place::of(&before.entry, before.record().at), Place::of(after, record.at));
    // For the same reason the time of such a lease is not touched.
    let to = Place { due: if keep { from.due } else { to.due }, ..to };
    move_task(unit, task, after.head.queue.as_str(), batch, Some(from), Some(to), manner);
    let dollars = after.head.usage.cost_usd - before.entry.head.usage.cost_usd;
    if let Some(batch) = batch
        && dollars != 0.0
    {
        unit.cost(batch, dollars);
    }
    if let Some(parent) = &after.head.parent
        && from.state.is_terminal() != to.state.is_terminal()
    {
        let command = if to.state.is_terminal() { "SREM" } else { "SADD" };
        unit.command(command, keys::of(b'u', parent.task), [task.as_uuid().as_bytes().to_vec()]);
    }
    Ok(stored)
}

/// Writes the signals that wait for the holder; answers with those that this version cannot read.
fn write_kept(unit: &mut Unit, before: &Stored, after: &Entry) -> Result<Vec<Vec<u8>>, StoreError> {
    let kept = &before.entry.kept;
    if *kept == after.kept {
        return Ok(before.foreign.clone());
    }
    let inbox = || keys::of(b'i', after.head.id);
    let mut added: &[Signal] = &after.kept;
    if after.kept.starts_with(kept) {
        added = after.kept.get(kept.len()..).unwrap_or_default();
    } else {
        unit.command("UNLINK", inbox(), []);
        for signal in &before.foreign {
            unit.command("RPUSH", inbox(), [signal.clone()]);
        }
    }
    for signal in added {
        unit.command("RPUSH", inbox(), [encode(signal)?]);
    }
    Ok(before.foreign.clone())
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Refused(format!("it cannot be encoded: {error}")))
}

/// Says that a task has children (more of them), which its holder must hear of.
pub(super) fn note_family(unit: &mut Unit, parent: &Stored, stamp: Stamp) {
    let record = Record { extra: Extra { family: true, ..parent.extra.clone() }, stamp, ..parent.record() };
    unit.write(parent.entry.head.id, &record, record.lease.is_some(), &[]);
}

/// Puts a task aside that this version cannot read: a dead letter that keeps its journal as it is.
pub(super) fn set_aside(unit: &mut Unit, unreadable: &Unreadable, stamp: Stamp, manner: Manner) {
    let record = &unreadable.record;
    let aside =
        Record { stamp, state: StateName::Dead, set_aside: true, lease: None, at: Some(manner.now), ..record.clone() };
    unit.expect(unreadable.id, record.stamp, false);
    unit.write(unreadable.id, &aside, false, &[]);
    let (queue, batch) = (record.queue.as_str(), record.extra.batch.as_ref().map(AsRef::as_ref));
    let (from, to) = (record.place(), aside.place());
    move_task(unit, unreadable.id, queue, batch, Some(from), Some(to), manner);
    unit.strike(b"ask", unreadable.id);
    if let Some(parent) = record.parent {
        unit.command("SREM", keys::of(b'u', parent), [unreadable.id.as_uuid().as_bytes().to_vec()]);
    }
}

/// Removes a done task with all that belongs to it.
pub(super) fn remove(unit: &mut Unit, task: TaskId, record: &Record, manner: Manner) {
    unit.expect(task, record.stamp, false);
    unit.quit_blobs(task);
    for letter in *b"thiuc" {
        unit.command("UNLINK", keys::of(letter, task), []);
    }
    // Its batch still counts it under its last state.
    move_task(unit, task, record.queue.as_str(), None, Some(record.place()), None, manner);
    if let Some(batch) = &record.extra.batch {
        unit.count(&keys::named("bn", batch.as_str()), b"t".to_vec(), -1);
    }
    if let Some(key) = &record.extra.key {
        unit.command("HDEL", b"keys".to_vec(), [key.to_vec()]);
    }
    if let Some(parent) = record.parent {
        unit.strike(&keys::of(b'c', parent), task);
        unit.command("SREM", keys::of(b'u', parent), [task.as_uuid().as_bytes().to_vec()]);
    }
}

impl Stored {
    pub(super) fn record(&self) -> Record {
        let mut record = Record::of(&self.entry, self.entry.kept.len() + self.foreign.len(), &self.extra, self.stamp);
        if self.entry.set_aside {
            record.at = Some(self.entry.head.updated_at);
        }
        record
    }
}

impl Record {
    /// Where a task stands, as far as its record says.
    fn place(&self) -> Place {
        Place {
            state: self.state,
            ready: self.at.filter(|_| self.state == StateName::Ready).map(|since| ready_score(self.priority, since)),
            due: match self.state {
                StateName::Scheduled | StateName::Waiting => self.at,
                _ => self.lease.map(|lease| lease.expires),
            },
            finished: Class::of(self.state).zip(self.at),
            asks: false,
            bytes: self.journal_bytes,
        }
    }
}
