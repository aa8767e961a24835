//! Blobs: bytes that events refer to, who uses them, and when they go.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use futures::join;
use uuid::Uuid;

use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::transaction::{Transaction, clock};
use super::value::{Time, integer, millis};
use crate::clock::Timestamp;
use crate::id::{BlobHouse, BlobName};
use crate::store::{BLOB_GRACE, StoreError, StoreOptions};

/// The most that one call of `due` removes.
const MOST: usize = 100;

/// A name that was condemned is not kept again.
const KEEP: &str = "INSERT INTO blobs (name, digest, elsewhere, unused_since) \
     SELECT $1::text, $2::text, $3::bool, $4::timestamptz \
     WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE name = $1::text AND condemned) \
     ON CONFLICT (digest, elsewhere) WHERE NOT condemned DO UPDATE \
     SET unused_since = CASE WHEN blobs.unused_since IS NULL THEN NULL ELSE excluded.unused_since END RETURNING name";
const KEEP_DATA: &str = "INSERT INTO blob_data (name, data) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const READ: &str = "SELECT name, data FROM blob_data WHERE name = ANY($1::text[])";
/// They are not removed before the transaction ends.
pub(super) const KEPT: &str =
    "SELECT name FROM blobs WHERE name = ANY($1::text[]) AND NOT condemned ORDER BY name FOR SHARE";
pub(super) const BEGIN_USE: &str = "WITH added AS (INSERT INTO blob_users (task, name) \
     SELECT * FROM unnest($1::uuid[], $2::text[]) ON CONFLICT DO NOTHING RETURNING name) \
     UPDATE blobs SET unused_since = NULL WHERE name IN (SELECT name FROM added) AND unused_since IS NOT NULL";
const END_USE: &str = "DELETE FROM blob_users WHERE task = ANY($1::uuid[]) RETURNING name";
/// Whoever begins to use one meanwhile has it locked: the next statement sees what came of that.
const LOCK: &str = "SELECT 1 FROM blobs WHERE name = ANY($1::text[]) ORDER BY name FOR UPDATE";
const UNUSED: &str = "UPDATE blobs b SET unused_since = $2 WHERE name = ANY($1::text[]) AND unused_since IS NULL \
     AND NOT EXISTS (SELECT 1 FROM blob_users u WHERE u.name = b.name)";
const OLD: &str = "SELECT name FROM blobs WHERE unused_since <= $1 AND NOT condemned \
     ORDER BY unused_since LIMIT $2 FOR UPDATE SKIP LOCKED";
/// Of those that are old and locked. One that is used after all would be an error of ours, and is spared.
const SPARE: &str = "UPDATE blobs b SET unused_since = NULL WHERE name = ANY($1::text[]) \
     AND EXISTS (SELECT 1 FROM blob_users u WHERE u.name = b.name)";
const CONDEMN: &str =
    "UPDATE blobs SET condemned = true WHERE name = ANY($1::text[]) AND elsewhere AND unused_since IS NOT NULL";
const DELETE: &str = "WITH gone AS (DELETE FROM blobs WHERE name = ANY($1::text[]) AND NOT elsewhere \
     AND unused_since IS NOT NULL RETURNING name) DELETE FROM blob_data WHERE name IN (SELECT name FROM gone)";
const NEXT: &str = "SELECT min(unused_since) FROM blobs WHERE unused_since IS NOT NULL AND NOT condemned";
const CONDEMNED: &str = "SELECT name FROM blobs WHERE condemned LIMIT $1";
const BURY: &str = "DELETE FROM blobs WHERE name = ANY($1::text[]) AND condemned";

