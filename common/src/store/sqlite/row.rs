//! Tasks and events as rows: what is read is decoded here, for writers and readers alike.

use rusqlite::{Connection, Row, params};

use super::connection::{undecodable, unencodable};
use crate::clock::Timestamp;
use crate::id::{AppendId, LeaseToken, TaskId};
use crate::journal::Recorded;
use crate::store::StoreError;
use crate::task::{Head, State, StateName};

/// What [`stored`] reads, in order.
pub(super) const COLUMNS: &str = "n, id, head, token, due_at, kept, journal_bytes, last_append, last_from, last_to, batch, \
                       state";

/// A task as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) n: i64,
    pub(super) head: Head,
    /// The state that it counts under. Differs from the head's only if an older
    /// version could not read the head and set the task aside.
    pub(super) state: StateName,
    pub(super) lease: Option<Lease>,
    pub(super) kept: u64,
    pub(super) journal_bytes: u64,
    pub(super) last_append: Option<LastAppend>,
    /// The batch of which a row made it.
    pub(super) batch: Option<String>,
}

/// A lease as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) token: LeaseToken,
    pub(super) expires: Timestamp,
}

/// The newest append, and the events that it added: from, and up to but without.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastAppend {
    pub(super) id: AppendId,
    pub(super) from: u64,
    pub(super) to: u64,
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

/// Decodes [`COLUMNS`].
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Found> {
    let n = row.get(0)?;
    let head: Head = match serde_json::from_str(row.get_ref(2)?.as_str()?) {
        Ok(head) => head,
        Err(why) => return Ok(Found::Unreadable(Unreadable { n, id: row.get(1)?, why })),
    };
    let token: Option<[u8; 16]> = row.get(3)?;
    let due_at: Option<i64> = row.get(4)?;
    let lease = token
        .zip(due_at)
        .map(|(token, expires)| Lease { token: LeaseToken::new(token), expires: Timestamp::from_millis(expires) });
    let append: (Option<[u8; 16]>, Option<i64>, Option<i64>) = (row.get(7)?, row.get(8)?, row.get(9)?);
    let last_append = match append {
        (Some(id), Some(from), Some(to)) => {
            Some(LastAppend { id: AppendId::new(id), from: natural(from), to: natural(to) })
        }
        _ => None,
    };
    let state = row.get_ref(11)?.as_str()?.parse().unwrap_or(head.state.name());
    Ok(Found::Readable(Box::new(Stored {
        n,
        head,
        lease,
        kept: natural(row.get(5)?),
        journal_bytes: natural(row.get(6)?),
        last_append,
        batch: row.get(10)?,
        state,
    })))
}

pub(super) const fn ready_since(head: &Head) -> Option<Timestamp> {
    match &head.state {
        State::Ready { since } => Some(*since),
        _ => None,
    }
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
