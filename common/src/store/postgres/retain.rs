//! Retention: removes done tasks of which there are too many, or that are too
//! old or too large, the oldest first.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::blob;
use super::connection::Connection;
use super::fault::Fault;
use super::tally::{Class, Place};
use super::transaction::Transaction;
use super::value::{Time, integer, natural};
use crate::clock::Timestamp;
use crate::span::Span;
use crate::store::Keep;

/// How long a done task stays that an unfinished parent may still ask for.
const FOR_PARENT: Duration = Duration::from_secs(60);

const ALONE: &str = "SELECT pg_try_advisory_xact_lock(1414353735, hashtext(current_schema()))";
const WAIT_ALONE: &str = "SELECT pg_advisory_xact_lock(1414353735, hashtext(current_schema()))";
const SUMS: &str = "SELECT coalesce(sum(n) FILTER (WHERE what = 'tasks'), 0)::bigint, \
     coalesce(sum(n) FILTER (WHERE what = 'bytes'), 0)::bigint FROM counts WHERE kind = 'retained' AND name = $1";
const FINISHED: &str = "SELECT t.id, t.finished_at, t.journal_bytes, t.parent IS NOT NULL AND EXISTS \
     (SELECT 1 FROM tasks p WHERE p.id = t.parent AND p.finished_at IS NULL) FROM tasks t \
     WHERE t.state IN ('succeeded', 'cancelled') ORDER BY t.finished_at LIMIT $1 FOR UPDATE OF t SKIP LOCKED";
const DEAD: &str = "SELECT t.id, t.finished_at, t.journal_bytes, t.parent IS NOT NULL AND EXISTS \
     (SELECT 1 FROM tasks p WHERE p.id = t.parent AND p.finished_at IS NULL) FROM tasks t \
     WHERE t.state = 'dead' ORDER BY t.finished_at LIMIT $1 FOR UPDATE OF t SKIP LOCKED";
const POSTPONE: &str = "UPDATE tasks SET finished_at = greatest(finished_at, $2) WHERE id = ANY($1::uuid[])";
const REMOVE: &str = "DELETE FROM tasks WHERE id = ANY($1::uuid[]) RETURNING queue, batch, state, journal_bytes";
const REMOVE_EVENTS: &str = "DELETE FROM journal WHERE task = ANY($1::uuid[])";
const REMOVE_HINTS: &str = "DELETE FROM outbox WHERE task = ANY($1::uuid[])";
/// Whether no other process removes anything right now; none will until this transaction ends.
pub(super) async fn is_alone(connection: &Connection) -> Result<bool, Fault> {
    let rows = connection.query(ALONE, &[]).await?;
    Ok(rows.first().map_or(Ok(false), |row| row.try_get(0))?)
}

/// Waits until no other process removes anything.
pub(super) async fn wait_alone(connection: &Connection) -> Result<(), Fault> {
    connection.query(WAIT_ALONE, &[]).await.map(drop)
}

/// A done task, in the order in which they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Old {
    id: Uuid,
    finished_at: Timestamp,
    bytes: u64,
    /// Its parent is unfinished, and may not have journaled yet how it ended.
    wanted: bool,
}

/// What is to become of the oldest.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<Uuid>,
    postpone: Vec<Uuid>,
    /// When to look again.
    next: Option<Timestamp>,
}

impl Old {
    fn read(row: &Row) -> Result<Self, Fault> {
        let Time(finished_at) = row.try_get(1)?;
        Ok(Self { id: row.try_get(0)?, finished_at, bytes: natural(row.try_get(2)?), wanted: row.try_get(3)? })
    }
}

/// Decides on the oldest, of which more may follow if there are more than `room`. Pure.
fn plan(oldest: &[Old], (mut tasks, mut bytes): (u64, u64), keep: Keep, room: usize, now: Timestamp) -> Plan {
    let age = keep.age.map(Span::get);
    let later = now.plus(FOR_PARENT);
    let mut plan = Plan::default();
    for old in oldest {
        let ends = age.map(|age| old.finished_at.plus(age));
        let too_old = ends.is_some_and(|ends| ends <= now);
        if !too_old && keep.count.is_none_or(|most| tasks <= most) && keep.bytes.is_none_or(|most| bytes <= most) {
            plan.next = [plan.next, ends].into_iter().flatten().min();
            return plan;
        }
        if plan.remove.len() + plan.postpone.len() >= room {
            plan.next = Some(now);
            return plan;
        }
        if !old.wanted {
            plan.remove.push(old.id);
            tasks = tasks.saturating_sub(1);
            bytes = bytes.saturating_sub(old.bytes);
        } else if old.finished_at >= later {
            plan.next = Some(later);
            return plan;
        } else {
            // To the end of the line.
            plan.postpone.push(old.id);
            plan.next = Some(later);
        }
    }
    plan
}

