//! What every writing operation is made of: a task is read, changed by the pure
//! functions of [`ledger`], and written back together with the events that say
//! so. Whoever must hear of a change (parent, children) hears of it in the same
//! transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::blob;
use super::connection::unencodable;
use super::row::{
    COLUMNS, Found, LastAppend, Lease, Stored, Unreadable, encode_head, integer, read_events, ready_since, stored,
};
use super::tally::{Place, Tally};
use crate::clock::Timestamp;
use crate::id::{AppendId, TaskId};
use crate::journal::{Recorded, Reference};
use crate::store::{StoreOptions, ledger};
use crate::task::{Head, Refusal, Signal, State, StateName};

/// One transaction of the writer, shared by the operations of a group.
pub(super) struct Transaction<'c> {
    pub(super) db: &'c Connection,
    pub(super) options: &'c StoreOptions,
    pub(super) tally: Tally,
    /// The store's time, the same for all of one operation.
    pub(super) now: Timestamp,
    rings: bool,
}

/// A task after a change.
pub(super) struct Changed {
    pub(super) before: Stored,
    pub(super) after: Head,
    pub(super) recorded: Vec<Recorded>,
}

/// What a change does beside the events.
#[derive(Default)]
pub(super) struct Aside<'a> {
    /// The lease that begins with it.
    pub(super) lease: Option<Lease>,
    /// The append that it is.
    pub(super) append: Option<AppendId>,
    /// The first events as JSON, where that was made already.
    pub(super) encoded: &'a [String],
    /// Whether the kept signals are used up by it.
    pub(super) took_up: bool,
}

/// What became of a signal within a transaction.
pub(super) enum Told {
    Applied(Box<Changed>),
    Kept,
    Refused(Refusal),
    Missing,
    Unreadable(Unreadable),
}

impl<'c> Transaction<'c> {
    pub(super) fn new(db: &'c Connection, options: &'c StoreOptions, tally: Tally) -> Self {
        Self { db, options, tally, now: options.clock.now(), rings: false }
    }

    /// The next operation of the group begins.
    pub(super) fn start_operation(&mut self) {
        self.now = self.options.clock.now();
    }

    /// Something may be ready once this is committed.
    pub(super) fn ring(&mut self) {
        self.rings = true;
    }

    /// Writes the sums; says whether the bell is to be rung after the commit.
    pub(super) fn finish(self) -> rusqlite::Result<bool> {
        self.tally.write(self.db)?;
        Ok(self.rings)
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

    /// Adds a new task with its first event, given as JSON.
    pub(super) fn insert(
        &mut self,
        head: &Head,
        submitted: &str,
        batch: Option<&str>,
        supersede: Option<&str>,
    ) -> rusqlite::Result<()> {
        let bytes = submitted.len() as u64;
        let id = head.id.to_string();
        self.db
            .prepare_cached(
                "INSERT INTO tasks (id, pipeline, queue, priority, key, parent, batch, supersede, state, created_at, \
                 updated_at, ready_since, due_at, approvals, version, kept, journal_bytes, head) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, ?11, ?12, 0, ?13, 0, ?14, ?15)",
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
                ready_since(head).map(Timestamp::as_millis),
                head.due_at().map(Timestamp::as_millis),
                integer(head.version),
                integer(bytes),
                encode_head(head)?,
            ])?;
        self.insert_event(&id, 1, head.created_at, submitted)?;
        self.tally.enter(Place { queue: head.queue.as_str(), batch, state: head.state.name(), journal_bytes: bytes });
        if let Some(batch) = batch {
            self.tally.batch(batch, 1, 0.0);
        }
        self.rings |= matches!(head.state, State::Ready { .. });
        Ok(())
    }

    fn insert_event(&self, task: &str, seq: u64, at: Timestamp, event: &str) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("INSERT INTO journal (task, seq, at, event) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![task, integer(seq), at.as_millis(), event])
            .map(drop)
    }

