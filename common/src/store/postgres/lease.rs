//! Leases: finding ready tasks, taking and claiming them, renewing.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Row;
use uuid::Uuid;

use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::row::{self, Stored, columns};
use super::transaction::{Transaction, given};
use super::turns::{Demand, Stock, Turn};
use super::value::{Time, integer, millis, token_uuid};
use crate::clock::Timestamp;
use crate::id::{LeaseToken, QueueName, TaskId, WorkerId};
use crate::journal::Recorded;
use crate::store::book::Lease;
use crate::store::{Claim, Renew, Renewal, StoreError, StoreOptions};

/// The most tasks that one call leases: their journals come back in one answer.
pub(super) const MOST: usize = 1_000;
/// Rounds of finding tasks in queues: each brings more, or finds a queue dry.
const ROUNDS: usize = 20;

/// So many of the first tasks of each queue that nobody else holds, under their locks.
pub(super) const READY: &str = concat!(
    "SELECT t.* FROM (SELECT name, n FROM unnest($1::text[], $2::bigint[]) AS u(name, n) \
     WHERE NOT EXISTS (SELECT 1 FROM paused_queues p WHERE p.queue = u.name)) q CROSS JOIN LATERAL (SELECT ",
    columns!(),
    " FROM tasks WHERE state = 'ready' AND queue = q.name ORDER BY priority DESC, ready_since, id LIMIT q.n \
     FOR UPDATE SKIP LOCKED) t"
);
/// The queues that have ready tasks.
pub(super) const QUEUES: &str = "SELECT name FROM counts WHERE kind = 'queue' AND what = 'ready' \
     GROUP BY name HAVING sum(n) > 0";
pub(super) const PAUSED: &str = "SELECT queue FROM paused_queues";
pub(super) const RENEW: &str = "UPDATE tasks t SET due_at = n.now + l.lease * interval '1 millisecond' \
     FROM (SELECT coalesce($4::timestamptz, date_trunc('milliseconds', clock_timestamp())) AS now) n, \
     unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS l(id, token, lease) \
     WHERE t.id = l.id AND t.token = l.token AND t.due_at > n.now AND t.state = 'running' \
     RETURNING t.id, t.token, t.due_at, t.inbox IS NOT NULL";

/// The queues that have ready tasks. A name that this version cannot read is left out.
pub(super) async fn ready_queues(connection: &Connection) -> Result<Vec<QueueName>, Fault> {
    let mut queues = Vec::new();
    for row in connection.query(QUEUES, &[]).await? {
        queues.extend(QueueName::new(row.try_get::<_, &str>(0)?).ok());
    }
    Ok(queues)
}

/// The first tasks of queues, as [`READY`] finds them.
pub(super) async fn find(connection: &Connection, wanted: &BTreeMap<QueueName, usize>) -> Result<Vec<Row>, Fault> {
    let names: Vec<&str> = wanted.keys().map(QueueName::as_str).collect();
    let counts: Vec<i64> = wanted.values().map(|count| integer(*count as u64)).collect();
    connection.query(READY, &[&names, &counts]).await
}

/// Enters what was found into the book and the stock.
pub(super) fn put(
    tx: &mut Transaction<'_>,
    stock: &mut Stock,
    wanted: BTreeMap<QueueName, usize>,
    rows: &[Row],
) -> Result<(), Fault> {
    let mut found: BTreeMap<QueueName, Vec<TaskId>> = BTreeMap::new();
    for row in rows {
        let stored = Stored::read(row)?;
        if let Some(queue) = stored.queue() {
            found.entry(queue).or_default().push(stored.id);
        }
        if !tx.book.knows(stored.id) {
            tx.put(stored);
        }
    }
    for (queue, asked) in wanted {
        let tasks = found.remove(&queue).unwrap_or_default();
        stock.put(queue, asked, tasks);
    }
    Ok(())
}

/// Which tasks each caller gets.
pub(super) async fn share(
    tx: &mut Transaction<'_>,
    stock: &mut Stock,
    demands: &[Demand],
) -> Result<Vec<Vec<TaskId>>, Fault> {
    for _ in 0..ROUNDS {
        match stock.turn(demands) {
            Turn::Give(given) => return Ok(given),
            Turn::Find(wanted) => {
                let rows = find(tx.connection, &wanted).await?;
                put(tx, stock, wanted, &rows)?;
            }
        }
    }
    Err(Fault::Unavailable("the queues could not be shared among those who take".to_owned()))
}

