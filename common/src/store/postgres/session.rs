//! Sessions: bytes under a name, replaced by who knows what they replace.

use super::connection::Connection;
use super::fault::Fault;
use super::transaction::clock;
use super::value::Time;
use crate::id::SessionName;
use crate::store::{KeepSession, KeptSession, StoreOptions};

const KNOWN: &str = "SELECT version, body FROM sessions WHERE name = $1 AND until > $2";
/// A name that is new has no row to be locked.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 5))";
const PUT: &str = "INSERT INTO sessions (name, version, body, until) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (name) DO UPDATE SET version = excluded.version, body = excluded.body, until = excluded.until";
/// Whoever writes removes some that are over.
const SWEEP: &str = "DELETE FROM sessions WHERE name IN \
     (SELECT name FROM sessions WHERE until <= $1 ORDER BY until LIMIT 10 FOR UPDATE SKIP LOCKED)";

/// What is kept, if its time is not over.
pub(super) async fn read(
    connection: &Connection,
    options: &StoreOptions,
    name: &SessionName,
) -> Result<Option<KeptSession>, Fault> {
    let now = clock(connection, options).await?;
    let rows = connection.query(KNOWN, &[&name.as_str(), &Time(now)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (version, body): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Some(KeptSession { version: version.unsigned_abs(), body: body.into() }))
}

/// Keeps a session in place of the expected version.
pub(super) async fn keep(connection: &Connection, options: &StoreOptions, keep: KeepSession) -> Result<bool, Fault> {
    connection.batch("BEGIN").await?;
    connection.query(LOCK, &[&keep.name.as_str()]).await?;
    let known = read(connection, options, &keep.name).await?.map_or(0, |kept| kept.version);
    let fits = known == keep.expected;
    if fits {
        let now = clock(connection, options).await?;
        let version = i64::try_from(known + 1).unwrap_or(i64::MAX);
        let until = Time(now.plus(keep.keep));
        connection.execute(PUT, &[&keep.name.as_str(), &version, &keep.body.as_ref(), &until]).await?;
        connection.execute(SWEEP, &[&Time(now)]).await?;
    }
    connection.batch("COMMIT").await?;
    Ok(fits)
}
