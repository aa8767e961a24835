//! Rows that one statement writes, column by column: the server takes an array
//! a column, and many tasks cost one statement.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connection::Connection;
use super::fault::Fault;
use super::value::{Time, integer};
use crate::journal::Seal;
use crate::store::book::Entry;
use crate::task::State;

/// One statement carries at most so many bytes of events and heads.
const BYTES: usize = 8 << 20;

pub(super) const INSERT: &str = "INSERT INTO tasks (id, pipeline, queue, priority, key, parent, batch, supersede, \
     labels, state, dead_reason, created_at, updated_at, ready_since, due_at, finished_at, approvals, version, \
     journal_bytes, head, chain, chain_at, seal) \
     SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::uuid[], $7::text[], \
     $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], \
     $15::timestamptz[], $16::timestamptz[], $17::int[], $18::bigint[], $19::bigint[], $20::text[], \
     $21::bytea[], $22::bigint[], $23::bytea[])";

pub(super) const UPDATE: &str = "UPDATE tasks t SET updated_at = u.updated_at, state = u.state, \
     dead_reason = u.dead_reason, ready_since = u.ready_since, due_at = u.due_at, finished_at = u.finished_at, \
     approvals = u.approvals, version = u.version, token = u.token, inbox = u.inbox, journal_bytes = u.journal_bytes, \
     last_append = u.last_append, last_from = u.last_from, last_to = u.last_to, head = u.head, \
     chain = u.chain, chain_at = u.chain_at, seal = coalesce(u.seal, t.seal) \
     FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], \
     $7::timestamptz[], $8::int[], $9::bigint[], $10::uuid[], $11::text[], $12::bigint[], $13::uuid[], $14::bigint[], \
     $15::bigint[], $16::text[], $17::bytea[], $18::bigint[], $19::bytea[]) AS u(id, updated_at, state, dead_reason, ready_since, due_at, finished_at, approvals, \
     version, token, inbox, journal_bytes, last_append, last_from, last_to, head, \
     chain, chain_at, seal) WHERE t.id = u.id";

pub(super) const EVENTS: &str = "INSERT INTO journal (task, seq, at, event, hash) \
     SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[], $5::bytea[])";

/// The events of a journal anew.
pub(super) const REWRITE: &str = "UPDATE journal j SET event = u.event \
     FROM unnest($2::bigint[], $3::text[]) AS u(seq, event) WHERE j.task = $1::uuid AND j.seq = u.seq";

#[derive(Default)]
pub(super) struct Inserts {
    pub(super) bytes: usize,
    pub(super) ids: Vec<Uuid>,
    pub(super) pipelines: Vec<String>,
    pub(super) queues: Vec<String>,
    pub(super) priorities: Vec<i16>,
    pub(super) keys: Vec<Option<String>>,
    pub(super) parents: Vec<Option<Uuid>>,
    pub(super) batches: Vec<Option<String>>,
    pub(super) supersedes: Vec<Option<String>>,
    pub(super) labels: Vec<Option<String>>,
    pub(super) created_at: Vec<Time>,
    pub(super) common: Common,
}

#[derive(Default)]
pub(super) struct Updates {
    pub(super) bytes: usize,
    pub(super) ids: Vec<Uuid>,
    pub(super) tokens: Vec<Option<Uuid>>,
    pub(super) inboxes: Vec<Option<String>>,
    pub(super) appends: Vec<Option<Uuid>>,
    pub(super) froms: Vec<Option<i64>>,
    pub(super) tos: Vec<Option<i64>>,
    pub(super) common: Common,
}

/// What inserts and updates both write.
#[derive(Default)]
pub(super) struct Common {
    pub(super) updated_at: Vec<Time>,
    pub(super) states: Vec<&'static str>,
    pub(super) dead_reasons: Vec<Option<&'static str>>,
    pub(super) ready_since: Vec<Option<Time>>,
    pub(super) due_at: Vec<Option<Time>>,
    pub(super) finished_at: Vec<Option<Time>>,
    pub(super) approvals: Vec<i32>,
    pub(super) versions: Vec<i64>,
    pub(super) journal_bytes: Vec<i64>,
    pub(super) heads: Vec<String>,
    pub(super) chains: Vec<Option<Vec<u8>>>,
    pub(super) chains_at: Vec<Option<i64>>,
    pub(super) seals: Vec<Option<Vec<u8>>>,
}

