//! Halts of the fleet and of pipelines.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::connection::Stop;
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::PipelineName;
use crate::store::{Halt, HaltChange, HaltState, StoreError};

const COLUMNS: &str = "pipeline, halted_at, halted_by, reason, lifted_at, lifted_by, over";

/// Begins, lifts or ends a halt.
pub(super) fn change(tx: &Transaction<'_>, change: HaltChange) -> Result<Option<Halt>, Stop<StoreError>> {
    let pipeline = change.pipeline().map_or(String::new(), ToString::to_string);
    let known = tx
        .db
        .prepare_cached(&format!("SELECT {COLUMNS} FROM halts WHERE pipeline = ?1"))?
        .query_row([&pipeline], read)
        .optional()?;
    let Some(halt) = change.apply(known.as_ref(), tx.now) else { return Ok(None) };
    let (lifted, over) = match &halt.state {
        HaltState::InForce => (None, false),
        HaltState::Lifting { at, by } => (Some((at, by)), false),
        HaltState::Over { at, by } => (Some((at, by)), true),
    };
    tx.db
        .prepare_cached(&format!("INSERT OR REPLACE INTO halts ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"))?
        .execute(params![
            pipeline,
            halt.at.as_millis(),
            halt.by,
            halt.reason,
            lifted.map(|(at, _)| at.as_millis()),
            lifted.map(|(_, by)| by),
            over,
        ])?;
    Ok(Some(halt))
}

/// The newest of each.
pub(super) fn all(db: &Connection) -> Result<Vec<Halt>, Stop<StoreError>> {
    let mut halts = db.prepare_cached(&format!("SELECT {COLUMNS} FROM halts ORDER BY pipeline"))?;
    Ok(halts.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Halt> {
    let pipeline: String = row.get(0)?;
    let lifted: (Option<i64>, Option<String>) = (row.get(4)?, row.get(5)?);
    let state = match lifted {
        (Some(at), Some(by)) if row.get(6)? => HaltState::Over { at: Timestamp::from_millis(at), by },
        (Some(at), Some(by)) => HaltState::Lifting { at: Timestamp::from_millis(at), by },
        _ => HaltState::InForce,
    };
    let (at, by, reason) = (Timestamp::from_millis(row.get(1)?), row.get(2)?, row.get(3)?);
    let pipeline = (!pipeline.is_empty()).then(|| PipelineName::new(pipeline)).transpose();
    let pipeline = pipeline
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))?;
    Ok(Halt { pipeline, at, by, reason, state })
}