    /// Writes a changed task and its new events.
    pub(super) fn save(
        &mut self,
        before: Stored,
        after: Head,
        recorded: Vec<Recorded>,
        aside: &Aside<'_>,
    ) -> rusqlite::Result<Changed> {
        let id = after.id.to_string();
        let mut bytes = before.journal_bytes;
        for (index, new) in recorded.iter().enumerate() {
            let encoded = match aside.encoded.get(index) {
                Some(encoded) => encoded,
                None => &serde_json::to_string(&new.event).map_err(unencodable)?,
            };
            bytes += encoded.len() as u64;
            self.insert_event(&id, new.seq, new.at, encoded)?;
            blob::begin_use(self, &id, &Reference::in_event(&new.event, encoded))?;
        }
        let lease = match (&after.state, aside.lease) {
            (State::Running { .. }, None) => before.lease,
            (State::Running { .. }, began) => began,
            _ => None,
        };
        let kept = if aside.took_up { self.empty_inbox(&id, before.kept)? } else { before.kept };
        let last = match aside.append {
            Some(id) => Some(LastAppend { id, from: before.head.version + 1, to: after.version + 1 }),
            None => before.last_append,
        };
        let due_at = lease.map(|lease| lease.expires).or_else(|| after.due_at());
        let due_before = before.lease.map(|lease| lease.expires).or_else(|| before.head.due_at());
        let indexed = |head: &Head| (head.state.name(), ready_since(head), head.open_approvals.len());
        let counted = before.state == before.head.state.name();
        if counted && indexed(&before.head) == indexed(&after) && due_at == due_before && !after.state.is_terminal() {
            // Nothing that an index knows has changed: the usual append, and the cheapest update.
            self.db
                .prepare_cached(
                    "UPDATE tasks SET updated_at = ?2, version = ?3, kept = ?4, journal_bytes = ?5, last_append = ?6, \
                     last_from = ?7, last_to = ?8, head = ?9 WHERE n = ?1",
                )?
                .execute(params![
                    before.n,
                    after.updated_at.as_millis(),
                    integer(after.version),
                    integer(kept),
                    integer(bytes),
                    last.map(|last| *last.id.as_bytes()),
                    last.map(|last| integer(last.from)),
                    last.map(|last| integer(last.to)),
                    encode_head(&after)?,
                ])?;
        } else {
            let (finished_at, dead_reason) = match &after.state {
                State::Succeeded { at } | State::Cancelled { at, .. } => (Some(*at), None),
                State::Dead { at, reason, .. } => (Some(*at), Some(reason.as_str())),
                _ => (None, None),
            };
            self.db
                .prepare_cached(
                    "UPDATE tasks SET updated_at = ?2, version = ?3, kept = ?4, journal_bytes = ?5, last_append = ?6, \
                     last_from = ?7, last_to = ?8, head = ?9, state = ?10, dead_reason = ?11, ready_since = ?12, \
                     due_at = ?13, finished_at = ?14, approvals = ?15, token = ?16 WHERE n = ?1",
                )?
                .execute(params![
                    before.n,
                    after.updated_at.as_millis(),
                    integer(after.version),
                    integer(kept),
                    integer(bytes),
                    last.map(|last| *last.id.as_bytes()),
                    last.map(|last| integer(last.from)),
                    last.map(|last| integer(last.to)),
                    encode_head(&after)?,
                    after.state.name().as_str(),
                    dead_reason,
                    ready_since(&after).map(Timestamp::as_millis),
                    due_at.map(Timestamp::as_millis),
                    finished_at.map(Timestamp::as_millis),
                    integer(after.open_approvals.len() as u64),
                    lease.map(|lease| *lease.token.as_bytes()),
                ])?;
        }
        self.count(&before, &after, bytes);
        self.rings |= matches!(after.state, State::Ready { .. });
        Ok(Changed { before, after, recorded })
    }

    fn count(&mut self, before: &Stored, after: &Head, bytes: u64) {
        let batch = before.batch.as_deref();
        let (left, entered) = (before.state, after.state.name());
        if left != entered {
            let queue = after.queue.as_str();
            self.tally.leave(Place { queue, batch, state: left, journal_bytes: before.journal_bytes });
            self.tally.enter(Place { queue, batch, state: entered, journal_bytes: bytes });
        }
        let cost_usd = after.usage.cost_usd - before.head.usage.cost_usd;
        if let Some(batch) = batch
            && cost_usd != 0.0
        {
            self.tally.batch(batch, 0, cost_usd);
        }
    }

    /// Everyone who must hear of a change hears of it: parents of tasks that are
    /// done, and their unfinished children; and so on.
    pub(super) fn settle(&mut self, changed: Changed) -> rusqlite::Result<()> {
        let mut unsettled = vec![changed];
        while let Some(Changed { before, after, recorded }) = unsettled.pop() {
            if before.head.state.is_terminal() || !after.state.is_terminal() {
                continue;
            }
            if let Some((parent, signal)) = ledger::notice(&before.head, &after, &recorded)
                && let Told::Applied(changed) = self.tell(parent, &signal)?
            {
                unsettled.push(*changed);
            }
            for child in self.unfinished_children(&after.id.to_string())? {
                if let Told::Applied(changed) = self.tell(child, &ledger::cancel_child(after.id))? {
                    unsettled.push(*changed);
                }
            }
        }
        Ok(())
    }

