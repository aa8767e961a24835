//! What a store does by itself when its time has come: timers, leases that ran
//! out, retention. Indexes lead to what is due; nothing is scanned.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::connection::Stop;
use super::entries::{Entries, Reach};
use super::row::{Found, integer};
use super::tally::Class;
use super::transaction::Transaction;
use super::{batch, blob, meter};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::span::Span;
use crate::store::book::DueAnswer;
use crate::store::{Due, Keep, StoreError};
use crate::task::State;

/// The most that one call moves, so that no transaction holds up the others for long.
const MOST: usize = 1_000;
/// How long a done task stays that an unfinished parent may still ask for.
const FOR_PARENT: Duration = Duration::from_secs(60);

/// Moves what is due.
pub(super) fn due(tx: &mut Transaction<'_>, limit: usize) -> Result<Due, Stop<StoreError>> {
    let limit = limit.min(MOST);
    let mut due = Due::default();
    let found = tx.find_where(
        "due_at IS NOT NULL AND due_at <= ?1 ORDER BY due_at LIMIT ?2",
        params![tx.now.as_millis(), integer(limit as u64)],
    )?;
    let mut room = limit - found.len();
    move_on(tx, found, &mut due)?;
    let mut next: Option<i64> = tx
        .db
        .prepare_cached("SELECT min(due_at) FROM tasks WHERE due_at IS NOT NULL")?
        .query_row([], |row| row.get(0))?;
    for class in Class::ALL {
        let keep = match class {
            Class::Finished => tx.options.retention.finished,
            Class::Dead => tx.options.retention.dead,
        };
        let (removed, look_again) = retain(tx, class, keep, room)?;
        room -= removed;
        due.removed += removed;
        next = [next, look_again.map(Timestamp::as_millis)].into_iter().flatten().min();
    }
    if let Some(age) = tx.options.retention.finished.age {
        // Not of what retention leaves: where many tasks have to go, as many rows do.
        let look_again = batch::forget(tx, age.get(), limit)?;
        next = [next, look_again.map(Timestamp::as_millis)].into_iter().flatten().min();
    }
    let look_again = blob::remove_unused(tx)?;
    next = [next, look_again.map(Timestamp::as_millis)].into_iter().flatten().min();
    let (lapsed, look_again) = meter::due(tx, limit)?;
    due.lapsed = lapsed;
    next = [next, look_again.map(Timestamp::as_millis)].into_iter().flatten().min();
    due.next = next.map(Timestamp::from_millis);
    Ok(due)
}

/// Moves tasks on whose time has come. They may be of one family: each sees what became of the others.
fn move_on(tx: &mut Transaction<'_>, found: Vec<Found>, due: &mut Due) -> Result<(), Stop<StoreError>> {
    let (mut tasks, mut unreadable) = (Vec::with_capacity(found.len()), Vec::new());
    let mut entries = Entries::open(tx);
    for task in found {
        match task {
            Found::Missing => {}
            Found::Unreadable(task) => unreadable.push(task),
            Found::Readable(stored) => {
                let head = &stored.entry.head;
                tasks.push((stored.place.n, head.id, head.version));
                // With its children even if only a timer is due: another task of the sweep may end it.
                entries.enter(*stored, Reach::Family)?;
            }
        }
    }
    let mut wrong = Vec::new();
    for (n, task, version) in tasks {
        match entries.perform(|book| book.due(task))? {
            DueAnswer::Woken => due.woken += 1,
            DueAnswer::Expired => due.expired += 1,
            DueAnswer::Poisoned => {
                due.expired += 1;
                due.poisoned += 1;
            }
            DueAnswer::NotDue => {
                let entry = entries.entry(task).filter(|entry| entry.head.version == version);
                wrong.extend(entry.map(|entry| (n, task, entry.due_at())));
            }
        }
    }
    entries.write()?;
    for (n, task, due_at) in wrong {
        // The column and the head disagree: an index that leads nowhere must not be followed again and again.
        tracing::error!(%task, "a task was due that cannot be");
        tx.db
            .prepare_cached("UPDATE tasks SET due_at = ?2 WHERE n = ?1")?
            .execute(params![n, due_at.map(Timestamp::as_millis)])?;
    }
    for task in unreadable {
        tx.set_aside(&task)?;
    }
    Ok(())
}

/// Removes a dead letter, because a person says so.
pub(super) fn forget(tx: &mut Transaction<'_>, task: TaskId) -> Result<bool, Stop<StoreError>> {
    match tx.find(task)? {
        Found::Readable(stored) if matches!(stored.entry.head.state, State::Dead { .. }) => {
            tx.remove(stored.place.n)?;
            Ok(true)
        }
        Found::Readable(_) | Found::Missing => Ok(false),
        Found::Unreadable(unreadable) => Err(Stop::Refused(unreadable.damage())),
    }
}

/// Removes done tasks of a class that are too many, too old or too large, the
/// oldest first. Answers with how many went, and when to look again.
fn retain(
    tx: &mut Transaction<'_>,
    class: Class,
    keep: Keep,
    room: usize,
) -> rusqlite::Result<(usize, Option<Timestamp>)> {
    let oldest_first = match class {
        Class::Finished => {
            "SELECT n, finished_at, parent FROM tasks WHERE state IN ('succeeded', 'cancelled') \
             ORDER BY finished_at LIMIT 1"
        }
        Class::Dead => "SELECT n, finished_at, parent FROM tasks WHERE state = 'dead' ORDER BY finished_at LIMIT 1",
    };
    let age = keep.age.map(Span::get);
    let mut removed = 0;
    let mut seen = 0;
    loop {
        let oldest: Option<(i64, i64, Option<String>)> = tx
            .db
            .prepare_cached(oldest_first)?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((n, finished_at, parent)) = oldest else { return Ok((removed, None)) };
        let (tasks, bytes) = tx.tally.retained(tx.db, class)?;
        let ends = age.map(|age| Timestamp::from_millis(finished_at).plus(age));
        let too_old = ends.is_some_and(|ends| ends <= tx.now);
        if !too_old && keep.count.is_none_or(|most| tasks <= most) && keep.bytes.is_none_or(|most| bytes <= most) {
            return Ok((removed, ends));
        }
        if seen >= room {
            return Ok((removed, Some(tx.now)));
        }
        seen += 1;
        let wanted = match parent {
            Some(parent) => tx.is_unfinished(&parent)?.unwrap_or(false),
            None => false,
        };
        if wanted {
            // Its parent may not have journaled yet how it ended: to the end of the line.
            let later = tx.now.plus(FOR_PARENT);
            tx.db
                .prepare_cached("UPDATE tasks SET finished_at = max(finished_at, ?2) WHERE n = ?1")?
                .execute(params![n, later.as_millis()])?;
            if finished_at >= later.as_millis() {
                return Ok((removed, Some(later)));
            }
        } else {
            tx.remove(n)?;
            removed += 1;
        }
    }
}
