//! One transaction of the writer, shared by the operations of a group: reading,
//! adding and removing tasks, and what is to be told after the commit.

use rusqlite::{Connection, OptionalExtension, params};

use super::blob;
use super::entries::{Entries, ended};
use super::row::{COLUMNS, Found, Place, Unreadable, encode_head, integer, read_events, stored};
use super::tally::{self, Tally};
use crate::clock::Timestamp;
use crate::id::{BlobName, TaskId};
use crate::journal::{Chained, EventHash, Recorded, Seal};
use crate::store::book::{Change, Entry};
use crate::store::witness::{self, Fact};
use crate::store::{Hint, StoreOptions, ledger};
use crate::task::{Signal, StateName};

/// One transaction of the writer.
pub(super) struct Transaction<'c> {
    pub(super) db: &'c Connection,
    pub(super) options: &'c StoreOptions,
    pub(super) tally: Tally,
    /// The store's time, the same for all of one operation.
    pub(super) now: Timestamp,
    news: News,
}

/// What is to be told once a transaction is committed.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Something may be ready.
    pub(super) rings: bool,
    /// These became ready; for a broker.
    pub(super) hints: Vec<Hint>,
    /// What was written; for a witness.
    pub(super) facts: Vec<Fact>,
}

/// A task that is put into the store, with all that is known of it.
pub(super) struct NewTask<'a> {
    pub(super) entry: &'a Entry,
    /// All of its events.
    pub(super) journal: &'a [Chained],
    /// The seal of its journal.
    pub(super) seal: Option<Seal>,
    /// What its events refer to.
    pub(super) blobs: &'a [BlobName],
    /// The batch of which a row made it.
    pub(super) batch: Option<&'a str>,
    /// The group of which only the newest is wanted.
    pub(super) supersede: Option<&'a str>,
}

impl<'c> Transaction<'c> {
    pub(super) fn new(db: &'c Connection, options: &'c StoreOptions, tally: Tally) -> Self {
        Self { db, options, tally, now: options.clock.now(), news: News::default() }
    }

    /// The next operation of the group begins.
    pub(super) fn start_operation(&mut self) {
        self.now = self.options.clock.now();
    }

    /// Something may be ready once this is committed.
    pub(super) fn ring(&mut self) {
        self.news.rings = true;
    }

    /// Writes the sums; says what is to be told after the commit.
    pub(super) fn finish(self) -> rusqlite::Result<News> {
        self.tally.write(self.db)?;
        Ok(self.news)
    }

    /// Reads a task.
    pub(super) fn find(&self, id: TaskId) -> rusqlite::Result<Found> {
        let found = self
            .db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?1"))?
            .query_row([id.to_string()], stored)
            .optional()?;
        Ok(found.unwrap_or(Found::Missing))
    }

