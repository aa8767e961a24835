//! Reading tasks and queues.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::connection::Connection;
use super::fault::Fault;
use super::row::{chained, event, label};
use super::value::{Time, integer, natural};
use crate::clock::Timestamp;
use crate::id::{Digest, PipelineName, QueueName, TaskId};
use crate::journal::{Chained, Recorded, Seal, Usage};
use crate::store::{Cursor, Filter, Page, Queue, ledger};
use crate::task::{DeadReason, Head, State, StateName};

/// The most tasks on a page.
const PAGE: usize = 1_000;

const HEAD: &str = "SELECT id, head, state, dead_reason, updated_at FROM tasks WHERE id = $1";
const JOURNAL: &str = "SELECT seq, at, event FROM journal WHERE task = $1 AND seq > $2 ORDER BY seq LIMIT $3";
const CHAIN: &str = "SELECT seq, at, event, hash FROM journal WHERE task = $1 AND seq > $2 ORDER BY seq LIMIT $3";
const SEAL: &str = "SELECT seal FROM tasks WHERE id = $1";
const ANY_READY: &str = "SELECT EXISTS (SELECT 1 FROM unnest($1::text[]) AS q(name) \
     WHERE NOT EXISTS (SELECT 1 FROM paused_queues p WHERE p.queue = q.name) \
     AND EXISTS (SELECT 1 FROM tasks t WHERE t.state = 'ready' AND t.queue = q.name))";
const ANY_QUEUE_READY: &str = "SELECT EXISTS (SELECT 1 FROM counts c WHERE kind = 'queue' AND what = 'ready' \
     AND NOT EXISTS (SELECT 1 FROM paused_queues p WHERE p.queue = c.name) GROUP BY name HAVING sum(n) > 0)";
const DEPTHS: &str = "SELECT name, what, sum(n)::bigint FROM counts WHERE kind = 'queue' GROUP BY name, what";
const PAUSED: &str = "SELECT queue FROM paused_queues";
/// One step into the index for each priority.
const OLDEST: &str = "SELECT q.name, (SELECT min(o.since) FROM generate_series(0, 9) AS p(priority) CROSS JOIN LATERAL \
     (SELECT t.ready_since AS since FROM tasks t WHERE t.state = 'ready' AND t.queue = q.name \
     AND t.priority = p.priority ORDER BY t.ready_since LIMIT 1) o) FROM unnest($1::text[]) AS q(name)";

/// A task without its journal.
pub(super) async fn find(connection: &Connection, task: TaskId) -> Result<Option<Head>, Fault> {
    connection.query(HEAD, &[&task.as_uuid()]).await?.first().map(head).transpose()
}

/// Up to `limit` events of a journal after a number.
pub(super) async fn journal(
    connection: &Connection,
    task: TaskId,
    after: u64,
    limit: usize,
) -> Result<Vec<Recorded>, Fault> {
    let rows = connection.query(JOURNAL, &[&task.as_uuid(), &integer(after), &integer(limit as u64)]).await?;
    rows.iter().map(|row| event(row, task, 0)).collect()
}

/// The same as they lie there.
pub(super) async fn chain(
    connection: &Connection,
    task: TaskId,
    after: u64,
    limit: usize,
) -> Result<Vec<Chained>, Fault> {
    let rows = connection.query(CHAIN, &[&task.as_uuid(), &integer(after), &integer(limit as u64)]).await?;
    rows.iter().map(chained).collect()
}

