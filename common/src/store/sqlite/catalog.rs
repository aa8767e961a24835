//! What is not a task: definitions, paused queues, schedules, and the health check.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::connection::Stop;
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::{Digest, PipelineName, QueueName};
use crate::store::{Definition, StoreError};

/// Keeps definitions and makes them current.
pub(super) fn apply(tx: &mut Transaction<'_>, definitions: &[Definition]) -> Result<(), Stop<StoreError>> {
    for definition in definitions {
        tx.db
            .prepare_cached("INSERT INTO definitions (digest, name, body) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![definition.digest.as_str(), definition.name.as_str(), &*definition.body])?;
        tx.db
            .prepare_cached(
                "INSERT INTO current_definitions (name, digest) VALUES (?1, ?2) \
                 ON CONFLICT DO UPDATE SET digest = excluded.digest",
            )?
            .execute(params![definition.name.as_str(), definition.digest.as_str()])?;
    }
    Ok(())
}

/// A definition by its digest.
pub(super) fn definition(db: &Connection, digest: &Digest) -> Result<Option<Definition>, Stop<StoreError>> {
    one(db, "SELECT name, digest, body FROM definitions WHERE digest = ?1", digest.as_str())
}

/// The current definition of a pipeline.
pub(super) fn current(db: &Connection, pipeline: &PipelineName) -> Result<Option<Definition>, Stop<StoreError>> {
    one(
        db,
        "SELECT d.name, d.digest, d.body FROM current_definitions c JOIN definitions d ON d.digest = c.digest \
         WHERE c.name = ?1",
        pipeline.as_str(),
    )
}

/// All current definitions, by name.
pub(super) fn definitions(db: &Connection) -> Result<Vec<Definition>, Stop<StoreError>> {
    let rows: Vec<_> = db
        .prepare_cached(
            "SELECT d.name, d.digest, d.body FROM current_definitions c JOIN definitions d ON d.digest = c.digest \
             ORDER BY c.name",
        )?
        .query_map([], texts)?
        .collect::<rusqlite::Result<_>>()?;
    rows.into_iter().map(decode).collect()
}

fn one(db: &Connection, sql: &str, key: &str) -> Result<Option<Definition>, Stop<StoreError>> {
    db.prepare_cached(sql)?.query_row([key], texts).optional()?.map(decode).transpose()
}

fn texts(row: &Row<'_>) -> rusqlite::Result<(String, String, String)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn decode((name, digest, body): (String, String, String)) -> Result<Definition, Stop<StoreError>> {
    let damaged = |error: crate::id::InvalidId| Stop::Refused(StoreError::Damaged(format!("a definition: {error}")));
    Ok(Definition {
        name: PipelineName::new(name).map_err(damaged)?,
        digest: Digest::try_from(digest).map_err(damaged)?,
        body: Arc::from(body),
    })
}

/// Pauses or resumes a queue.
pub(super) fn pause(tx: &mut Transaction<'_>, queue: &QueueName, paused: bool) -> Result<(), Stop<StoreError>> {
    let sql = if paused {
        "INSERT INTO paused_queues (queue) VALUES (?1) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM paused_queues WHERE queue = ?1"
    };
    tx.db.prepare_cached(sql)?.execute([queue.as_str()])?;
    tx.ring();
    Ok(())
}

/// Up to when a schedule has been served.
pub(super) fn schedule(db: &Connection, name: &str) -> Result<Option<Timestamp>, Stop<StoreError>> {
    Ok(db
        .prepare_cached("SELECT served_until FROM schedules WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?
        .map(Timestamp::from_millis))
}

/// Notes up to when a schedule has been served.
pub(super) fn serve_schedule(tx: &mut Transaction<'_>, name: &str, until: Timestamp) -> Result<(), Stop<StoreError>> {
    tx.db
        .prepare_cached(
            "INSERT INTO schedules (name, served_until) VALUES (?1, ?2) \
             ON CONFLICT DO UPDATE SET served_until = max(served_until, excluded.served_until)",
        )?
        .execute(params![name, until.as_millis()])?;
    Ok(())
}

/// A write that reaches the disk.
pub(super) fn check(tx: &mut Transaction<'_>) -> Result<(), Stop<StoreError>> {
    tx.db
        .prepare_cached(
            "INSERT INTO health (id, checked_at) VALUES (1, ?1) \
             ON CONFLICT DO UPDATE SET checked_at = excluded.checked_at",
        )?
        .execute([tx.now.as_millis()])?;
    Ok(())
}