/// A task that was leased. Its journal is read in the flush that commits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leased {
    pub(super) task: TaskId,
    pub(super) lease: Lease,
}

/// Leases a task if it is ready; one that this version cannot read is put aside.
pub(super) async fn lease(
    tx: &mut Transaction<'_>,
    task: TaskId,
    worker: &WorkerId,
    duration: std::time::Duration,
) -> Result<Option<Leased>, Fault> {
    let lease = Lease { token: LeaseToken::new(tx.options.entropy.bytes()), expires: tx.now.plus(duration) };
    match tx.settle(|book| book.lease(task, worker, lease)).await {
        Ok(true) => Ok(Some(Leased { task, lease })),
        Ok(false) => Ok(None),
        Err(Stop::Refused(StoreError::Damaged(why))) => {
            tx.set_aside(task, &why).await?;
            Ok(None)
        }
        Err(Stop::Refused(error)) => Err(error.into()),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

/// Leased tasks with their journals, and apart those whose journal cannot be read, with why.
pub(super) fn claims(
    leased: Vec<Leased>,
    journals: &mut HashMap<TaskId, Result<Vec<Recorded>, String>>,
) -> (Vec<Claim>, Vec<(Leased, String)>) {
    let (mut claims, mut unreadable) = (Vec::with_capacity(leased.len()), Vec::new());
    for leased in leased {
        match journals.remove(&leased.task) {
            Some(Ok(journal)) => {
                let Leased { task, lease: Lease { token, expires } } = leased;
                claims.push(Claim { task, token, expires, journal });
            }
            Some(Err(why)) => unreadable.push((leased, why)),
            None => unreadable.push((leased, "its journal is missing".to_owned())),
        }
    }
    (claims, unreadable)
}

/// Journals by task.
pub(super) fn journals(rows: &[Row]) -> Result<HashMap<TaskId, Result<Vec<Recorded>, String>>, Fault> {
    let mut journals: HashMap<TaskId, Result<Vec<Recorded>, String>> = HashMap::new();
    for row in rows {
        let task = TaskId::from_uuid(row.try_get(0)?);
        let journal = journals.entry(task).or_insert_with(|| Ok(Vec::new()));
        match row::event(row, task, 1) {
            Ok(event) => {
                if let Ok(journal) = journal {
                    journal.push(event);
                }
            }
            Err(Fault::Damaged(why)) => *journal = Err(why),
            Err(fault) => return Err(fault),
        }
    }
    Ok(journals)
}

/// The leases that several callers renew at once.
#[derive(Debug, Default)]
pub(super) struct Renewals(BTreeMap<(Uuid, Uuid), i64>);

/// When the leases end that were renewed, and whether signals wait.
pub(super) type Renewed = HashMap<(Uuid, Uuid), (Timestamp, bool)>;

impl Renewals {
    pub(super) fn add(&mut self, renew: &Renew) {
        for (task, token) in &renew.leases {
            let lease = self.0.entry((task.as_uuid(), token_uuid(*token))).or_default();
            *lease = (*lease).max(millis(renew.lease));
        }
    }

    /// Renews all of them; those that are not held, or whose time is over, are not in the answer.
    pub(super) async fn renew(self, connection: &Connection, options: &StoreOptions) -> Result<Renewed, Fault> {
        if self.0.is_empty() {
            return Ok(Renewed::new());
        }
        let (ids, tokens): (Vec<Uuid>, Vec<Uuid>) = self.0.keys().copied().unzip();
        let leases: Vec<i64> = self.0.into_values().collect();
        let rows = connection.query(RENEW, &[&ids, &tokens, &leases, &given(options)]).await?;
        let mut renewed = Renewed::new();
        for row in rows {
            let Time(expires) = row.try_get(2)?;
            renewed.insert((row.try_get(0)?, row.try_get(1)?), (expires, row.try_get(3)?));
        }
        Ok(renewed)
    }
}

/// The answer to one of the callers.
pub(super) fn answer(renew: &Renew, renewed: &Renewed) -> Vec<Renewal> {
    let lookup = |(task, token): &(TaskId, LeaseToken)| match renewed.get(&(task.as_uuid(), token_uuid(*token))) {
        Some((expires, signals)) => Renewal::Renewed { expires: *expires, signals: *signals },
        None => Renewal::Lost,
    };
    renew.leases.iter().map(lookup).collect()
}
