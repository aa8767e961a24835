//! What a store does by itself when its time has come: timers and leases that
//! ran out. Indexes lead to what is due; nothing is scanned.

use super::batch;
use super::blob;
use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::retain;
use super::row::{Stored, columns};
use super::tally::Class;
use super::transaction::{Rings, Transaction, Wanted};
use super::value::{Time, integer};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::book::DueAnswer;
use crate::store::{Due, StoreError, StoreOptions};
use crate::task::State;

/// The most that one call moves, so that no transaction holds up the others for long.
const MOST: usize = 1_000;
/// What another sweep is at already is skipped.
const DUE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM tasks WHERE due_at IS NOT NULL AND due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED"
);
const NEXT: &str = "SELECT min(due_at) FROM tasks WHERE due_at IS NOT NULL";
const NEVER: &str = "UPDATE tasks SET due_at = NULL WHERE id = $1";

/// Moves what is due.
pub(super) async fn due(
    connection: &Connection,
    options: &StoreOptions,
    limit: usize,
) -> Result<(Due, Rings), Stop<StoreError>> {
    let limit = limit.min(MOST);
    let mut tx = Transaction::begin(connection, options).await?;
    let mut due = Due::default();
    let found = connection.query(DUE, &[&Time(tx.now), &integer(limit as u64)]).await?;
    let mut ids: Vec<TaskId> = Vec::with_capacity(found.len());
    for row in &found {
        ids.push(Stored::read(row)?.id);
    }
    // Locked already: this brings their children and parents along.
    let mut wanted = Wanted::all(&ids);
    wanted.told.clear();
    wanted.ending = wanted.ids.clone();
    tx.load(&wanted).await?;
    for id in &ids {
        match tx.settle(|book| book.due(*id)).await {
            Ok(DueAnswer::Woken) => due.woken += 1,
            Ok(DueAnswer::Expired) => due.expired += 1,
            Ok(DueAnswer::Poisoned) => {
                due.expired += 1;
                due.poisoned += 1;
            }
            Ok(DueAnswer::NotDue) => {
                // The column and the head disagree: an index that leads nowhere must not be followed again and again.
                tracing::error!(task = %id, "a task was due that cannot be");
                connection.execute(NEVER, &[&id.as_uuid()]).await?;
            }
            Err(Stop::Refused(StoreError::Damaged(why))) => tx.set_aside(*id, &why).await?,
            Err(stop) => return Err(stop),
        }
    }
    let room = limit - ids.len();
    let now = tx.now;
    let rings = tx.commit().await?;
    let next = connection.query(NEXT, &[]).await?;
    let next: Option<Time> = next.first().map_or(Ok(None), |row| row.try_get(0)).map_err(Fault::from)?;
    let swept = sweep(connection, options, limit, room, now).await?;
    due.removed = swept.removed;
    due.next = [next.map(|Time(next)| next), swept.next].into_iter().flatten().min();
    Ok((due, rings))
}

/// What retention did.
#[derive(Debug, Default)]
struct Swept {
    removed: usize,
    next: Option<Timestamp>,
}

/// Removes what retention does not keep: one process at a time, so that each sees all that the others removed.
async fn sweep(
    connection: &Connection,
    options: &StoreOptions,
    limit: usize,
    mut room: usize,
    now: Timestamp,
) -> Result<Swept, Stop<StoreError>> {
    let mut tx = Transaction::begin(connection, options).await?;
    tx.set_now(now);
    let mut swept = Swept::default();
    if retain::is_alone(connection).await? {
        for class in Class::ALL {
            let keep = match class {
                Class::Finished => options.retention.finished,
                Class::Dead => options.retention.dead,
            };
            let (removed, next) = retain::retain(&mut tx, class, keep, room).await?;
            room = room.saturating_sub(removed);
            swept.removed += removed;
            swept.next = [swept.next, next].into_iter().flatten().min();
        }
        if let Some(age) = options.retention.finished.age {
            // Not of what retention leaves: where many tasks have to go, as many rows do.
            let next = batch::forget(&tx, age.get(), limit as u64).await?;
            swept.next = [swept.next, next].into_iter().flatten().min();
        }
        let next = blob::remove_unused(&tx).await?;
        swept.next = [swept.next, next].into_iter().flatten().min();
    }
    tx.commit().await?;
    Ok(swept)
}

/// Removes a dead letter, because a person says so.
pub(super) async fn forget(
    connection: &Connection,
    options: &StoreOptions,
    task: TaskId,
) -> Result<(bool, Rings), Stop<StoreError>> {
    let mut tx = Transaction::begin(connection, options).await?;
    retain::wait_alone(connection).await?;
    tx.load(&Wanted::all(&[task])).await?;
    let dead = match (tx.entry(task), tx.beside.get(&task)) {
        (Some(entry), _) => matches!(entry.head.state, State::Dead { .. }),
        (None, None) => false,
        (None, Some(_)) => {
            let why = format!("task {task} cannot be read by this version");
            return Err(Stop::Refused(StoreError::Damaged(why)));
        }
    };
    if dead {
        retain::remove(&mut tx, &[task.as_uuid()]).await?;
    }
    Ok((dead, tx.commit().await?))
}
