//! Sessions: bytes under a name, replaced by who knows what they replace.

use rusqlite::{Connection, OptionalExtension, params};

use super::connection::Stop;
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::SessionName;
use crate::store::{KeepSession, KeptSession, StoreError};

/// How many that are over each write removes.
const SWEPT: i64 = 10;

/// What is kept, if its time is not over.
pub(super) fn read(
    db: &Connection,
    name: &SessionName,
    now: Timestamp,
) -> Result<Option<KeptSession>, Stop<StoreError>> {
    let kept: Option<(i64, Vec<u8>)> = db
        .prepare_cached("SELECT version, body FROM sessions WHERE name = ?1 AND until > ?2")?
        .query_row(params![name.as_str(), now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(kept.map(|(version, body)| KeptSession { version: version.unsigned_abs(), body: body.into() }))
}

/// Keeps a session in place of the expected version.
pub(super) fn keep(tx: &Transaction<'_>, keep: &KeepSession) -> Result<bool, Stop<StoreError>> {
    let known = read(tx.db, &keep.name, tx.now)?.map_or(0, |kept| kept.version);
    if known != keep.expected {
        return Ok(false);
    }
    tx.db
        .prepare_cached("INSERT OR REPLACE INTO sessions (name, version, body, until) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            keep.name.as_str(),
            i64::try_from(known + 1).unwrap_or(i64::MAX),
            keep.body.as_ref(),
            tx.now.plus(keep.keep).as_millis()
        ])?;
    tx.db
        .prepare_cached(
            "DELETE FROM sessions WHERE name IN (SELECT name FROM sessions WHERE until <= ?1 ORDER BY until LIMIT ?2)",
        )?
        .execute(params![tx.now.as_millis(), SWEPT])?;
    Ok(true)
}
