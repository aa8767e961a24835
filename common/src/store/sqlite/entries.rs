//! The tasks that an operation touches: read from their rows into a [`Book`],
//! which says what becomes of them, and written back with the events that say so.

use std::collections::HashMap;

use rusqlite::params;

use super::blob;
use super::connection::{Stop, unencodable};
use super::row::{Found, Place, Stored, encode_head, integer, read_events};
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::{BlobName, TaskId};
use crate::journal::Chained;
use crate::store::book::{self, Added, Book, Change, Entry, Known, Needs};
use crate::store::{SignalError, Signalled, StoreError};
use crate::task::{Signal, State};

/// How much of a task is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The task.
    Alone,
    /// Its unfinished children too: the operation may end it.
    Family,
}

/// The entries of one operation.
pub(super) struct Entries<'t, 'c> {
    tx: &'t mut Transaction<'c>,
    book: Book,
    places: HashMap<TaskId, Place>,
}

impl<'t, 'c> Entries<'t, 'c> {
    pub(super) fn open(tx: &'t mut Transaction<'c>) -> Self {
        let book = Book::new(tx.now, tx.options.limits).sealed_with(tx.options.seal.clone());
        Self { tx, book, places: HashMap::new() }
    }

    /// Reads a task.
    pub(super) fn load(&mut self, id: TaskId, reach: Reach) -> rusqlite::Result<()> {
        match self.tx.find(id)? {
            Found::Readable(stored) => self.enter(*stored, reach)?,
            Found::Missing => self.book.load(id, Known::Missing),
            Found::Unreadable(unreadable) => self.book.load(id, Known::Unreadable(unreadable.why.to_string())),
        }
        Ok(())
    }

    /// Enters a task whose row was read, with what other tables know of it.
    pub(super) fn enter(&mut self, stored: Stored, reach: Reach) -> rusqlite::Result<()> {
        let Stored { place, mut entry } = stored;
        let id = entry.head.id;
        if entry.head.state.is_terminal() {
            let version = entry.head.version;
            entry.ending = match read_events(self.tx.db, id, version, version + 1, 1) {
                Ok(mut newest) => newest.pop(),
                Err(rusqlite::Error::FromSqlConversionFailure(..)) => None,
                Err(error) => return Err(error),
            };
        } else {
            if place.kept > 0 {
                entry.kept = self.tx.kept(id)?;
            }
            // What was kept may be a request to stop.
            if reach == Reach::Family || place.kept > 0 {
                entry.children = self.tx.unfinished_children(&id.to_string())?;
            }
        }
        self.places.insert(id, place);
        self.book.load(id, Known::Task(Box::new(entry)));
        Ok(())
    }

    /// A task as it is after the operations so far.
    pub(super) fn entry(&self, id: TaskId) -> Option<&Entry> {
        self.book.entry(id)
    }

    /// Does an operation, and reads what it needs.
    pub(super) fn perform<T, E>(
        &mut self,
        mut operation: impl FnMut(&mut Book) -> Result<T, book::Stop<E>>,
    ) -> Result<T, Stop<E>> {
        loop {
            match operation(&mut self.book) {
                Ok(answer) => return Ok(answer),
                Err(book::Stop::Refused(error)) => return Err(Stop::Refused(error)),
                Err(book::Stop::Needs(Needs(ids))) => {
                    for id in ids {
                        self.load(id, Reach::Family)?;
                    }
                }
            }
        }
    }

    /// Gives a signal to a task that may refuse it, be gone or unreadable: then nothing happens.
    pub(super) fn tell(&mut self, id: TaskId, signal: &Signal) -> rusqlite::Result<Option<Signalled>> {
        match self.perform::<_, SignalError>(|book| book.signal(id, signal)) {
            Ok(signalled) => Ok(Some(signalled)),
            Err(Stop::Refused(_)) => Ok(None),
            Err(Stop::Sql(error)) => Err(error),
        }
    }

    /// Refuses what refers to a blob that is not kept, before anything is written.
    pub(super) fn expect_blobs<E: From<StoreError>>(&self, names: &[BlobName]) -> Result<(), Stop<E>> {
        blob::expect(self.tx, names)
    }

    /// Writes what has changed.
    pub(super) fn write(self) -> rusqlite::Result<()> {
        let Self { tx, book, places } = self;
        for change in book.into_changes() {
            if let Some(place) = places.get(&change.after.head.id) {
                tx.save(place, &change)?;
            }
        }
        Ok(())
    }
}