/// The newest seal of a task's journal.
pub(super) async fn seal(connection: &Connection, task: TaskId) -> Result<Option<Seal>, Fault> {
    let rows = connection.query(SEAL, &[&task.as_uuid()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let bytes: Option<&[u8]> = row.try_get(0)?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(Seal::from_bytes))
}

/// Whether there is something to take in one of these queues; in any, if none is named.
pub(super) async fn any_ready(connection: &Connection, queues: &[QueueName]) -> Result<bool, Fault> {
    let rows = if queues.is_empty() {
        connection.query(ANY_QUEUE_READY, &[]).await?
    } else {
        let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
        connection.query(ANY_READY, &[&names]).await?
    };
    Ok(rows.first().map_or(Ok(false), |row| row.try_get(0))?)
}

/// Decodes rows of `id, head, state, dead_reason, updated_at`.
pub(super) fn heads(rows: &[Row]) -> Result<Vec<Head>, Fault> {
    rows.iter().map(head).collect()
}

/// Decodes the columns `id, head, state, dead_reason, updated_at`. A task that was
/// set aside because a version could not read it shows as a dead letter.
pub(super) fn head(row: &Row) -> Result<Head, Fault> {
    let encoded: &str = row.try_get(1)?;
    let set_aside = row.try_get::<_, Option<&str>>(3)? == Some(DeadReason::Unreadable.as_str());
    let Time(at) = row.try_get(4)?;
    match serde_json::from_str::<Head>(encoded) {
        Ok(head) if !set_aside || head.state.is_terminal() => Ok(head),
        Ok(mut head) => {
            head.state = unreadable("it was set aside by a version that could not read it", at);
            Ok(head)
        }
        Err(why) => stand_in(TaskId::from_uuid(row.try_get(0)?), encoded, at, &why),
    }
}

fn unreadable(why: impl std::fmt::Display, at: Timestamp) -> State {
    State::Dead { at, reason: DeadReason::Unreadable, error: ledger::unreadable(why), step: None }
}

/// What can be said of a task whose head cannot be read.
fn stand_in(id: TaskId, encoded: &str, at: Timestamp, why: &serde_json::Error) -> Result<Head, Fault> {
    let loose: serde_json::Value = serde_json::from_str(encoded).unwrap_or_default();
    let text = |name: &str| loose[name].as_str().unwrap_or_default().to_owned();
    Ok(Head {
        id,
        pipeline: PipelineName::new(text("pipeline"))
            .or_else(|_| PipelineName::new("unreadable"))
            .map_err(|error| Fault::damaged(&format!("task {id}"), &error))?,
        digest: Digest::try_from(text("digest")).unwrap_or_else(|_| Digest::of(encoded.as_bytes())),
        queue: QueueName::new(text("queue")).unwrap_or_else(|_| QueueName::default_queue()),
        priority: 0,
        labels: BTreeMap::new(),
        key: None,
        parent: None,
        batch: None,
        created_at: at,
        updated_at: at,
        version: loose["version"].as_u64().unwrap_or(1),
        attempts: 0,
        barren_attempts: 0,
        worked_ms: 0,
        usage: Usage::default(),
        open_approvals: Vec::new(),
        unknown_outcomes: Vec::new(),
        open_children: Vec::new(),
        open_entries: Vec::new(),
        erased_at: None,
        state: unreadable(why, at),
    })
}

/// Tasks that match, newest first.
pub(super) async fn list(
    connection: &Connection,
    filter: &Filter,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page, Fault> {
    let limit = limit.min(PAGE);
    if limit == 0 {
        return Ok(Page::default());
    }
    let (sql, texts, uuids) = query(filter, after, limit + 1);
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> = Vec::with_capacity(texts.len() + uuids.len());
    params.extend(texts.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)));
    params.extend(uuids.iter().map(|uuid| (uuid as &(dyn ToSql + Sync), Type::UUID)));
    let rows = connection.query_once(&sql, &params).await?;
    let mut tasks = heads(rows.get(..limit).unwrap_or(&rows))?;
    tasks.truncate(limit);
    let next = if rows.len() > limit { tasks.last().map(|head| Cursor(head.id)) } else { None };
    Ok(Page { tasks, next })
}

