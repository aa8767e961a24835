//! Batches: what became of each row of a file.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::connection::Stop;
use super::read::head_of;
use super::row::{integer, natural};
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::{BatchId, PipelineName};
use crate::store::{BatchRow, BatchRowState, BatchStatus, OpenBatch, RejectedRow, StoreError};
use crate::task::StateName;

/// Rejected rows that a status names.
const REJECTIONS: u64 = 100;
/// The longest reason that is kept, in bytes.
const REASON: usize = 4096;
/// Batches that are removed in one go.
const BATCHES: usize = 32;

impl Transaction<'_> {
    /// Whether a batch was opened.
    pub(super) fn batch_exists(&self, batch: &BatchId) -> rusqlite::Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM batches WHERE id = ?1")?.exists([batch.as_str()])
    }
}

/// Opens a batch, or finds it open.
pub(super) fn open(tx: &mut Transaction<'_>, batch: &OpenBatch) -> Result<(), Stop<StoreError>> {
    let pipeline: Option<String> = tx
        .db
        .prepare_cached("SELECT pipeline FROM batches WHERE id = ?1")?
        .query_row([batch.id.as_str()], |row| row.get(0))
        .optional()?;
    match pipeline {
        Some(pipeline) if pipeline == batch.pipeline.as_str() => Ok(()),
        Some(pipeline) => Err(Stop::Refused(StoreError::Refused(format!(
            "batch {} is for pipeline {pipeline}, not {}; use another id",
            batch.id, batch.pipeline
        )))),
        None => {
            tx.db
                .prepare_cached(
                    "INSERT INTO batches (id, pipeline, created_at, closed, tasks, duplicates, rejected, cost_usd) \
                     VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0.0)",
                )?
                .execute(params![batch.id.as_str(), batch.pipeline.as_str(), tx.now.as_millis()])?;
            Ok(())
        }
    }
}

/// Notes rows that made no task. A line that was noted before stays as it is.
pub(super) fn reject(tx: &mut Transaction<'_>, batch: &BatchId, rows: &[RejectedRow]) -> Result<(), Stop<StoreError>> {
    if rows.len() > tx.options.limits.submissions {
        return Err(Stop::Refused(StoreError::Refused(format!(
            "{} rejected rows in one call; at most {} are allowed (limits.submissions)",
            rows.len(),
            tx.options.limits.submissions
        ))));
    }
    if !tx.batch_exists(batch)? {
        return Err(unknown(batch));
    }
    let mut added = 0;
    for row in rows {
        let mut end = row.reason.len().min(REASON);
        while !row.reason.is_char_boundary(end) {
            end -= 1;
        }
        added += tx
            .db
            .prepare_cached(
                "INSERT INTO batch_rows (batch, line, duplicate, reason) VALUES (?1, ?2, 0, ?3) ON CONFLICT DO NOTHING",
            )?
            .execute(params![batch.as_str(), integer(row.line), row.reason.get(..end)])?;
    }
    tx.db
        .prepare_cached("UPDATE batches SET rejected = rejected + ?2 WHERE id = ?1")?
        .execute(params![batch.as_str(), integer(added as u64)])?;
    Ok(())
}

/// Closes a batch.
pub(super) fn close(tx: &mut Transaction<'_>, batch: &BatchId) -> Result<(), Stop<StoreError>> {
    let known = tx.db.prepare_cached("UPDATE batches SET closed = 1 WHERE id = ?1")?.execute([batch.as_str()])?;
    if known == 0 { Err(unknown(batch)) } else { Ok(()) }
}