/// Removes done tasks of a class. Answers with how many went, and when to look again.
pub(super) async fn retain(
    tx: &mut Transaction<'_>,
    class: Class,
    keep: Keep,
    room: usize,
) -> Result<(usize, Option<Timestamp>), Fault> {
    let oldest = match class {
        Class::Finished => FINISHED,
        Class::Dead => DEAD,
    };
    let sums = tx.connection.query(SUMS, &[&class.as_str()]).await?;
    let Some(sums) = sums.first() else { return Ok((0, None)) };
    let sums = (natural(sums.try_get(0)?), natural(sums.try_get(1)?));
    let rows = tx.connection.query(oldest, &[&integer(room.saturating_add(1) as u64)]).await?;
    let oldest = rows.iter().map(Old::read).collect::<Result<Vec<_>, _>>()?;
    let Plan { remove: gone, postpone, next } = plan(&oldest, sums, keep, room, tx.now);
    if !postpone.is_empty() {
        tx.connection.execute(POSTPONE, &[&postpone, &Time(tx.now.plus(FOR_PARENT))]).await?;
    }
    remove(tx, &gone).await?;
    Ok((gone.len(), next))
}

/// Removes tasks with all that belongs to them.
pub(super) async fn remove(tx: &mut Transaction<'_>, tasks: &[Uuid]) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
    let (removed, events, hints) = futures::join!(
        async { tx.connection.query(REMOVE, &[&tasks]).await },
        async { tx.connection.execute(REMOVE_EVENTS, &[&tasks]).await },
        async { tx.connection.execute(REMOVE_HINTS, &[&tasks]).await },
    );
    events?;
    hints?;
    blob::end_use(tx, tasks).await?;
    for row in removed? {
        let (queue, batch): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        if let Ok(state) = row.try_get::<_, &str>(2)?.parse() {
            let journal_bytes = natural(row.try_get(3)?);
            tx.tally.remove(Place { queue: &queue, batch: batch.as_deref(), state, journal_bytes });
        }
        tx.lessened.extend(batch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNLIMITED: Keep = Keep { count: None, age: None, bytes: None };
    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn old(number: u8, finished_at: i64, wanted: bool) -> Old {
        Old { id: Uuid::from_bytes([number; 16]), finished_at: Timestamp::from_millis(finished_at), bytes: 10, wanted }
    }

    fn gone(plan: &Plan) -> Vec<u8> {
        plan.remove.iter().map(|id| id.as_bytes()[0]).collect()
    }

    #[test]
    fn the_oldest_go_until_it_fits() {
        let oldest = [old(1, 1, false), old(2, 2, false), old(3, 3, false)];
        let by_count = plan(&oldest, (3, 30), Keep { count: Some(1), ..UNLIMITED }, 10, NOW);
        assert_eq!((gone(&by_count), by_count.next), (vec![1, 2], None));
        let by_bytes = plan(&oldest, (3, 30), Keep { bytes: Some(25), ..UNLIMITED }, 10, NOW);
        assert_eq!(gone(&by_bytes), [1]);
        let by_age = plan(
            &oldest,
            (3, 30),
            Keep { age: Some(Span::clamped(Duration::from_millis(999_998))), ..UNLIMITED },
            10,
            NOW,
        );
        assert_eq!((gone(&by_age), by_age.next), (vec![1, 2], Some(Timestamp::from_millis(1_000_001))));
    }

    #[test]
    fn a_call_has_its_limit_and_says_that_more_is_due() {
        let oldest = [old(1, 1, false), old(2, 2, false)];
        let plan = plan(&oldest, (2, 20), Keep { count: Some(0), ..UNLIMITED }, 1, NOW);
        assert_eq!((gone(&plan), plan.next), (vec![1], Some(NOW)));
    }

    #[test]
    fn what_a_parent_may_ask_for_goes_to_the_end_of_the_line() {
        let oldest = [old(1, 1, true), old(2, 2, false), old(3, 2_000_000, true)];
        let plan = plan(&oldest, (3, 30), Keep { count: Some(0), ..UNLIMITED }, 10, NOW);
        assert_eq!((gone(&plan), plan.postpone.len(), plan.next), (vec![2], 1, Some(NOW.plus(FOR_PARENT))));
    }
}
