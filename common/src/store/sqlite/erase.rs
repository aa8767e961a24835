//! Erasing the data of a task that is done.

use rusqlite::Connection;

use super::connection::Stop;
use super::entries::{Entries, Reach};
use super::row::read_chain;
use super::transaction::Transaction;
use crate::id::TaskId;
use crate::store::{Erasure, SignalError};

/// Erases it.
pub(super) fn erase(tx: &mut Transaction<'_>, task: TaskId, by: &str) -> Result<Erasure, Stop<SignalError>> {
    let journal = read_chain(tx.db, task, 0, u64::MAX)?;
    let db = tx.db;
    let mut entries = Entries::open(tx);
    entries.load(task, Reach::Alone)?;
    let answer = entries.perform(|book| book.erase(task, by, &journal))?;
    overwriting(db, || entries.write())?;
    Ok(answer)
}

/// What is removed meanwhile is overwritten in the file. It stays in the log beside it until that is written over.
pub(super) fn overwriting<T>(db: &Connection, work: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let set = |on: bool| db.pragma_update_and_check(None, "secure_delete", on, |row| row.get::<_, i64>(0));
    set(true)?;
    let done = work();
    set(false)?;
    done
}
