//! The outbox, where there is a broker: a hint for each ready task, kept until
//! somebody says that the broker has it, or the task is ready no more.

use std::time::Duration;

use rusqlite::params;

use super::connection::Stop;
use super::row::{integer, natural};
use super::transaction::Transaction;
use crate::id::QueueName;
use crate::store::{Hint, StoreError};

impl Transaction<'_> {
    /// Keeps a hint.
    pub(super) fn keep_hint(&self, hint: &Hint) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO outbox (task, version, queue, priority, since) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT DO UPDATE SET version = excluded.version, since = excluded.since",
            )?
            .execute(params![
                hint.task.to_string(),
                integer(hint.version),
                hint.queue.as_str(),
                hint.priority,
                self.now.as_millis()
            ])
            .map(drop)
    }

    /// Drops the hint of a task, if there is one.
    pub(super) fn withdraw(&self, task: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached("DELETE FROM outbox WHERE task = ?1")?.execute([task]).map(drop)
    }
}

/// Gives the oldest hints that were not given for so long.
pub(super) fn unsent(tx: &mut Transaction<'_>, age: Duration, limit: usize) -> Result<Vec<Hint>, Stop<StoreError>> {
    let until = tx.now.as_millis().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let old: Vec<(String, i64, String, u8, bool)> = tx
        .db
        .prepare_cached(
            "SELECT o.task, o.version, o.queue, o.priority, t.n IS NOT NULL FROM outbox o \
             LEFT JOIN tasks t ON t.id = o.task AND t.state = 'ready' WHERE o.since <= ?1 ORDER BY o.since LIMIT ?2",
        )?
        .query_map(params![until, integer(limit as u64)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut hints = Vec::with_capacity(old.len());
    for (id, version, queue, priority, ready) in old {
        let (Ok(task), Ok(queue), true) = (id.parse(), QueueName::new(queue), ready) else {
            // A process that knows of no broker has taken it.
            tx.withdraw(&id)?;
            continue;
        };
        tx.db
            .prepare_cached("UPDATE outbox SET since = ?2 WHERE task = ?1")?
            .execute(params![id, tx.now.as_millis()])?;
        hints.push(Hint { task, version: natural(version), queue, priority });
    }
    Ok(hints)
}

/// The broker has these. A task that became ready again since keeps its newer hint.
pub(super) fn sent(tx: &mut Transaction<'_>, hints: &[Hint]) -> Result<(), Stop<StoreError>> {
    for hint in hints {
        tx.db
            .prepare_cached("DELETE FROM outbox WHERE task = ?1 AND version <= ?2")?
            .execute(params![hint.task.to_string(), integer(hint.version)])?;
    }
    Ok(())
}