/// The statement for a filter, with its texts and then its ids. Each state is asked for by itself, in the words of the
/// index that was made for it: so each part comes out of its index in order, and is cut after a page.
fn query(filter: &Filter, after: Option<Cursor>, limit: usize) -> (String, Vec<String>, Vec<Uuid>) {
    let (mut conditions, mut texts, mut uuids) = (Vec::new(), Vec::new(), Vec::new());
    let mut text = |condition: &str, value: String| {
        texts.push(value);
        format!("{condition} ${}", texts.len())
    };
    if filter.awaiting_approval {
        conditions.push("approvals > 0".to_owned());
    }
    if let Some(pipeline) = &filter.pipeline {
        conditions.push(text("pipeline =", pipeline.to_string()));
    }
    if let Some(queue) = &filter.queue {
        conditions.push(text("queue =", queue.to_string()));
    }
    for (name, value) in &filter.labels {
        conditions.push(format!("({}) > 0", text("strpos(labels,", label(name, value)) + ")"));
    }
    let mut states: BTreeSet<StateName> = filter.states.iter().copied().collect();
    if let Some(reason) = filter.dead_reason {
        conditions.push(text("dead_reason =", reason.as_str().to_owned()));
        if states.is_empty() || states.contains(&StateName::Dead) {
            states = BTreeSet::from([StateName::Dead]);
        } else {
            conditions.push("false".to_owned());
        }
    }
    let first = texts.len();
    let mut uuid = |condition: &str, value: TaskId| {
        uuids.push(value.as_uuid());
        format!("{condition} ${}", first + uuids.len())
    };
    if let Some(parent) = filter.parent {
        conditions.push(uuid("parent =", parent));
    }
    if let Some(Cursor(task)) = after {
        conditions.push(uuid("id <", task));
    }
    let part = |state: Option<StateName>| {
        let mut sql = String::from("SELECT id, head, state, dead_reason, updated_at FROM tasks WHERE true");
        for condition in &conditions {
            // Writing to a `String` cannot fail.
            let _ = write!(sql, " AND {condition}");
        }
        if let Some(state) = state {
            let _ = write!(sql, " AND state = '{state}'");
        }
        let _ = write!(sql, " ORDER BY id DESC LIMIT {limit}");
        sql
    };
    let sql = if states.is_empty() {
        part(None)
    } else {
        let parts: Vec<String> = states.into_iter().map(|state| format!("({})", part(Some(state)))).collect();
        format!("SELECT * FROM ({}) AS parts ORDER BY id DESC LIMIT {limit}", parts.join(" UNION ALL "))
    };
    (sql, texts, uuids)
}

/// Every queue that has tasks or is paused, by name.
pub(super) async fn queues(connection: &Connection) -> Result<Vec<Queue>, Fault> {
    let (depths, paused) = futures::join!(connection.query(DEPTHS, &[]), connection.query(PAUSED, &[]));
    let mut queues: BTreeMap<String, (bool, BTreeMap<StateName, u64>)> = BTreeMap::new();
    for row in depths? {
        let count: i64 = row.try_get(2)?;
        if count <= 0 {
            continue;
        }
        let (_, depth) = queues.entry(row.try_get(0)?).or_default();
        if let Ok(state) = row.try_get::<_, &str>(1)?.parse::<StateName>()
            && !matches!(state, StateName::Succeeded | StateName::Cancelled)
        {
            depth.insert(state, natural(count));
        }
    }
    for row in paused? {
        queues.entry(row.try_get(0)?).or_default().0 = true;
    }
    let waiting: Vec<&String> =
        queues.iter().filter(|(_, (_, depth))| depth.contains_key(&StateName::Ready)).map(|(name, _)| name).collect();
    let mut oldest: BTreeMap<String, Timestamp> = BTreeMap::new();
    if !waiting.is_empty() {
        for row in connection.query(OLDEST, &[&waiting]).await? {
            if let Some(Time(since)) = row.try_get(1)? {
                oldest.insert(row.try_get(0)?, since);
            }
        }
    }
    let mut answer = Vec::with_capacity(queues.len());
    for (name, (paused, depth)) in queues {
        let oldest_ready = oldest.get(&name).copied();
        let name = QueueName::new(name).map_err(|error| Fault::damaged("a queue", &error))?;
        answer.push(Queue { name, paused, depth, oldest_ready });
    }
    Ok(answer)
}
