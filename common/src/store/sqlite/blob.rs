//! Blobs: bytes that events refer to, who uses them, and when they go.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::connection::Stop;
use super::row::integer;
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::{BlobHouse, BlobName};
use crate::store::{BLOB_GRACE, StoreError};

/// The most that one call of `due` removes: the bytes of many would hold up the writer.
const MOST: usize = 100;

/// Keeps a blob, unless its content is kept already: the name that it has.
pub(super) fn keep(tx: &Transaction<'_>, name: &BlobName, data: Option<&Bytes>) -> Result<BlobName, Stop<StoreError>> {
    if data.is_some() != (name.house() == BlobHouse::Store) {
        return Err(Stop::Refused(StoreError::Refused(format!("blob {name}: its bytes belong where its name says"))));
    }
    let elsewhere = data.is_none();
    let known: Option<String> = tx
        .db
        .prepare_cached("SELECT name FROM blobs WHERE digest = ?1 AND elsewhere = ?2 AND condemned = 0")?
        .query_row(params![name.digest().as_str(), elsewhere], |row| row.get(0))
        .optional()?;
    if let Some(known) = known.and_then(|known| known.parse().ok()) {
        touch(tx, &known)?;
        return Ok(known);
    }
    let text = name.to_string();
    let added = tx
        .db
        .prepare_cached(
            "INSERT INTO blobs (name, digest, elsewhere, unused_since, condemned) VALUES (?1, ?2, ?3, ?4, 0) \
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![text, name.digest().as_str(), elsewhere, tx.now.as_millis()])?;
    if let Some(data) = data
        && added > 0
    {
        tx.db
            .prepare_cached("INSERT INTO blob_data (name, data) VALUES (?1, ?2)")?
            .execute(params![text, data.as_ref()])?;
    }
    Ok(name.clone())
}

/// The time of grace begins anew for what nobody uses.
fn touch(tx: &Transaction<'_>, name: &BlobName) -> rusqlite::Result<()> {
    tx.db
        .prepare_cached("UPDATE blobs SET unused_since = ?2 WHERE name = ?1 AND unused_since IS NOT NULL")?
        .execute(params![name.to_string(), tx.now.as_millis()])
        .map(drop)
}

/// The bytes of blobs.
pub(super) fn read(db: &Connection, names: &[BlobName]) -> rusqlite::Result<Vec<Option<Bytes>>> {
    let mut statement = db.prepare_cached("SELECT data FROM blob_data WHERE name = ?1")?;
    let mut read = |name: &BlobName| {
        let data: Option<Vec<u8>> = statement.query_row([name.to_string()], |row| row.get(0)).optional()?;
        Ok(data.map(Bytes::from))
    };
    names.iter().map(&mut read).collect()
}

/// Refuses what refers to a blob that is not kept. To be asked before anything is written.
pub(super) fn expect<E: From<StoreError>>(tx: &Transaction<'_>, names: &[BlobName]) -> Result<(), Stop<E>> {
    for name in names {
        let kept = tx
            .db
            .prepare_cached("SELECT 1 FROM blobs WHERE name = ?1 AND condemned = 0")?
            .exists([name.to_string()])?;
        if !kept {
            let why = format!("the large value {name} was kept too long ago for what refers to it; try again");
            return Err(Stop::Refused(StoreError::Unavailable(why).into()));
        }
    }
    Ok(())
}

/// Notes that a task uses blobs.
pub(super) fn begin_use(tx: &Transaction<'_>, task: &str, names: &[BlobName]) -> rusqlite::Result<()> {
    for name in names {
        let name = name.to_string();
        let new = tx
            .db
            .prepare_cached("INSERT INTO blob_users (task, name) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute([task, &name])?;
        if new > 0 {
            tx.db
                .prepare_cached("UPDATE blobs SET unused_since = NULL WHERE name = ?1 AND unused_since IS NOT NULL")?
                .execute([&name])?;
        }
    }
    Ok(())
}

/// A task that goes uses nothing any more.
pub(super) fn end_use(tx: &Transaction<'_>, task: &str) -> rusqlite::Result<()> {
    let names: Vec<String> = tx
        .db
        .prepare_cached("DELETE FROM blob_users WHERE task = ?1 RETURNING name")?
        .query_map([task], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for name in names {
        tx.db
            .prepare_cached(
                "UPDATE blobs SET unused_since = ?2 WHERE name = ?1 AND unused_since IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM blob_users WHERE name = ?1)",
            )?
            .execute(params![name, tx.now.as_millis()])?;
    }
    Ok(())
}

/// Removes or condemns what nobody has used for long enough. Answers with when to look again.
pub(super) fn remove_unused(tx: &Transaction<'_>) -> rusqlite::Result<Option<Timestamp>> {
    let grace = i64::try_from(BLOB_GRACE.as_millis()).unwrap_or(i64::MAX);
    let unused: Vec<(String, bool)> = tx
        .db
        .prepare_cached(
            "SELECT name, elsewhere FROM blobs WHERE unused_since <= ?1 AND condemned = 0 ORDER BY unused_since LIMIT ?2",
        )?
        .query_map(params![tx.now.as_millis().saturating_sub(grace), integer(MOST as u64)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (name, elsewhere) in &unused {
        if *elsewhere {
            tx.db.prepare_cached("UPDATE blobs SET condemned = 1 WHERE name = ?1")?.execute([name])?;
        } else {
            tx.db.prepare_cached("DELETE FROM blob_data WHERE name = ?1")?.execute([name])?;
            tx.db.prepare_cached("DELETE FROM blobs WHERE name = ?1")?.execute([name])?;
        }
    }
    let oldest: Option<i64> = tx
        .db
        .prepare_cached("SELECT min(unused_since) FROM blobs WHERE unused_since IS NOT NULL AND condemned = 0")?
        .query_row([], |row| row.get(0))?;
    Ok(oldest.map(|since| Timestamp::from_millis(since).plus(BLOB_GRACE)))
}

/// What is to be removed from where it is kept.
pub(super) fn condemned(db: &Connection, limit: usize) -> rusqlite::Result<Vec<BlobName>> {
    let mut statement = db.prepare_cached("SELECT name FROM blobs WHERE condemned = 1 LIMIT ?1")?;
    let names: Vec<String> =
        statement.query_map([integer(limit as u64)], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// It is gone from there.
pub(super) fn bury(tx: &Transaction<'_>, names: &[BlobName]) -> rusqlite::Result<()> {
    for name in names {
        tx.db.prepare_cached("DELETE FROM blobs WHERE name = ?1 AND condemned = 1")?.execute([name.to_string()])?;
    }
    Ok(())
}