/// Keeps a blob, unless its content is kept already: the name that it has.
pub(super) async fn keep(
    connection: &Connection,
    options: &StoreOptions,
    name: &BlobName,
    data: Option<&Bytes>,
) -> Result<BlobName, Stop<StoreError>> {
    if data.is_some() != (name.house() == BlobHouse::Store) {
        let why = format!("blob {name}: its bytes belong where its name says");
        return Err(Stop::Refused(StoreError::Refused(why)));
    }
    let now = clock(connection, options).await?;
    connection.batch("BEGIN").await?;
    let (text, elsewhere) = (name.to_string(), data.is_none());
    let rows = connection.query(KEEP, &[&text, &name.digest().as_str(), &elsewhere, &Time(now)]).await?;
    let known: Option<String> = rows.first().map(|row| row.try_get(0)).transpose().map_err(Fault::from)?;
    if let Some(data) = data
        && known.as_ref() == Some(&text)
    {
        connection.execute(KEEP_DATA, &[&text, &data.as_ref()]).await?;
    }
    connection.batch("COMMIT").await?;
    Ok(known.and_then(|known| known.parse().ok()).unwrap_or_else(|| name.clone()))
}

/// The bytes of blobs, in order.
pub(super) async fn read(connection: &Connection, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, Fault> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut found: HashMap<String, Bytes> = HashMap::with_capacity(names.len());
    for row in connection.query(READ, &[&names]).await? {
        let data: &[u8] = row.try_get(1)?;
        found.insert(row.try_get(0)?, Bytes::copy_from_slice(data));
    }
    Ok(names.iter().map(|name| found.get(name).cloned()).collect())
}

/// Which of these are kept; they stay until the transaction ends.
pub(super) async fn kept(
    connection: &Connection,
    names: impl IntoIterator<Item = &BlobName>,
) -> Result<HashSet<String>, Fault> {
    let names: BTreeSet<String> = names.into_iter().map(ToString::to_string).collect();
    if names.is_empty() {
        return Ok(HashSet::new());
    }
    let names: Vec<String> = names.into_iter().collect();
    let mut kept = HashSet::new();
    for row in connection.query(KEPT, &[&names]).await? {
        kept.insert(row.try_get(0)?);
    }
    Ok(kept)
}

/// The answer to what refers to a blob that is not kept.
pub(super) fn gone() -> StoreError {
    StoreError::Unavailable("a large value was kept too long ago for what refers to it; try again".to_owned())
}

/// Tasks that go use nothing any more.
pub(super) async fn end_use(tx: &Transaction<'_>, tasks: &[Uuid]) -> Result<(), Fault> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for row in tx.connection.query(END_USE, &[&tasks]).await? {
        names.insert(row.try_get(0)?);
    }
    if names.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = names.into_iter().collect();
    tx.connection.query(LOCK, &[&names]).await?;
    tx.connection.execute(UNUSED, &[&names, &Time(tx.now)]).await.map(drop)
}

/// Removes or condemns what nobody has used for long enough. Answers with when to look again.
pub(super) async fn remove_unused(tx: &Transaction<'_>) -> Result<Option<Timestamp>, Fault> {
    let connection = tx.connection;
    let next = async || -> Result<Option<Timestamp>, Fault> {
        let rows = connection.query(NEXT, &[]).await?;
        let next: Option<Time> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
        Ok(next.map(|Time(since)| since.plus(BLOB_GRACE)))
    };
    let first = next().await?;
    if first.is_none_or(|first| first > tx.now) {
        return Ok(first);
    }
    let before = Timestamp::from_millis(tx.now.as_millis().saturating_sub(millis(BLOB_GRACE)));
    let mut names: Vec<String> = Vec::new();
    for row in connection.query(OLD, &[&Time(before), &integer(MOST as u64)]).await? {
        names.push(row.try_get(0)?);
    }
    connection.execute(SPARE, &[&names]).await?;
    let (condemned, deleted) = join!(async { connection.execute(CONDEMN, &[&names]).await }, async {
        connection.execute(DELETE, &[&names]).await
    },);
    (condemned?, deleted?);
    next().await
}

/// What is to be removed from where it is kept.
pub(super) async fn condemned(connection: &Connection, limit: usize) -> Result<Vec<BlobName>, Fault> {
    let mut names = Vec::new();
    for row in connection.query(CONDEMNED, &[&integer(limit as u64)]).await? {
        names.extend(row.try_get::<_, &str>(0)?.parse::<BlobName>().ok());
    }
    Ok(names)
}

/// They are gone from there.
pub(super) async fn bury(connection: &Connection, names: &[BlobName]) -> Result<(), Fault> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    connection.execute(BURY, &[&names]).await.map(drop)
}
