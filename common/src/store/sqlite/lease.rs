//! Leases: taking tasks, claiming named ones, renewing.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::connection::Stop;
use super::row::{Found, Lease, Stored, integer, read_events};
use super::transaction::{Aside, Transaction};
use crate::clock::Timestamp;
use crate::id::{LeaseToken, QueueName, TaskId, WorkerId};
use crate::store::{Claim, ClaimTasks, Renew, Renewal, StoreError, Take, ledger};
use crate::task::State;

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
            for task in found {
                match task {
                    Found::Readable(stored) => leased.extend(lease(tx, *stored, &request.worker, request.lease)?),
                    Found::Unreadable(unreadable) => tx.set_aside(&unreadable)?,
                    Found::Missing => {}
                }
            }
        }
        queues = more;
    }
    Ok(leased)
}

/// Leases those of the named tasks that can be.
pub(super) fn claim(tx: &mut Transaction<'_>, request: &ClaimTasks) -> Result<Vec<Leased>, Stop<StoreError>> {
    let mut leased = Vec::new();
    for task in request.tasks.iter().take(MOST) {
        match tx.find(*task)? {
            Found::Readable(stored) if !is_paused(tx.db, &stored.head.queue)? => {
                leased.extend(lease(tx, *stored, &request.worker, request.lease)?);
            }
            Found::Unreadable(unreadable) => tx.set_aside(&unreadable)?,
            Found::Readable(_) | Found::Missing => {}
        }
    }
    Ok(leased)
}

fn lease(
    tx: &mut Transaction<'_>,
    stored: Stored,
    worker: &WorkerId,
    duration: Duration,
) -> rusqlite::Result<Option<Leased>> {
    let mut after = stored.head.clone();
    let Ok(recorded) = ledger::lease(&mut after, worker, tx.now) else { return Ok(None) };
    let lease = Lease { token: LeaseToken::new(tx.options.entropy.bytes()), expires: tx.now.plus(duration) };
    let leased = Leased { task: after.id, lease, version: after.version };
    tx.save(stored, after, recorded, &Aside { lease: Some(lease), ..Aside::default() })?;
    Ok(Some(leased))
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
    let Found::Readable(stored) = tx.find(leased.task)? else { return Ok(()) };
    if stored.lease.is_none_or(|lease| lease.token != leased.lease.token) {
        return Ok(());
    }
    tracing::error!(task = %leased.task, why, "a journal cannot be read by this version; its task is a dead letter now");
    let mut after = stored.head.clone();
    if let Ok(recorded) = ledger::set_aside(&mut after, ledger::unreadable(why), tx.now) {
        let changed = tx.save(*stored, after, recorded, &Aside { took_up: true, ..Aside::default() })?;
        tx.settle(changed)?;
    }
    Ok(())
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

/// Whether the lease that a task is held under is this one, now.
pub(super) fn holds(tx: &Transaction<'_>, stored: &Stored, token: LeaseToken) -> bool {
    matches!(stored.head.state, State::Running { .. })
        && stored.lease.is_some_and(|lease| lease.token == token && tx.now < lease.expires)
}
