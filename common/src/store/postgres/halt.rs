//! Halts of the fleet and of pipelines.

use tokio_postgres::Row;

use super::connection::Connection;
use super::fault::Fault;
use super::transaction::clock;
use super::value::{Time, text};
use crate::id::PipelineName;
use crate::store::{Halt, HaltChange, HaltState, StoreOptions};

/// The longest text of a halt, in bytes.
const TEXT: usize = 10_000;

/// One at a time: a halt that begins has no row to be locked.
const LOCK: &str = "LOCK TABLE halts IN SHARE ROW EXCLUSIVE MODE";
const KNOWN: &str = "SELECT pipeline, halted_at, halted_by, reason, lifted_at, lifted_by, over FROM halts \
     WHERE pipeline = $1";
const ALL: &str =
    "SELECT pipeline, halted_at, halted_by, reason, lifted_at, lifted_by, over FROM halts ORDER BY pipeline";
const PUT: &str = "INSERT INTO halts (pipeline, halted_at, halted_by, reason, lifted_at, lifted_by, over) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (pipeline) DO UPDATE SET halted_at = excluded.halted_at, \
     halted_by = excluded.halted_by, reason = excluded.reason, lifted_at = excluded.lifted_at, \
     lifted_by = excluded.lifted_by, over = excluded.over";

/// Begins, lifts or ends a halt.
pub(super) async fn change(
    connection: &Connection,
    options: &StoreOptions,
    change: HaltChange,
) -> Result<Option<Halt>, Fault> {
    let pipeline = change.pipeline().map_or(String::new(), ToString::to_string);
    connection.batch("BEGIN").await?;
    connection.batch(LOCK).await?;
    let now = clock(connection, options).await?;
    let known = connection.query(KNOWN, &[&pipeline]).await?.first().map(read).transpose()?;
    let halt = change.apply(known.as_ref(), now);
    if let Some(Halt { at, by, reason, state, .. }) = &halt {
        let (lifted, over) = match state {
            HaltState::InForce => (None, false),
            HaltState::Lifting { at, by } => (Some((at, by)), false),
            HaltState::Over { at, by } => (Some((at, by)), true),
        };
        let (at, by, reason) = (Time(*at), text(by, TEXT), text(reason, TEXT));
        let (lifted_at, lifted_by) = (lifted.map(|(at, _)| Time(*at)), lifted.map(|(_, by)| text(by, TEXT)));
        connection.execute(PUT, &[&pipeline, &at, &by, &reason, &lifted_at, &lifted_by, &over]).await?;
    }
    connection.batch("COMMIT").await?;
    Ok(halt)
}

/// The newest of each: that of the fleet, then by name.
pub(super) async fn all(connection: &Connection) -> Result<Vec<Halt>, Fault> {
    connection.query(ALL, &[]).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Halt, Fault> {
    let pipeline: &str = row.try_get(0)?;
    let pipeline = (!pipeline.is_empty())
        .then(|| PipelineName::new(pipeline))
        .transpose()
        .map_err(|error| Fault::damaged("a halt", &error))?;
    let Time(at) = row.try_get(1)?;
    let lifted: (Option<Time>, Option<String>) = (row.try_get(4)?, row.try_get(5)?);
    let state = match lifted {
        (Some(Time(at)), Some(by)) if row.try_get(6)? => HaltState::Over { at, by },
        (Some(Time(at)), Some(by)) => HaltState::Lifting { at, by },
        _ => HaltState::InForce,
    };
    Ok(Halt { pipeline, at, by: row.try_get(2)?, reason: row.try_get(3)?, state })
}