impl Transaction<'_> {
    /// Writes a changed task and its new events.
    fn save(&mut self, place: &Place, change: &Change) -> rusqlite::Result<()> {
        let Change { before, after, added, seal, erased } = change;
        let head = &after.head;
        let id = head.id.to_string();
        if let Some(events) = erased {
            self.rewrite(&id, events)?;
        }
        for Added { recorded, event, hash } in added {
            self.insert_event(&id, recorded.seq, recorded.at, event, Some(*hash))?;
        }
        let (chain, chain_at) = (after.hash.map(|hash| *hash.as_bytes()), after.hash.map(|_| integer(head.version)));
        let seal = seal.map(|seal| seal.to_bytes());
        blob::begin_use(self, &id, &change.blobs())?;
        let kept = self.keep(&id, place, change)?;
        let last = after.last_append;
        let indexed = |entry: &Entry| {
            (entry.state(), entry.ready_since(), entry.due_at(), entry.head.open_approvals.len(), entry.set_aside)
        };
        if indexed(before) == indexed(after) && !head.state.is_terminal() {
            // Nothing that an index knows has changed: the usual append, and the cheapest update.
            self.db
                .prepare_cached(
                    "UPDATE tasks SET updated_at = ?2, version = ?3, kept = ?4, journal_bytes = ?5, last_append = ?6, \
                     last_from = ?7, last_to = ?8, head = ?9, chain = ?10, chain_at = ?11, seal = coalesce(?12, seal) \
                     WHERE n = ?1",
                )?
                .execute(params![
                    place.n,
                    head.updated_at.as_millis(),
                    integer(head.version),
                    integer(kept),
                    integer(after.journal_bytes),
                    last.map(|last| *last.id.as_bytes()),
                    last.map(|last| integer(last.from)),
                    last.map(|last| integer(last.to)),
                    encode_head(head)?,
                    chain,
                    chain_at,
                    seal,
                ])?;
        } else {
            let (finished_at, dead_reason) = ended(&head.state);
            self.db
                .prepare_cached(
                    "UPDATE tasks SET updated_at = ?2, version = ?3, kept = ?4, journal_bytes = ?5, last_append = ?6, \
                     last_from = ?7, last_to = ?8, head = ?9, state = ?10, dead_reason = ?11, ready_since = ?12, \
                     due_at = ?13, finished_at = ?14, approvals = ?15, token = ?16, chain = ?17, chain_at = ?18, \
                     seal = coalesce(?19, seal) WHERE n = ?1",
                )?
                .execute(params![
                    place.n,
                    head.updated_at.as_millis(),
                    integer(head.version),
                    integer(kept),
                    integer(after.journal_bytes),
                    last.map(|last| *last.id.as_bytes()),
                    last.map(|last| integer(last.from)),
                    last.map(|last| integer(last.to)),
                    encode_head(head)?,
                    after.state().as_str(),
                    dead_reason,
                    after.ready_since().map(Timestamp::as_millis),
                    after.due_at().map(Timestamp::as_millis),
                    finished_at.map(Timestamp::as_millis),
                    integer(head.open_approvals.len() as u64),
                    after.lease.map(|lease| *lease.token.as_bytes()),
                    chain,
                    chain_at,
                    seal,
                ])?;
        }
        self.count(place, before, after);
        self.announce(change)
    }

    /// Writes the events of a journal anew, without data: it uses no blob any more.
    fn rewrite(&self, id: &str, events: &[Chained]) -> rusqlite::Result<()> {
        let mut update = self.db.prepare_cached("UPDATE journal SET event = ?3 WHERE task = ?1 AND seq = ?2")?;
        for Chained { seq, event, .. } in events {
            update.execute(params![id, integer(*seq), event])?;
        }
        blob::end_use(self, id)
    }

    /// Writes the signals that wait for the holder of a task; answers with how many there are.
    /// Those of a newer version are left alone.
    fn keep(&self, id: &str, place: &Place, change: &Change) -> rusqlite::Result<u64> {
        let (before, after) = (&change.before.kept, &change.after.kept);
        let (removed, added) = match after.strip_prefix(before.as_slice()) {
            Some(added) => (0, added),
            None => (self.empty_inbox(id)?, after.as_slice()),
        };
        for signal in added {
            let encoded = serde_json::to_string(signal).map_err(unencodable)?;
            self.db
                .prepare_cached("INSERT INTO inbox (task, signal) VALUES (?1, ?2)")?
                .execute(params![id, encoded])?;
        }
        Ok(place.kept.saturating_sub(removed) + added.len() as u64)
    }

    /// Removes the signals that this version can read; answers with how many.
    fn empty_inbox(&self, task: &str) -> rusqlite::Result<u64> {
        let mut removed = 0;
        for (n, signal) in self.inbox(task)? {
            if serde_json::from_str::<Signal>(&signal).is_ok() {
                self.db.prepare_cached("DELETE FROM inbox WHERE n = ?1")?.execute([n])?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn inbox(&self, task: &str) -> rusqlite::Result<Vec<(i64, String)>> {
        self.db
            .prepare_cached("SELECT n, signal FROM inbox WHERE task = ?1 ORDER BY n")?
            .query_map([task], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    /// The signals that wait for the holder of a task, in order.
    fn kept(&self, task: TaskId) -> rusqlite::Result<Vec<Signal>> {
        let waiting = self.inbox(&task.to_string())?;
        Ok(waiting.iter().filter_map(|(_, signal)| serde_json::from_str(signal).ok()).collect())
    }
}

/// When a task ended, and why it is dead: for the columns of the same names.
pub(super) const fn ended(state: &State) -> (Option<Timestamp>, Option<&'static str>) {
    match state {
        State::Succeeded { at } | State::Cancelled { at, .. } => (Some(*at), None),
        State::Dead { at, reason, .. } => (Some(*at), Some(reason.as_str())),
        _ => (None, None),
    }
}