/// Removes up to `room` rows of batches that are over: closed, as old as `age`, and without a task that is kept.
/// Answers with when to look again.
pub(super) fn forget(tx: &mut Transaction<'_>, age: Duration, mut room: usize) -> rusqlite::Result<Option<Timestamp>> {
    for _ in 0..BATCHES {
        let oldest: Option<(String, i64)> = tx
            .db
            .prepare_cached(
                "SELECT id, created_at FROM batches WHERE closed = 1 AND tasks = 0 ORDER BY created_at LIMIT 1",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((batch, created_at)) = oldest else { return Ok(None) };
        let ends = Timestamp::from_millis(created_at).plus(age);
        if ends > tx.now {
            return Ok(Some(ends));
        }
        let removed = tx
            .db
            .prepare_cached(
                "DELETE FROM batch_rows WHERE batch = ?1 AND line IN \
                 (SELECT line FROM batch_rows WHERE batch = ?1 ORDER BY line LIMIT ?2)",
            )?
            .execute(params![batch, integer(room as u64)])?;
        if removed >= room {
            break;
        }
        room -= removed;
        tx.db.prepare_cached("DELETE FROM batch_counts WHERE batch = ?1")?.execute([&batch])?;
        tx.db.prepare_cached("DELETE FROM batches WHERE id = ?1")?.execute([&batch])?;
    }
    Ok(Some(tx.now))
}

fn unknown(batch: &BatchId) -> Stop<StoreError> {
    Stop::Refused(StoreError::Refused(format!("there is no batch {batch}; open it first")))
}

/// How far a batch is: its own tasks by their sums, those that existed before one by one.
pub(super) fn status(db: &Connection, batch: &BatchId) -> Result<Option<BatchStatus>, Stop<StoreError>> {
    let row = db
        .prepare_cached(
            "SELECT pipeline, created_at, closed, duplicates, rejected, cost_usd FROM batches WHERE id = ?1",
        )?
        .query_row([batch.as_str()], |row| {
            let numbers: (i64, i64, f64) = (row.get(3)?, row.get(4)?, row.get(5)?);
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, bool>(2)?, numbers))
        })
        .optional()?;
    let Some((pipeline, created_at, closed, (duplicates, rejected, mut cost_usd))) = row else { return Ok(None) };
    let mut tasks: BTreeMap<StateName, u64> = BTreeMap::new();
    let mut add = |state: &str, count: i64| {
        if let Ok(state) = state.parse()
            && count > 0
        {
            *tasks.entry(state).or_default() += natural(count);
        }
    };
    let mut own = db.prepare_cached("SELECT state, tasks FROM batch_counts WHERE batch = ?1")?;
    let mut rows = own.query([batch.as_str()])?;
    while let Some(row) = rows.next()? {
        add(row.get_ref(0)?.as_str()?, row.get(1)?);
    }
    // A task counts once, however many rows of the batch lead to it.
    let mut before = db.prepare_cached(
        "SELECT t.state, count(*), total(json_extract(t.head, '$.usage.cost_usd')) FROM tasks t WHERE t.id IN \
         (SELECT task FROM batch_rows WHERE batch = ?1 AND duplicate = 1) AND t.batch IS NOT ?1 GROUP BY t.state",
    )?;
    let mut rows = before.query([batch.as_str()])?;
    while let Some(row) = rows.next()? {
        add(row.get_ref(0)?.as_str()?, row.get(1)?);
        cost_usd += row.get::<_, f64>(2)?;
    }
    let rejections = db
        .prepare_cached(
            "SELECT line, reason FROM batch_rows WHERE batch = ?1 AND reason IS NOT NULL ORDER BY line LIMIT ?2",
        )?
        .query_map(params![batch.as_str(), integer(REJECTIONS)], |row| {
            Ok(RejectedRow { line: natural(row.get(0)?), reason: row.get(1)? })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let pipeline =
        PipelineName::new(pipeline).map_err(|error| Stop::Refused(StoreError::Damaged(error.to_string())))?;
    Ok(Some(BatchStatus {
        id: batch.clone(),
        pipeline,
        created_at: Timestamp::from_millis(created_at),
        closed,
        tasks,
        duplicates: natural(duplicates),
        rejected: natural(rejected),
        rejections,
        cost_usd,
    }))
}

/// Rows of a batch after a line, in order.
pub(super) fn rows(
    db: &Connection,
    batch: &BatchId,
    after: u64,
    limit: usize,
) -> Result<Vec<BatchRow>, Stop<StoreError>> {
    let mut statement = db.prepare_cached(
        "SELECT r.line, r.task, r.reason, t.id, t.head, t.state, t.dead_reason, t.updated_at FROM batch_rows r \
         LEFT JOIN tasks t ON t.id = r.task WHERE r.batch = ?1 AND r.line > ?2 ORDER BY r.line LIMIT ?3",
    )?;
    let mut rows = statement.query(params![batch.as_str(), integer(after), integer(limit as u64)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let task: Option<String> = row.get(1)?;
        let state = match (task, row.get::<_, Option<String>>(3)?) {
            (Some(_), Some(_)) => BatchRowState::Task(Box::new(head_of(row, 3)?)),
            (Some(task), None) => match task.parse() {
                Ok(task) => BatchRowState::Removed(task),
                Err(_) => continue,
            },
            (None, _) => BatchRowState::Rejected(row.get::<_, Option<String>>(2)?.unwrap_or_default()),
        };
        found.push(BatchRow { line: natural(row.get(0)?), state });
    }
    Ok(found)
}