#[derive(Default)]
pub(super) struct Events {
    pub(super) bytes: usize,
    pub(super) tasks: Vec<Uuid>,
    pub(super) seqs: Vec<i64>,
    pub(super) ats: Vec<Time>,
    pub(super) json: Vec<String>,
    pub(super) hashes: Vec<Option<Vec<u8>>>,
}

impl Common {
    /// Answers with the size of the head.
    pub(super) fn push(&mut self, entry: &Entry, seal: Option<Seal>) -> Result<usize, Fault> {
        let head = serde_json::to_string(&entry.head)
            .map_err(|why| Fault::Unavailable(format!("the head of task {}: {why}", entry.head.id)))?;
        let bytes = head.len();
        let (finished_at, dead_reason) = match &entry.head.state {
            State::Succeeded { at } | State::Cancelled { at, .. } => (Some(*at), None),
            State::Dead { at, reason, .. } => (Some(*at), Some(reason.as_str())),
            _ => (None, None),
        };
        self.updated_at.push(Time(entry.head.updated_at));
        self.states.push(entry.state().as_str());
        self.dead_reasons.push(dead_reason);
        self.ready_since.push(entry.ready_since().map(Time));
        self.due_at.push(entry.due_at().map(Time));
        self.finished_at.push(finished_at.map(Time));
        self.approvals.push(i32::try_from(entry.head.open_approvals.len()).unwrap_or(i32::MAX));
        self.versions.push(integer(entry.head.version));
        self.journal_bytes.push(integer(entry.journal_bytes));
        self.heads.push(head);
        self.chains.push(entry.hash.map(|hash| hash.as_bytes().to_vec()));
        self.chains_at.push(entry.hash.map(|_| integer(entry.head.version)));
        self.seals.push(seal.map(|seal| seal.to_bytes().to_vec()));
        Ok(bytes)
    }
}

pub(super) async fn insert(connection: &Connection, columns: Inserts) -> Result<(), Fault> {
    let c = columns;
    let params: [&(dyn ToSql + Sync); 23] = [
        &c.ids,
        &c.pipelines,
        &c.queues,
        &c.priorities,
        &c.keys,
        &c.parents,
        &c.batches,
        &c.supersedes,
        &c.labels,
        &c.common.states,
        &c.common.dead_reasons,
        &c.created_at,
        &c.common.updated_at,
        &c.common.ready_since,
        &c.common.due_at,
        &c.common.finished_at,
        &c.common.approvals,
        &c.common.versions,
        &c.common.journal_bytes,
        &c.common.heads,
        &c.common.chains,
        &c.common.chains_at,
        &c.common.seals,
    ];
    connection.execute(INSERT, &params).await.map(drop)
}

pub(super) async fn update(connection: &Connection, columns: Updates) -> Result<(), Fault> {
    let c = columns;
    let params: [&(dyn ToSql + Sync); 19] = [
        &c.ids,
        &c.common.updated_at,
        &c.common.states,
        &c.common.dead_reasons,
        &c.common.ready_since,
        &c.common.due_at,
        &c.common.finished_at,
        &c.common.approvals,
        &c.common.versions,
        &c.tokens,
        &c.inboxes,
        &c.common.journal_bytes,
        &c.appends,
        &c.froms,
        &c.tos,
        &c.common.heads,
        &c.common.chains,
        &c.common.chains_at,
        &c.common.seals,
    ];
    connection.execute(UPDATE, &params).await.map(drop)
}

/// The last of some columns, or new ones if it is full.
pub(super) fn room<T: Default>(columns: &mut Vec<T>, bytes: impl Fn(&T) -> usize) -> &mut T {
    if columns.last().is_none_or(|last| bytes(last) >= BYTES) {
        columns.push(T::default());
    }
    let last = columns.len() - 1;
    &mut columns[last]
}