    fn unfinished_children(&self, parent: &str) -> rusqlite::Result<Vec<TaskId>> {
        let ids: Vec<String> = self
            .db
            .prepare_cached("SELECT id FROM tasks WHERE parent = ?1 AND finished_at IS NULL ORDER BY id")?
            .query_map([parent], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Gives a signal to a task. The caller settles what it changes.
    pub(super) fn tell(&mut self, id: TaskId, signal: &Signal) -> rusqlite::Result<Told> {
        let stored = match self.find(id)? {
            Found::Missing => return Ok(Told::Missing),
            Found::Unreadable(unreadable) => return Ok(Told::Unreadable(unreadable)),
            Found::Readable(stored) => *stored,
        };
        let kept = self.kept(&stored)?;
        let mut after = stored.head.clone();
        let mut noted = Vec::new();
        if stored.state == StateName::Dead && !after.state.is_terminal() {
            // This version can read it: now its journal can say what happened to it.
            let failure = ledger::unreadable("it was set aside by a version that could not read it");
            noted = ledger::set_aside(&mut after, failure, self.now).unwrap_or_default();
        }
        match ledger::signal(&mut after, &kept, signal, self.now) {
            Ok(Some(recorded)) => {
                let recorded = noted.into_iter().chain(recorded).collect();
                let changed = self.save(stored, after, recorded, &Aside::default())?;
                Ok(Told::Applied(Box::new(changed)))
            }
            Ok(None) => {
                // Asking twice for the same end keeps one request, so that the inbox stays small.
                let asked = matches!(signal, Signal::Cancel { .. })
                    && kept.iter().any(|kept| matches!(kept, Signal::Cancel { .. }));
                if !asked {
                    self.keep(&stored, signal)?;
                }
                Ok(Told::Kept)
            }
            Err(refusal) => Ok(Told::Refused(refusal)),
        }
    }

    fn keep(&self, stored: &Stored, signal: &Signal) -> rusqlite::Result<()> {
        let encoded = serde_json::to_string(signal).map_err(unencodable)?;
        self.db
            .prepare_cached("INSERT INTO inbox (task, signal) VALUES (?1, ?2)")?
            .execute(params![stored.head.id.to_string(), encoded])?;
        blob::begin_use(self, &stored.head.id.to_string(), &Reference::in_signal(signal))?;
        self.db.prepare_cached("UPDATE tasks SET kept = kept + 1 WHERE n = ?1")?.execute([stored.n]).map(drop)
    }

    /// The signals that wait for the holder of a task, in order. Those of a newer version are left alone.
    pub(super) fn kept(&self, stored: &Stored) -> rusqlite::Result<Vec<Signal>> {
        if stored.kept == 0 {
            return Ok(Vec::new());
        }
        let encoded: Vec<String> = self
            .db
            .prepare_cached("SELECT signal FROM inbox WHERE task = ?1 ORDER BY n")?
            .query_map([stored.head.id.to_string()], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(encoded.iter().filter_map(|signal| serde_json::from_str(signal).ok()).collect())
    }

    /// Removes the signals that were taken up; answers with how many are left.
    fn empty_inbox(&self, task: &str, kept: u64) -> rusqlite::Result<u64> {
        if kept == 0 {
            return Ok(0);
        }
        let waiting: Vec<(i64, String)> = self
            .db
            .prepare_cached("SELECT n, signal FROM inbox WHERE task = ?1")?
            .query_map([task], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut left = 0;
        for (n, signal) in waiting {
            if serde_json::from_str::<Signal>(&signal).is_ok() {
                self.db.prepare_cached("DELETE FROM inbox WHERE n = ?1")?.execute([n])?;
            } else {
                left += 1;
            }
        }
        Ok(left)
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
        let place = |state| Place {
            queue: &queue,
            batch: batch.as_deref(),
            state,
            journal_bytes: u64::try_from(bytes).unwrap_or(0),
        };
        if let Ok(state) = state.parse() {
            self.tally.leave(place(state));
        }
        self.tally.enter(place(StateName::Dead));
        let (parent, child) = (parent.and_then(|id| id.parse().ok()), unreadable.id.parse());
        if let (Some(parent), Ok(child)) = (parent, child)
            && let Told::Applied(changed) = self.tell(parent, &ledger::lost_child(child, &why))?
        {
            self.settle(*changed)?;
        }
        for child in self.unfinished_children(&unreadable.id)? {
            let cancel = Signal::Cancel { by: "store".to_owned(), reason: "its parent cannot be read".to_owned() };
            if let Told::Applied(changed) = self.tell(child, &cancel)? {
                self.settle(*changed)?;
            }
        }
        Ok(())
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
            self.tally.remove(Place { queue: &queue, batch: batch.as_deref(), state, journal_bytes });
        }
        Ok(())
    }

    /// Events of a journal, from a number up to but without another.
    pub(super) fn events(&self, task: TaskId, from: u64, to: u64) -> rusqlite::Result<Vec<Recorded>> {
        read_events(self.db, task, from, to, u64::MAX)
    }
}
