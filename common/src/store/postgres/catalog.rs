//! What is not a task: definitions, paused queues, schedules, and the health check.

use std::sync::Arc;

use tokio_postgres::Row;

use super::connection::Connection;
use super::fault::Fault;
use super::transaction::{Rings, given};
use super::value::{Time, text};
use crate::clock::Timestamp;
use crate::id::{Digest, PipelineName, QueueName};
use crate::store::{Definition, StoreOptions};

/// The longest name of a schedule, in bytes.
const SCHEDULE: usize = 1_024;

/// One statement, so that all or none are applied. Of two of one name the last one counts.
const APPLY: &str = "WITH given AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY \
       AS u(digest, name, body, n)), \
     kept AS (INSERT INTO definitions (digest, name, body) SELECT DISTINCT ON (digest) digest, name, body FROM given \
       ORDER BY digest ON CONFLICT DO NOTHING) \
     INSERT INTO current_definitions (name, digest) SELECT DISTINCT ON (name) name, digest FROM given \
     ORDER BY name, n DESC ON CONFLICT (name) DO UPDATE SET digest = excluded.digest";
const DEFINITION: &str = "SELECT name, digest, body FROM definitions WHERE digest = $1";
const CURRENT: &str = "SELECT d.name, d.digest, d.body FROM current_definitions c \
     JOIN definitions d ON d.digest = c.digest WHERE c.name = $1";
const ALL: &str = "SELECT d.name, d.digest, d.body FROM current_definitions c \
     JOIN definitions d ON d.digest = c.digest ORDER BY c.name";
const PAUSE: &str = "INSERT INTO paused_queues (queue) VALUES ($1) ON CONFLICT DO NOTHING";
const RESUME: &str = "DELETE FROM paused_queues WHERE queue = $1";
const SERVED: &str = "SELECT served_until FROM schedules WHERE name = $1";
const SERVE: &str = "INSERT INTO schedules AS s (name, served_until) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET served_until = greatest(s.served_until, excluded.served_until)";
const CHECK: &str = "INSERT INTO health (id, checked_at) VALUES (1, coalesce($1, clock_timestamp())) \
     ON CONFLICT (id) DO UPDATE SET checked_at = excluded.checked_at";

/// Keeps definitions and makes them current.
pub(super) async fn apply(connection: &Connection, definitions: &[Definition]) -> Result<(), Fault> {
    let digests: Vec<&str> = definitions.iter().map(|definition| definition.digest.as_str()).collect();
    let names: Vec<&str> = definitions.iter().map(|definition| definition.name.as_str()).collect();
    let bodies: Vec<&str> = definitions.iter().map(|definition| &*definition.body).collect();
    connection.execute(APPLY, &[&digests, &names, &bodies]).await.map(drop)
}

/// A definition by its digest.
pub(super) async fn definition(connection: &Connection, digest: &Digest) -> Result<Option<Definition>, Fault> {
    connection.query(DEFINITION, &[&digest.as_str()]).await?.first().map(decode).transpose()
}

/// The current definition of a pipeline.
pub(super) async fn current(connection: &Connection, pipeline: &PipelineName) -> Result<Option<Definition>, Fault> {
    connection.query(CURRENT, &[&pipeline.as_str()]).await?.first().map(decode).transpose()
}

/// All current definitions, by name.
pub(super) async fn definitions(connection: &Connection) -> Result<Vec<Definition>, Fault> {
    connection.query(ALL, &[]).await?.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<Definition, Fault> {
    let damaged = |error: crate::id::InvalidId| Fault::damaged("a definition", &error);
    Ok(Definition {
        name: PipelineName::new(row.try_get::<_, &str>(0)?).map_err(damaged)?,
        digest: Digest::try_from(row.try_get::<_, String>(1)?).map_err(damaged)?,
        body: Arc::from(row.try_get::<_, &str>(2)?),
    })
}

/// Pauses or resumes a queue.
pub(super) async fn pause(connection: &Connection, queue: &QueueName, paused: bool) -> Result<Rings, Fault> {
    connection.execute(if paused { PAUSE } else { RESUME }, &[&queue.as_str()]).await?;
    let queues = (!paused).then(|| queue.clone()).into_iter().collect();
    Ok(Rings { queues, ..Rings::default() })
}

/// Up to when a schedule has been served.
pub(super) async fn schedule(connection: &Connection, name: &str) -> Result<Option<Timestamp>, Fault> {
    let rows = connection.query(SERVED, &[&text(name, SCHEDULE)]).await?;
    let served: Option<Time> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(served.map(|Time(until)| until))
}

/// Notes up to when a schedule has been served.
pub(super) async fn serve_schedule(connection: &Connection, name: &str, until: Timestamp) -> Result<(), Fault> {
    connection.execute(SERVE, &[&text(name, SCHEDULE), &Time(until)]).await.map(drop)
}

/// A write that reaches the disk.
pub(super) async fn check(connection: &Connection, options: &StoreOptions) -> Result<(), Fault> {
    connection.execute(CHECK, &[&given(options)]).await.map(drop)
}
