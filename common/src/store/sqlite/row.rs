//! Tasks and events as rows: what is read is decoded here, for writers and readers alike.

use rusqlite::{Connection, OptionalExtension, params};

use super::connection::{undecodable, unencodable};
use crate::clock::Timestamp;
use crate::id::{AppendId, LeaseToken, TaskId};
use crate::journal::{Chained, EventHash, Recorded, Seal};
use crate::store::StoreError;
use crate::store::book::{Entry, LastAppend, Lease};
use crate::task::{Head, StateName};

/// What [`stored`] reads, in order.
pub(super) const COLUMNS: &str = "n, id, head, token, due_at, kept, journal_bytes, last_append, last_from, last_to, batch, \
                       state, chain, chain_at";

/// Where a task stands in the file.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) n: i64,
    /// The batch of which a row made it.
    pub(super) batch: Option<String>,
    /// How many signals wait in the inbox, those of a newer version included.
    pub(super) kept: u64,
}

/// A task as its row has it: without what other tables know of it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) place: Place,
    pub(super) entry: Entry,
}

/// A task whose head this version cannot read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) n: i64,
    pub(super) id: String,
    pub(super) why: serde_json::Error,
}

impl Unreadable {
    /// What a caller is told who wants to change it.
    pub(super) fn damage(&self) -> StoreError {
        StoreError::Damaged(format!("task {} cannot be read by this version: {}", self.id, self.why))
    }
}

/// What a task id leads to.
#[derive(Debug)]
pub(super) enum Found {
    Missing,
    Readable(Box<Stored>),
    Unreadable(Unreadable),
}

/// Events of a journal, from a number up to but without another, and at most so many.
pub(super) fn read_events(
    db: &Connection,
    task: TaskId,
    from: u64,
    to: u64,
    limit: u64,
) -> rusqlite::Result<Vec<Recorded>> {
    let mut statement = db.prepare_cached(
        "SELECT seq, at, event FROM journal WHERE task = ?1 AND seq >= ?2 AND seq < ?3 ORDER BY seq LIMIT ?4",
    )?;
    let mut rows = statement.query(params![task.to_string(), integer(from), integer(to), integer(limit)])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let encoded = row.get_ref(2)?.as_str()?;
        let event = serde_json::from_str(encoded)
            .map_err(|error| undecodable(&format!("event {seq} of task {task}"), &error))?;
        events.push(Recorded { seq: natural(seq), at: Timestamp::from_millis(row.get(1)?), event });
    }
    Ok(events)
}

/// Events of a journal after a number as they lie there, at most so many.
pub(super) fn read_chain(db: &Connection, task: TaskId, after: u64, limit: u64) -> rusqlite::Result<Vec<Chained>> {
    db.prepare_cached("SELECT seq, at, event, hash FROM journal WHERE task = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")?
        .query_map(params![task.to_string(), integer(after), integer(limit)], |row| {
            let hash: Option<[u8; 32]> = row.get(3)?;
            Ok(Chained {
                seq: natural(row.get(0)?),
                at: Timestamp::from_millis(row.get(1)?),
                event: row.get(2)?,
                hash: hash.map(EventHash::from_bytes),
            })
        })?
        .collect()
}

/// The newest seal of a journal.
pub(super) fn read_seal(db: &Connection, task: TaskId) -> rusqlite::Result<Option<Seal>> {
    let seal: Option<Option<[u8; Seal::LENGTH]>> = db
        .prepare_cached("SELECT seal FROM tasks WHERE id = ?1")?
        .query_row([task.to_string()], |row| row.get(0))
        .optional()?;
    Ok(seal.flatten().map(|bytes| Seal::from_bytes(&bytes)))
}

/// Decodes [`COLUMNS`].
pub(super) fn stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<Found> {
    let n = row.get(0)?;
    let head: Head = match serde_json::from_str(row.get_ref(2)?.as_str()?) {
        Ok(head) => head,
        Err(why) => return Ok(Found::Unreadable(Unreadable { n, id: row.get(1)?, why })),
    };
    let token: Option<[u8; 16]> = row.get(3)?;
    let due_at: Option<i64> = row.get(4)?;
    let (chain, chain_at): (Option<[u8; 32]>, Option<i64>) = (row.get(12)?, row.get(13)?);
    // A version without chains may have written after it.
    let chain = chain.filter(|_| chain_at.map(natural) == Some(head.version));
    let mut entry = Entry::open(head, natural(row.get(6)?), chain.map(EventHash::from_bytes));
    entry.lease = token
        .zip(due_at)
        .map(|(token, expires)| Lease { token: LeaseToken::new(token), expires: Timestamp::from_millis(expires) });
    let append: (Option<[u8; 16]>, Option<i64>, Option<i64>) = (row.get(7)?, row.get(8)?, row.get(9)?);
    if let (Some(id), Some(from), Some(to)) = append {
        entry.last_append = Some(LastAppend { id: AppendId::new(id), from: natural(from), to: natural(to) });
    }
    let dead = row.get_ref(11)?.as_str()? == StateName::Dead.as_str();
    entry.set_aside = dead && !entry.head.state.is_terminal();
    let place = Place { n, batch: row.get(10)?, kept: natural(row.get(5)?) };
    Ok(Found::Readable(Box::new(Stored { place, entry })))
}

pub(super) fn encode_head(head: &Head) -> rusqlite::Result<String> {
    serde_json::to_string(head).map_err(unencodable)
}

/// `SQLite`'s integers are signed; ours never come near the limit.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The reverse of [`integer`].
pub(super) fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
