//! Leases: taking tasks, claiming named ones, renewing.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::connection::Stop;
use super::entries::{Entries, Reach};
use super::row::{Found, integer, read_events};
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::{LeaseToken, QueueName, TaskId, WorkerId};
use crate::store::book::Lease;
use crate::store::{Claim, ClaimTasks, Renew, Renewal, StoreError, Take};
use crate::task::StateName;

/// The most tasks that one call leases: their journals come back in one answer.
const MOST: usize = 1_000;

/// A task that was leased; its journal is read after the commit, beside the writer.
#[derive(Debug, Clone)]
pub(super) struct Leased {
    task: TaskId,
    lease: Lease,
    version: u64,
}

/// Takes ready tasks. The queues take turns, the one at `first` beginning: within
/// a queue priority rules, but no queue starves another.
pub(super) fn take(tx: &mut Transaction<'_>, request: &Take, first: usize) -> Result<Vec<Leased>, Stop<StoreError>> {
    let wanted = if request.queues.is_empty() { ready_queues(tx.db)? } else { request.queues.clone() };
    let mut queues: Vec<&QueueName> = Vec::with_capacity(wanted.len());
    for queue in &wanted {
        if !queues.contains(&queue) && !is_paused(tx.db, queue)? {
            queues.push(queue);
        }
    }
    if !queues.is_empty() {
        let start = first % queues.len();
        queues.rotate_left(start);
    }
    let max = request.max.min(MOST);
    let mut leased = Vec::new();
    while leased.len() < max && !queues.is_empty() {
        let share = (max - leased.len()).div_ceil(queues.len());
        let mut more = Vec::with_capacity(queues.len());
        for queue in queues {
            let wanted = share.min(max - leased.len());
            if wanted == 0 {
                break;
            }
            let found = tx.find_where(
                "state = 'ready' AND queue = ?1 ORDER BY priority DESC, ready_since, id LIMIT ?2",
                params![queue.as_str(), integer(wanted as u64)],
            )?;
            if found.len() == wanted {
                more.push(queue);
            }
            leased.extend(lease(tx, found, &request.worker, request.lease)?);
        }
        queues = more;
    }
    Ok(leased)
}

/// Leases those of the named tasks that can be.
pub(super) fn claim(tx: &mut Transaction<'_>, request: &ClaimTasks) -> Result<Vec<Leased>, Stop<StoreError>> {
    let mut found = Vec::with_capacity(request.tasks.len().min(MOST));
    for task in request.tasks.iter().take(MOST) {
        match tx.find(*task)? {
            Found::Readable(stored) if is_paused(tx.db, &stored.entry.head.queue)? => {}
            other => found.push(other),
        }
    }
    lease(tx, found, &request.worker, request.lease)
}

/// Leases those that are ready.
fn lease(
    tx: &mut Transaction<'_>,
    found: Vec<Found>,
    worker: &WorkerId,
    duration: Duration,
) -> Result<Vec<Leased>, Stop<StoreError>> {
    let (entropy, expires) = (&tx.options.entropy, tx.now.plus(duration));
    let mut entries = Entries::open(tx);
    let (mut leased, mut unreadable) = (Vec::with_capacity(found.len()), Vec::new());
    for task in found {
        match task {
            Found::Missing => {}
            Found::Unreadable(task) => unreadable.push(task),
            Found::Readable(stored) => {
                let task = stored.entry.head.id;
                entries.enter(*stored, Reach::Alone)?;
                let lease = Lease { token: LeaseToken::new(entropy.bytes()), expires };
                if entries.perform(|book| book.lease(task, worker, lease))?
                    && let Some(entry) = entries.entry(task)
                {
                    leased.push(Leased { task, lease, version: entry.head.version });
                }
            }
        }
    }
    entries.write()?;
    for task in unreadable {
        tx.set_aside(&task)?;
    }
    Ok(leased)
}

/// Leased tasks with their journals, and apart those whose journal cannot be read, with why.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) claims: Vec<Claim>,
    pub(super) unreadable: Vec<(Leased, String)>,
}

/// Reads the journals of leased tasks.
pub(super) fn load(db: &Connection, leased: Vec<Leased>) -> rusqlite::Result<Loaded> {
    let mut loaded = Loaded::default();
    for task in leased {
        match read_events(db, task.task, 1, task.version + 1, u64::MAX) {
            Ok(journal) => {
                let Lease { token, expires } = task.lease;
                loaded.claims.push(Claim { task: task.task, token, expires, journal });
            }
            Err(error @ rusqlite::Error::FromSqlConversionFailure(..)) => {
                loaded.unreadable.push((task, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(loaded)
}

/// Makes a dead letter of a task that was leased and whose journal then could not be read.
pub(super) fn give_up(tx: &mut Transaction<'_>, leased: &Leased, why: &str) -> Result<(), Stop<StoreError>> {
    let mut entries = Entries::open(tx);
    entries.load(leased.task, Reach::Family)?;
    match entries.perform(|book| book.give_up(leased.task, leased.lease.token, why)) {
        Ok(()) => {}
        // Its head cannot be read either: whoever takes it next sets it aside.
        Err(Stop::Refused(_)) => return Ok(()),
        Err(stop) => return Err(stop),
    }
    if entries.entry(leased.task).is_some_and(|entry| entry.state() == StateName::Dead) {
        let task = leased.task;
        tracing::error!(%task, why, "a journal cannot be read by this version; its task is a dead letter now");
    }
    Ok(entries.write()?)
}

/// Renews leases; those that are not held, or whose time is over, are lost.
pub(super) fn renew(tx: &mut Transaction<'_>, request: &Renew) -> Result<Vec<Renewal>, Stop<StoreError>> {
    let expires = tx.now.plus(request.lease);
    let mut answers = Vec::with_capacity(request.leases.len());
    for (task, token) in &request.leases {
        let held: Option<(i64, i64, bool)> = tx
            .db
            .prepare_cached("SELECT n, due_at, kept > 0 FROM tasks WHERE id = ?1 AND token = ?2")?
            .query_row(params![task.to_string(), token.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        answers.push(match held {
            Some((n, until, signals)) if tx.now < Timestamp::from_millis(until) => {
                tx.db
                    .prepare_cached("UPDATE tasks SET due_at = ?2 WHERE n = ?1")?
                    .execute(params![n, expires.as_millis()])?;
                Renewal::Renewed { expires, signals }
            }
            _ => Renewal::Lost,
        });
    }
    Ok(answers)
}

/// Whether a queue is paused.
pub(super) fn is_paused(db: &Connection, queue: &QueueName) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM paused_queues WHERE queue = ?1")?.exists([queue.as_str()])
}

/// The queues that have ready tasks. A name that this version cannot read is left out.
fn ready_queues(db: &Connection) -> rusqlite::Result<Vec<QueueName>> {
    let mut names = db.prepare_cached("SELECT queue FROM queue_counts WHERE state = 'ready' AND tasks > 0")?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(names.into_iter().filter_map(|name| QueueName::new(name).ok()).collect())
}

/// Whether there is something to take in one of these queues; in any, if none is named.
pub(super) fn any_ready(db: &Connection, queues: &[QueueName]) -> rusqlite::Result<bool> {
    let all = if queues.is_empty() { ready_queues(db)? } else { Vec::new() };
    let mut ready = db.prepare_cached("SELECT 1 FROM tasks WHERE state = 'ready' AND queue = ?1")?;
    for queue in queues.iter().chain(&all) {
        if ready.exists([queue.as_str()])? && !is_paused(db, queue)? {
            return Ok(true);
        }
    }
    Ok(false)
}