    /// Reads tasks by a condition that a constant names.
    pub(super) fn find_where(&self, condition: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Found>> {
        self.db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE {condition}"))?
            .query_map(params, stored)?
            .collect()
    }

    /// Adds a task.
    pub(super) fn insert(&mut self, new: &NewTask<'_>) -> rusqlite::Result<()> {
        let NewTask { entry, journal, seal, blobs, batch, supersede } = *new;
        let head = &entry.head;
        let id = head.id.to_string();
        let (finished_at, dead_reason) = ended(&head.state);
        self.db
            .prepare_cached(
                "INSERT INTO tasks (id, pipeline, queue, priority, key, parent, batch, supersede, state, created_at, \
                 updated_at, ready_since, due_at, approvals, version, kept, journal_bytes, head, dead_reason, \
                 finished_at, chain, chain_at, seal) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0, ?16, ?17, ?18, ?19, \
                 ?20, ?21, ?22)",
            )?
            .execute(params![
                id,
                head.pipeline.as_str(),
                head.queue.as_str(),
                head.priority,
                head.key.as_ref().map(AsRef::<str>::as_ref),
                head.parent.as_ref().map(|parent| parent.task.to_string()),
                batch,
                supersede,
                head.state.name().as_str(),
                head.created_at.as_millis(),
                head.updated_at.as_millis(),
                entry.ready_since().map(Timestamp::as_millis),
                entry.due_at().map(Timestamp::as_millis),
                integer(head.open_approvals.len() as u64),
                integer(head.version),
                integer(entry.journal_bytes),
                encode_head(head)?,
                dead_reason,
                finished_at.map(Timestamp::as_millis),
                entry.hash.map(|hash| *hash.as_bytes()),
                entry.hash.map(|_| integer(head.version)),
                seal.map(|seal| seal.to_bytes()),
            ])?;
        for Chained { seq, at, event, hash } in journal {
            self.insert_event(&id, *seq, *at, event, *hash)?;
        }
        blob::begin_use(self, &id, blobs)?;
        let (state, journal_bytes) = (head.state.name(), entry.journal_bytes);
        self.tally.enter(tally::Place { queue: head.queue.as_str(), batch, state, journal_bytes });
        if let Some(batch) = batch {
            self.tally.batch(batch, 1, head.usage.cost_usd);
        }
        if state == StateName::Ready {
            self.ring();
            if self.options.doorbell.is_some() {
                self.hint(Hint::of(head))?;
            }
        }
        Ok(())
    }

    pub(super) fn insert_event(
        &self,
        task: &str,
        seq: u64,
        at: Timestamp,
        event: &str,
        hash: Option<EventHash>,
    ) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("INSERT INTO journal (task, seq, at, event, hash) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![task, integer(seq), at.as_millis(), event, hash.map(|hash| *hash.as_bytes())])
            .map(drop)
    }

    /// Counts a task where it is after a change.
    pub(super) fn count(&mut self, place: &Place, before: &Entry, after: &Entry) {
        let batch = place.batch.as_deref();
        let at = |entry: &Entry| (entry.state(), entry.journal_bytes);
        let ((left, bytes_before), (entered, bytes_after)) = (at(before), at(after));
        if left != entered {
            let queue = after.head.queue.as_str();
            self.tally.leave(tally::Place { queue, batch, state: left, journal_bytes: bytes_before });
            self.tally.enter(tally::Place { queue, batch, state: entered, journal_bytes: bytes_after });
        }
        let cost_usd = after.head.usage.cost_usd - before.head.usage.cost_usd;
        if let Some(batch) = batch
            && cost_usd != 0.0
        {
            self.tally.batch(batch, 0, cost_usd);
        }
    }

    /// Tells, after the commit, that a task became ready; takes the hint back when it is that no more.
    pub(super) fn announce(&mut self, change: &Change) -> rusqlite::Result<()> {
        let (was_ready, is_ready) = (change.before.ready_since().is_some(), change.after.ready_since().is_some());
        self.news.rings |= is_ready;
        if self.options.witness.is_some() {
            witness::facts(change, &mut self.news.facts);
        }
        if self.options.doorbell.is_none() {
            return Ok(());
        }
        match change.hint() {
            Some(hint) => self.hint(hint),
            None if was_ready && !is_ready => self.withdraw(&change.after.head.id.to_string()),
            None => Ok(()),
        }
    }

    fn hint(&mut self, hint: Hint) -> rusqlite::Result<()> {
        self.keep_hint(&hint)?;
        self.news.hints.push(hint);
        Ok(())
    }

    /// The unfinished children of a task.
    pub(super) fn unfinished_children(&self, parent: &str) -> rusqlite::Result<Vec<TaskId>> {
        let ids: Vec<String> = self
            .db
            .prepare_cached("SELECT id FROM tasks WHERE parent = ?1 AND finished_at IS NULL ORDER BY id")?
            .query_map([parent], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Puts a task aside whose head this version cannot read: a dead letter that
    /// keeps its head and journal as they are. It must not stop others.
    pub(super) fn set_aside(&mut self, unreadable: &Unreadable) -> rusqlite::Result<()> {
        let why = unreadable.why.to_string();
        tracing::error!(task = unreadable.id, why, "a task cannot be read by this version; it is a dead letter now");
        let (queue, batch, state, parent, bytes): (String, Option<String>, String, Option<String>, i64) = self
            .db
            .prepare_cached("SELECT queue, batch, state, parent, journal_bytes FROM tasks WHERE n = ?1")?
            .query_row([unreadable.n], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
        self.db
            .prepare_cached(
                "UPDATE tasks SET state = 'dead', dead_reason = 'unreadable', ready_since = NULL, due_at = NULL, \
                 token = NULL, approvals = 0, finished_at = ?2, updated_at = ?2 WHERE n = ?1",
            )?
            .execute(params![unreadable.n, self.now.as_millis()])?;
        self.withdraw(&unreadable.id)?;
        let place = |state| tally::Place {
            queue: &queue,
            batch: batch.as_deref(),
            state,
            journal_bytes: u64::try_from(bytes).unwrap_or(0),
        };
        if let Ok(state) = state.parse() {
            self.tally.leave(place(state));
        }
        self.tally.enter(place(StateName::Dead));
        let children = self.unfinished_children(&unreadable.id)?;
        let mut family = Entries::open(self);
        let (parent, child) = (parent.and_then(|id| id.parse().ok()), unreadable.id.parse());
        if let (Some(parent), Ok(child)) = (parent, child) {
            family.tell(parent, &ledger::lost_child(child, &why))?;
        }
        for child in children {
            let cancel = Signal::Cancel { by: "store".to_owned(), reason: "its parent cannot be read".to_owned() };
            family.tell(child, &cancel)?;
        }
        family.write()
    }

    /// Whether a task is unfinished; nothing if there is no such task.
    pub(super) fn is_unfinished(&self, id: &str) -> rusqlite::Result<Option<bool>> {
        self.db
            .prepare_cached("SELECT finished_at IS NULL FROM tasks WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()
    }

    /// Removes a done task with all that belongs to it.
    pub(super) fn remove(&mut self, n: i64) -> rusqlite::Result<()> {
        let (id, queue, batch, state, bytes): (String, String, Option<String>, String, i64) = self
            .db
            .prepare_cached("SELECT id, queue, batch, state, journal_bytes FROM tasks WHERE n = ?1")?
            .query_row([n], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
        self.db.prepare_cached("DELETE FROM journal WHERE task = ?1")?.execute([&id])?;
        self.db.prepare_cached("DELETE FROM inbox WHERE task = ?1")?.execute([&id])?;
        blob::end_use(self, &id)?;
        self.db.prepare_cached("DELETE FROM tasks WHERE n = ?1")?.execute([n])?;
        if let Ok(state) = state.parse() {
            let journal_bytes = u64::try_from(bytes).unwrap_or(0);
            self.tally.remove(tally::Place { queue: &queue, batch: batch.as_deref(), state, journal_bytes });
        }
        Ok(())
    }

    /// Events of a journal, from a number up to but without another.
    pub(super) fn events(&self, task: TaskId, from: u64, to: u64) -> rusqlite::Result<Vec<Recorded>> {
        read_events(self.db, task, from, to, u64::MAX)
    }
}
