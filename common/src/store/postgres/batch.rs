//! Batches: what became of each row of a file.

use std::collections::BTreeMap;
use std::time::Duration;

use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::read::{head, heads};
use super::retain;
use super::tally::{COST, DUPLICATES, REJECTED};
use super::transaction::Transaction;
use super::value::{Time, integer, natural, text};
use super::write::OVER;
use crate::clock::Timestamp;
use crate::id::{BatchId, PipelineName, TaskId};
use crate::store::{BatchRow, BatchRowState, BatchStatus, OpenBatch, RejectedRow, StoreError, StoreOptions};
use crate::task::StateName;

/// Rejected rows that a status names.
const REJECTIONS: i64 = 100;
/// The longest reason that is kept, in bytes.
const REASON: usize = 4096;
/// Batches that are removed in one go.
const BATCHES: usize = 32;

const OPEN: &str = "INSERT INTO batches (id, pipeline, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
const PIPELINE: &str = "SELECT pipeline FROM batches WHERE id = $1 FOR KEY SHARE";
const REJECT: &str = "INSERT INTO batch_rows (batch, line, duplicate, reason) \
     SELECT $1::text, u.line, false, u.reason FROM unnest($2::bigint[], $3::text[]) AS u(line, reason) \
     ON CONFLICT DO NOTHING";
const CLOSE: &str = "UPDATE batches SET closed = true WHERE id = $1";
const OLDEST: &str = "SELECT id, created_at FROM batches WHERE over ORDER BY created_at LIMIT 1";
const KEPT: &str =
    "SELECT coalesce(sum(n), 0)::bigint FROM counts WHERE kind = 'batch' AND name = $1 AND what = 'kept'";
const NOT_OVER: &str = "UPDATE batches SET over = false WHERE id = $1";
const REMOVE_ROWS: &str = "DELETE FROM batch_rows WHERE batch = $1 AND line IN \
     (SELECT line FROM batch_rows WHERE batch = $1 ORDER BY line LIMIT $2)";
const REMOVE_COUNTS: &str = "DELETE FROM counts WHERE kind = 'batch' AND name = $1";
const REMOVE: &str = "DELETE FROM batches WHERE id = $1";
const STATUS: &str = "SELECT pipeline, created_at, closed FROM batches WHERE id = $1";
const COUNTS: &str =
    "SELECT what, sum(n)::bigint, sum(amount) FROM counts WHERE kind = 'batch' AND name = $1 GROUP BY what";
/// A task counts once, however many rows of the batch lead to it.
const BEFORE: &str = "SELECT t.id, t.head, t.state, t.dead_reason, t.updated_at FROM tasks t WHERE t.id IN \
     (SELECT task FROM batch_rows WHERE batch = $1 AND duplicate) AND t.batch IS DISTINCT FROM $1";
const NAMED: &str =
    "SELECT line, reason FROM batch_rows WHERE batch = $1 AND reason IS NOT NULL ORDER BY line LIMIT $2";
const ROWS: &str = "SELECT t.id, t.head, t.state, t.dead_reason, t.updated_at, r.line, r.task, r.reason \
     FROM (SELECT line, task, reason FROM batch_rows WHERE batch = $1 AND line > $2 ORDER BY line LIMIT $3) r \
     LEFT JOIN tasks t ON t.id = r.task ORDER BY r.line";

/// Opens a batch, or finds it open.
pub(super) async fn open(
    connection: &Connection,
    options: &StoreOptions,
    batch: &OpenBatch,
) -> Result<(), Stop<StoreError>> {
    let tx = Transaction::begin(connection, options).await?;
    connection.execute(OPEN, &[&batch.id.as_str(), &batch.pipeline.as_str(), &Time(tx.now)]).await?;
    let owner = connection.query(PIPELINE, &[&batch.id.as_str()]).await?;
    let owner: Option<String> = owner.first().map(|row| row.try_get(0)).transpose().map_err(Fault::from)?;
    tx.commit().await?;
    match owner {
        Some(pipeline) if pipeline != batch.pipeline.as_str() => Err(Stop::Refused(StoreError::Refused(format!(
            "batch {} is for pipeline {pipeline}, not {}; use another id",
            batch.id, batch.pipeline
        )))),
        _ => Ok(()),
    }
}

/// Notes rows that made no task. A line that was noted before stays as it is.
pub(super) async fn reject(
    connection: &Connection,
    options: &StoreOptions,
    batch: &BatchId,
    rows: &[RejectedRow],
) -> Result<(), Stop<StoreError>> {
    if rows.len() > options.limits.submissions {
        return Err(Stop::Refused(StoreError::Refused(format!(
            "{} rejected rows in one call; at most {} are allowed (limits.submissions)",
            rows.len(),
            options.limits.submissions
        ))));
    }
    let mut tx = Transaction::begin(connection, options).await?;
    if connection.query(PIPELINE, &[&batch.as_str()]).await?.is_empty() {
        return Err(unknown(batch));
    }
    let (lines, reasons): (Vec<i64>, Vec<String>) =
        rows.iter().map(|row| (integer(row.line), text(&row.reason, REASON))).unzip();
    let added = connection.execute(REJECT, &[&batch.as_str(), &lines, &reasons]).await?;
    tx.tally.batch(batch.as_str(), REJECTED, integer(added), 0.0);
    tx.commit().await?;
    Ok(())
}

