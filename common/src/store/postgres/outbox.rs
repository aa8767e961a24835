//! Hints that a broker may not have yet: kept in the transaction that makes a
//! task ready, removed when the broker has them or the task is taken.

use std::time::Duration;

use uuid::Uuid;

use super::connection::Connection;
use super::fault::Fault;
use super::transaction::clock;
use super::value::{Time, integer, millis, natural};
use crate::clock::Timestamp;
use crate::id::{QueueName, TaskId};
use crate::store::{Hint, StoreOptions};

/// Gives out those that have waited long enough, and lets them wait anew; drops those of tasks that are ready no more.
const GIVE: &str = "WITH due AS (SELECT task FROM outbox WHERE since <= $1 ORDER BY since LIMIT $2 \
       FOR UPDATE SKIP LOCKED), \
     stale AS (DELETE FROM outbox o USING due d WHERE o.task = d.task \
       AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.id = o.task AND t.state = 'ready')) \
     UPDATE outbox o SET since = $3 FROM due d JOIN tasks t ON t.id = d.task AND t.state = 'ready' \
     WHERE o.task = d.task RETURNING o.task, o.version, o.queue, o.priority";
const SENT: &str = "DELETE FROM outbox o USING unnest($1::uuid[], $2::bigint[]) AS u(task, version) \
     WHERE o.task = u.task AND o.version = u.version";

/// Hints that have been kept for at least `age`.
pub(super) async fn unsent(
    connection: &Connection,
    options: &StoreOptions,
    age: Duration,
    limit: usize,
) -> Result<Vec<Hint>, Fault> {
    let now = clock(connection, options).await?;
    let before = Timestamp::from_millis(now.as_millis().saturating_sub(millis(age)));
    let rows = connection.query(GIVE, &[&Time(before), &integer(limit as u64), &Time(now)]).await?;
    let mut hints = Vec::with_capacity(rows.len());
    for row in rows {
        // A name that this version cannot read is none of its queues.
        let Ok(queue) = QueueName::new(row.try_get::<_, &str>(2)?) else { continue };
        hints.push(Hint {
            task: TaskId::from_uuid(row.try_get(0)?),
            version: natural(row.try_get(1)?),
            queue,
            priority: u8::try_from(row.try_get::<_, i16>(3)?).unwrap_or(0),
        });
    }
    Ok(hints)
}

/// The broker has these.
pub(super) async fn sent(connection: &Connection, hints: &[Hint]) -> Result<(), Fault> {
    let (tasks, versions): (Vec<Uuid>, Vec<i64>) =
        hints.iter().map(|hint| (hint.task.as_uuid(), integer(hint.version))).unzip();
    connection.execute(SENT, &[&tasks, &versions]).await.map(drop)
}
