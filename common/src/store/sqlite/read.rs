//! Reading tasks and queues, beside the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::connection::Stop;
use super::row::{integer, natural};
use crate::clock::Timestamp;
use crate::id::{Digest, PipelineName, QueueName, TaskId};
use crate::journal::Usage;
use crate::store::{Cursor, Filter, Page, Queue, StoreError, ledger};
use crate::task::{DeadReason, Head, State, StateName};

/// The most tasks on a page.
const PAGE: usize = 1_000;

/// A task without its journal.
pub(super) fn head(db: &Connection, task: TaskId) -> Result<Option<Head>, Stop<StoreError>> {
    Ok(db
        .prepare_cached("SELECT id, head, state, dead_reason, updated_at FROM tasks WHERE id = ?1")?
        .query_row([task.to_string()], |row| head_of(row, 0))
        .optional()?)
}

/// Decodes the columns `id, head, state, dead_reason, updated_at`. A task that was
/// set aside because a version could not read it shows as a dead letter.
pub(super) fn head_of(row: &Row<'_>, first: usize) -> rusqlite::Result<Head> {
    let encoded = row.get_ref(first + 1)?.as_str()?;
    let decoded = serde_json::from_str::<Head>(encoded);
    let set_aside = row.get_ref(first + 3)?.as_str_or_null()? == Some(DeadReason::Unreadable.as_str());
    match decoded {
        Ok(head) if !set_aside || head.state.is_terminal() => Ok(head),
        Ok(mut head) => {
            let why = "it was set aside by a version that could not read it";
            head.state = unreadable(why, Timestamp::from_millis(row.get(first + 4)?));
            Ok(head)
        }
        Err(why) => stand_in(row, first, encoded, &why),
    }
}

fn unreadable(why: impl std::fmt::Display, at: Timestamp) -> State {
    State::Dead { at, reason: DeadReason::Unreadable, error: ledger::unreadable(why), step: None }
}

/// What can be said of a task whose head cannot be read.
fn stand_in(row: &Row<'_>, first: usize, encoded: &str, why: &serde_json::Error) -> rusqlite::Result<Head> {
    let damaged = |what: &str| {
        let text = format!("{what}: {why}");
        rusqlite::Error::FromSqlConversionFailure(first, rusqlite::types::Type::Text, text.into())
    };
    let id: TaskId = row.get_ref(first)?.as_str()?.parse().map_err(|_| damaged("a task id"))?;
    let loose: serde_json::Value = serde_json::from_str(encoded).unwrap_or_default();
    let text = |name: &str| loose[name].as_str().unwrap_or_default().to_owned();
    let at = Timestamp::from_millis(row.get(first + 4)?);
    Ok(Head {
        id,
        pipeline: PipelineName::new(text("pipeline"))
            .or_else(|_| PipelineName::new("unreadable"))
            .map_err(|_| damaged("a name"))?,
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
pub(super) fn list(
    db: &Connection,
    filter: &Filter,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page, Stop<StoreError>> {
    let limit = limit.min(PAGE);
    if limit == 0 {
        return Ok(Page::default());
    }
    let (sql, values) = query(filter, after, limit + 1);
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut page = Page::default();
    while let Some(row) = rows.next()? {
        if page.tasks.len() == limit {
            page.next = page.tasks.last().map(|head| Cursor(head.id));
            break;
        }
        page.tasks.push(head_of(row, 0)?);
    }
    Ok(page)
}

/// The statement for a filter. Conditions that an index was made for stand there
/// in the words of the index: `SQLite` does not see it otherwise.
fn query(filter: &Filter, after: Option<Cursor>, limit: usize) -> (String, Vec<Value>) {
    let mut sql = String::from("SELECT id, head, state, dead_reason, updated_at FROM tasks WHERE 1");
    let mut values = Vec::new();
    let mut bind = |sql: &mut String, condition: &str, value: String| {
        sql.push_str(condition);
        values.push(Value::Text(value));
    };
    let states: BTreeSet<StateName> = filter.states.iter().copied().collect();
    if !states.is_empty() {
        let names: Vec<_> = states.iter().map(|state| format!("'{state}'")).collect();
        // Writing to a `String` cannot fail.
        let _ = write!(sql, " AND state IN ({})", names.join(", "));
        if states.iter().all(|state| !state.is_terminal()) {
            sql.push_str(" AND finished_at IS NULL");
        }
    }
    let failed = |state: &StateName| matches!(state, StateName::Dead | StateName::Cancelled);
    if filter.dead_reason.is_some() || (!states.is_empty() && states.iter().all(failed)) {
        sql.push_str(" AND state IN ('dead', 'cancelled')");
    }
    if filter.awaiting_approval {
        sql.push_str(" AND approvals > 0");
    }
    if let Some(reason) = filter.dead_reason {
        bind(&mut sql, " AND state = 'dead' AND dead_reason = ?", reason.as_str().to_owned());
    }
    if let Some(pipeline) = &filter.pipeline {
        bind(&mut sql, " AND pipeline = ?", pipeline.to_string());
    }
    if let Some(queue) = &filter.queue {
        bind(&mut sql, " AND queue = ?", queue.to_string());
    }
    if let Some(parent) = filter.parent {
        bind(&mut sql, " AND parent = ?", parent.to_string());
    }
    for (name, value) in &filter.labels {
        bind(&mut sql, " AND EXISTS (SELECT 1 FROM json_each(head, '$.labels') WHERE key = ?", name.clone());
        bind(&mut sql, " AND value = ?)", value.clone());
    }
    if let Some(Cursor(task)) = after {
        bind(&mut sql, " AND id < ?", task.to_string());
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(Value::Integer(integer(limit as u64)));
    (sql, values)
}

/// Every queue that has tasks or is paused, by name.
pub(super) fn queues(db: &Connection) -> Result<Vec<Queue>, Stop<StoreError>> {
    let mut queues: BTreeMap<String, (bool, BTreeMap<StateName, u64>)> = BTreeMap::new();
    let mut counts = db.prepare_cached("SELECT queue, state, tasks FROM queue_counts WHERE tasks > 0")?;
    let mut rows = counts.query([])?;
    while let Some(row) = rows.next()? {
        let (_, depth) = queues.entry(row.get(0)?).or_default();
        if let Ok(state) = row.get_ref(1)?.as_str()?.parse::<StateName>()
            && !matches!(state, StateName::Succeeded | StateName::Cancelled)
        {
            depth.insert(state, natural(row.get(2)?));
        }
    }
    let mut paused = db.prepare_cached("SELECT queue FROM paused_queues")?;
    let mut rows = paused.query([])?;
    while let Some(row) = rows.next()? {
        queues.entry(row.get(0)?).or_default().0 = true;
    }
    // One step into the index for each priority.
    let mut oldest =
        db.prepare_cached("SELECT min(ready_since) FROM tasks WHERE state = 'ready' AND queue = ?1 AND priority = ?2")?;
    let mut answer = Vec::with_capacity(queues.len());
    for (name, (paused, depth)) in queues {
        let mut oldest_ready: Option<i64> = None;
        if depth.contains_key(&StateName::Ready) {
            for priority in 0..=9 {
                let since: Option<i64> = oldest.query_row((&name, priority), |row| row.get(0))?;
                oldest_ready = [oldest_ready, since].into_iter().flatten().min();
            }
        }
        let name = QueueName::new(name).map_err(|error| Stop::Refused(StoreError::Damaged(error.to_string())))?;
        answer.push(Queue { name, paused, depth, oldest_ready: oldest_ready.map(Timestamp::from_millis) });
    }
    Ok(answer)
}