/// Closes a batch.
pub(super) async fn close(
    connection: &Connection,
    options: &StoreOptions,
    batch: &BatchId,
) -> Result<(), Stop<StoreError>> {
    let tx = Transaction::begin(connection, options).await?;
    retain::wait_alone(connection).await?;
    if connection.execute(CLOSE, &[&batch.as_str()]).await? == 0 {
        return Err(unknown(batch));
    }
    connection.execute(OVER, &[&vec![batch.as_str()]]).await?;
    tx.commit().await?;
    Ok(())
}

/// Removes up to `room` rows of batches that are over: closed, as old as `age`, and without a task that is kept.
/// Answers when to look again.
pub(super) async fn forget(tx: &Transaction<'_>, age: Duration, mut room: u64) -> Result<Option<Timestamp>, Fault> {
    let connection = tx.connection;
    for _ in 0..BATCHES {
        let oldest = connection.query(OLDEST, &[]).await?;
        let Some(oldest) = oldest.first() else { return Ok(None) };
        let (batch, Time(created_at)): (String, Time) = (oldest.try_get(0)?, oldest.try_get(1)?);
        let ends = created_at.plus(age);
        if ends > tx.now {
            return Ok(Some(ends));
        }
        let kept = connection.query(KEPT, &[&batch]).await?;
        let kept: i64 = kept.first().map_or(Ok(0), |row| row.try_get(0))?;
        if kept > 0 {
            // It got another task just when it seemed to be over.
            connection.execute(NOT_OVER, &[&batch]).await?;
            continue;
        }
        let removed = connection.execute(REMOVE_ROWS, &[&batch, &integer(room)]).await?;
        if removed >= room {
            break;
        }
        room -= removed;
        connection.execute(REMOVE_COUNTS, &[&batch]).await?;
        connection.execute(REMOVE, &[&batch]).await?;
    }
    Ok(Some(tx.now))
}

fn unknown(batch: &BatchId) -> Stop<StoreError> {
    Stop::Refused(StoreError::Refused(format!("there is no batch {batch}; open it first")))
}

/// How far a batch is: its own tasks by their sums, those that existed before one by one.
pub(super) async fn status(connection: &Connection, batch: &BatchId) -> Result<Option<BatchStatus>, Stop<StoreError>> {
    let name = batch.as_str();
    let (found, counts, before, named) = futures::join!(
        async { connection.query(STATUS, &[&name]).await },
        async { connection.query(COUNTS, &[&name]).await },
        async { connection.query(BEFORE, &[&name]).await },
        async { connection.query(NAMED, &[&name, &REJECTIONS]).await },
    );
    let found = found?;
    let Some(row) = found.first() else { return Ok(None) };
    let pipeline: String = row.try_get(0).map_err(Fault::from)?;
    let Time(created_at) = row.try_get(1).map_err(Fault::from)?;
    let closed = row.try_get(2).map_err(Fault::from)?;
    let (mut tasks, mut others): (BTreeMap<StateName, u64>, BTreeMap<String, u64>) = Default::default();
    let mut cost_usd = 0.0;
    for row in counts? {
        let (what, n, amount): (&str, i64, f64) = (
            row.try_get(0).map_err(Fault::from)?,
            row.try_get(1).map_err(Fault::from)?,
            row.try_get(2).map_err(Fault::from)?,
        );
        match what.parse::<StateName>() {
            Ok(state) if n > 0 => {
                tasks.insert(state, natural(n));
            }
            Ok(_) => {}
            Err(_) if what == COST => cost_usd += amount,
            Err(_) => {
                others.insert(what.to_owned(), natural(n));
            }
        }
    }
    for task in heads(&before?)? {
        *tasks.entry(task.state.name()).or_default() += 1;
        cost_usd += task.usage.cost_usd;
    }
    let mut rejections = Vec::new();
    for row in named? {
        let line = natural(row.try_get(0).map_err(Fault::from)?);
        rejections.push(RejectedRow { line, reason: row.try_get(1).map_err(Fault::from)? });
    }
    let pipeline =
        PipelineName::new(pipeline).map_err(|error| Stop::Refused(StoreError::Damaged(error.to_string())))?;
    let of = |what: &str| others.get(what).copied().unwrap_or(0);
    Ok(Some(BatchStatus {
        id: batch.clone(),
        pipeline,
        created_at,
        closed,
        tasks,
        duplicates: of(DUPLICATES),
        rejected: of(REJECTED),
        rejections,
        cost_usd,
    }))
}

/// Rows of a batch after a line, in order.
pub(super) async fn rows(
    connection: &Connection,
    batch: &BatchId,
    after: u64,
    limit: usize,
) -> Result<Vec<BatchRow>, Fault> {
    let mut found = Vec::new();
    for row in connection.query(ROWS, &[&batch.as_str(), &integer(after), &integer(limit as u64)]).await? {
        let here: Option<uuid::Uuid> = row.try_get(0)?;
        let task: Option<uuid::Uuid> = row.try_get(6)?;
        let state = match (task, here) {
            (Some(_), Some(_)) => BatchRowState::Task(Box::new(head(&row)?)),
            (Some(task), None) => BatchRowState::Removed(TaskId::from_uuid(task)),
            (None, _) => BatchRowState::Rejected(row.try_get::<_, Option<String>>(7)?.unwrap_or_default()),
        };
        found.push(BatchRow { line: natural(row.try_get(5)?), state });
    }
    Ok(found)
}
