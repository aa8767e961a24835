//! The end of a transaction: all that changed becomes a handful of statements
//! over arrays, sent in one flush together with the commit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::TryFutureExt;
use uuid::Uuid;

use super::blob::BEGIN_USE;
use super::columns::{EVENTS, Events, INSERT, Inserts, REWRITE, UPDATE, Updates, insert, room, update};
use super::connection::Connection;
use super::fault::Fault;
use super::pipeline::Pipeline;
use super::row::{Beside, inbox_json, labels};
use super::tally::{ADD, COST, Columns, DUPLICATES, KEPT, Place, Tally};
use super::transaction::Rings;
use super::value::{Time, integer, token_uuid};
use crate::clock::Timestamp;
use crate::id::{BlobName, TaskId};
use crate::journal::{Chained, Seal};
use crate::store::book::{Added, Change, Entry};
use crate::store::witness::{self, Fact};
use crate::store::{Hint, StoreOptions};
use crate::task::StateName;

const ASIDE: &str = "UPDATE tasks SET state = 'dead', dead_reason = 'unreadable', ready_since = NULL, due_at = NULL, \
     token = NULL, approvals = 0, finished_at = $2::timestamptz, updated_at = $2::timestamptz WHERE id = ANY($1::uuid[])";

/// A line that was noted before stays as it is.
const ROWS: &str = "WITH added AS (INSERT INTO batch_rows (batch, line, task, duplicate) \
     SELECT * FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::bool[]) ON CONFLICT DO NOTHING \
     RETURNING batch, duplicate) \
     INSERT INTO counts (kind, name, what, slot, n, amount) \
     SELECT 'batch', batch, $6::text, $5::int, count(*), 0 FROM added WHERE duplicate GROUP BY batch \
     ON CONFLICT (kind, name, what, slot) DO UPDATE SET n = counts.n + excluded.n";

/// A batch that gets a task is not over.
const REVIVE: &str = "UPDATE batches SET over = false WHERE id = ANY($1::text[]) AND over";

/// A batch that is closed and has no task any more is over.
pub(super) const OVER: &str = "UPDATE batches b SET over = true WHERE id = ANY($1::text[]) AND closed AND \
     (SELECT coalesce(sum(n), 0) FROM counts c WHERE c.kind = 'batch' AND c.name = b.id AND c.what = 'kept') = 0";

const KEEP_HINTS: &str = "INSERT INTO outbox (task, version, queue, priority, since) \
     SELECT u.*, $5::timestamptz FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::smallint[]) AS u \
     ON CONFLICT (task) DO UPDATE SET version = excluded.version, since = excluded.since";
const DROP_HINTS: &str = "DELETE FROM outbox WHERE task = ANY($1::uuid[])";

/// All that is sent with a commit.
const COMMITTED: &[&str] =
    &[INSERT, UPDATE, EVENTS, REWRITE, ASIDE, ROWS, REVIVE, OVER, KEEP_HINTS, DROP_HINTS, JOURNALS, BEGIN_USE, ADD];

pub(super) const JOURNALS: &str =
    "SELECT task, seq, at, event FROM journal WHERE task = ANY($1::uuid[]) ORDER BY task, seq";

/// Journals as rows, in order.
pub(super) type Journals = Vec<tokio_postgres::Row>;

/// A task that is new here, with its journal.
pub(super) struct Created {
    pub(super) entry: Entry,
    pub(super) events: Vec<Chained>,
    pub(super) seal: Option<Seal>,
    /// What these refer to.
    pub(super) blobs: Vec<BlobName>,
    /// The batch of which a row made it.
    pub(super) batch: Option<String>,
    pub(super) supersede: Option<String>,
}

/// Lines of batches that lead to tasks.
#[derive(Default)]
pub(super) struct BatchRows {
    pub(super) batches: Vec<String>,
    pub(super) lines: Vec<i64>,
    pub(super) tasks: Vec<Uuid>,
    pub(super) duplicates: Vec<bool>,
}

/// See the module.
pub(super) struct Writing<'c> {
    connection: &'c Connection,
    options: &'c StoreOptions,
    now: Timestamp,
    tally: Tally,
    inserts: Vec<Inserts>,
    updates: Vec<Updates>,
    events: Vec<Events>,
    /// Journals that are written anew.
    erased: Vec<(Uuid, Vec<Chained>)>,
    aside: Vec<Uuid>,
    rows: BatchRows,
    lessened: Vec<String>,
    /// Tasks that became ready, and those that are no more.
    ready: BTreeMap<TaskId, Option<Hint>>,
    /// Tasks, and the blobs that they use from now on.
    users: Vec<Uuid>,
    used: Vec<String>,
    /// What is told to a witness after the commit.
    facts: Vec<Fact>,
}

impl<'c> Writing<'c> {
    pub(super) fn new(connection: &'c Connection, options: &'c StoreOptions, now: Timestamp, tally: Tally) -> Self {
        Self {
            connection,
            options,
            now,
            tally,
            inserts: Vec::new(),
            updates: Vec::new(),
            events: Vec::new(),
            erased: Vec::new(),
            aside: Vec::new(),
            rows: BatchRows::default(),
            lessened: Vec::new(),
            ready: BTreeMap::new(),
            users: Vec::new(),
            used: Vec::new(),
            facts: Vec::new(),
        }
    }

    /// New tasks. Those with a key are written in the order of their keys: two calls with the same keys do not block
    /// each other crosswise.
    pub(super) fn created(&mut self, mut created: Vec<Created>) -> Result<(), Fault> {
        created.sort_by(|a, b| {
            let order = |c: &Created| (c.entry.head.pipeline.clone(), c.entry.head.key.clone());
            match (&a.entry.head.key, &b.entry.head.key) {
                (None, None) => std::cmp::Ordering::Equal,
                _ => order(a).cmp(&order(b)),
            }
        });
        for Created { entry, events, seal, blobs, batch, supersede } in created {
            self.uses(entry.head.id, &blobs);
            let head = &entry.head;
            let id = head.id;
            self.tally.enter(place(&entry, batch.as_deref()));
            if let Some(batch) = &batch {
                self.tally.batch(batch, KEPT, 1, 0.0);
                self.tally.batch(batch, COST, 0, head.usage.cost_usd);
            }
            let hint = entry.ready_since().map(|_| Hint::of(head));
            self.note(id, hint, false);
            for event in events {
                self.event(id, event);
            }
            let columns = room(&mut self.inserts, |columns| columns.bytes);
            columns.ids.push(id.as_uuid());
            columns.pipelines.push(head.pipeline.to_string());
            columns.queues.push(head.queue.to_string());
            columns.priorities.push(i16::from(head.priority));
            columns.keys.push(head.key.clone().map(String::from));
            columns.parents.push(head.parent.as_ref().map(|parent| parent.task.as_uuid()));
            columns.batches.push(batch);
            columns.supersedes.push(supersede);
            columns.labels.push(labels(head));
            columns.created_at.push(Time(head.created_at));
            columns.bytes += columns.common.push(&entry, seal)?;
        }
        Ok(())
    }

    /// Changed tasks, with the events that say so.
    pub(super) fn changes(&mut self, changes: Vec<Change>, beside: &HashMap<TaskId, Beside>) -> Result<(), Fault> {
        for change in changes {
            if self.options.witness.is_some() {
                witness::facts(&change, &mut self.facts);
            }
            let hint = change.hint();
            self.uses(change.after.head.id, &change.blobs());
            let Change { before, after, added, seal, erased } = change;
            let id = after.head.id;
            let (batch, unread) = match beside.get(&id) {
                Some(beside) => (beside.batch.clone(), beside.unread.as_slice()),
                None => (None, [].as_slice()),
            };
            let batch = batch.as_deref();
            self.tally.leave(place(&before, batch));
            self.tally.enter(place(&after, batch));
            let cost = after.head.usage.cost_usd - before.head.usage.cost_usd;
            if let Some(batch) = batch {
                self.tally.batch(batch, COST, 0, cost);
            }
            self.note(id, hint, before.ready_since().is_some() && after.ready_since().is_none());
            if let Some(journal) = erased {
                self.erased.push((id.as_uuid(), journal));
            }
            for Added { recorded, event, hash } in added {
                self.event(id, Chained { seq: recorded.seq, at: recorded.at, event, hash: Some(hash) });
            }
            let columns = room(&mut self.updates, |columns| columns.bytes);
            columns.ids.push(id.as_uuid());
            columns.tokens.push(after.lease.map(|lease| token_uuid(lease.token)));
            columns.inboxes.push(inbox_json(&after.kept, unread)?);
            columns.appends.push(after.last_append.map(|last| Uuid::from_bytes(*last.id.as_bytes())));
            columns.froms.push(after.last_append.map(|last| integer(last.from)));
            columns.tos.push(after.last_append.map(|last| integer(last.to)));
            columns.bytes += columns.common.push(&after, seal)?;
        }
        Ok(())
    }

    /// Tasks that this version cannot read.
    pub(super) fn aside(&mut self, tasks: HashSet<TaskId>, beside: &HashMap<TaskId, Beside>) {
        for id in tasks {
            let Some(beside) = beside.get(&id) else { continue };
            let place = |state| Place {
                queue: &beside.queue,
                batch: beside.batch.as_deref(),
                state,
                journal_bytes: beside.journal_bytes,
            };
            if let Some(state) = beside.state {
                self.tally.leave(place(state));
            }
            self.tally.enter(place(StateName::Dead));
            self.aside.push(id.as_uuid());
        }
        self.aside.sort_unstable();
    }

    /// Lines of batches, and batches that have fewer tasks now.
    pub(super) fn batches(&mut self, rows: BatchRows, lessened: BTreeSet<String>) {
        self.rows = rows;
        self.lessened = lessened.into_iter().collect();
    }

    fn uses(&mut self, task: TaskId, blobs: &[BlobName]) {
        for name in blobs {
            self.users.push(task.as_uuid());
            self.used.push(name.to_string());
        }
    }

    fn note(&mut self, task: TaskId, hint: Option<Hint>, gone: bool) {
        if hint.is_some() || gone {
            self.ready.insert(task, hint);
        }
    }

    fn event(&mut self, task: TaskId, chained: Chained) {
        let Chained { seq, at, event, hash } = chained;
        let columns = room(&mut self.events, |columns| columns.bytes);
        columns.bytes += event.len();
        columns.tasks.push(task.as_uuid());
        columns.seqs.push(integer(seq));
        columns.ats.push(Time(at));
        columns.json.push(event);
        columns.hashes.push(hash.map(|hash| hash.as_bytes().to_vec()));
    }

    /// Sends everything, the commit last, and waits once. Answers with what is to be rung, and the journals asked for.
    pub(super) async fn commit(self, journals: Vec<Uuid>) -> Result<(Rings, Journals), Fault> {
        let Self {
            connection,
            options,
            now,
            tally,
            inserts,
            updates,
            events,
            erased,
            aside,
            rows,
            lessened,
            ready,
            users,
            used,
            facts,
        } = self;
        let queues = ready.values().flatten().map(|hint| hint.queue.clone()).collect();
        let mut read = Vec::new();
        // One that is not prepared would be sent when it is: after the commit, on its own.
        connection.warm(COMMITTED).await?;
        let mut pipeline = Pipeline::default();
        for columns in inserts {
            pipeline.send(insert(connection, columns)).await;
        }
        for columns in updates {
            pipeline.send(update(connection, columns)).await;
        }
        for (task, journal) in erased {
            let (seqs, json): (Vec<i64>, Vec<String>) =
                journal.into_iter().map(|chained| (integer(chained.seq), chained.event)).unzip();
            let rewrite = async move { connection.execute(REWRITE, &[&task, &seqs, &json]).await };
            pipeline.send(rewrite.map_ok(drop)).await;
        }
        for Events { tasks, seqs, ats, json, hashes, .. } in events {
            let insert = async move { connection.execute(EVENTS, &[&tasks, &seqs, &ats, &json, &hashes]).await };
            pipeline.send(insert.map_ok(drop)).await;
        }
        if !users.is_empty() {
            let begin = async move { connection.execute(BEGIN_USE, &[&users, &used]).await };
            pipeline.send(begin.map_ok(drop)).await;
        }
        if !aside.is_empty() {
            let update = async move { connection.execute(ASIDE, &[&aside, &Time(now)]).await };
            pipeline.send(update.map_ok(drop)).await;
        }
        if !rows.lines.is_empty() {
            send_rows(&mut pipeline, connection, rows).await;
        }
        let sums = tally.into_columns();
        if !sums.kinds.is_empty() {
            let slot = connection.slot();
            let add = async move {
                let Columns { kinds, names, whats, counts, amounts } = sums;
                connection.execute(ADD, &[&slot, &kinds, &names, &whats, &counts, &amounts]).await
            };
            pipeline.send(add.map_ok(drop)).await;
        }
        if !lessened.is_empty() {
            // After the sums: they say whether it was the last one.
            let over = async move { connection.execute(OVER, &[&lessened]).await };
            pipeline.send(over.map_ok(drop)).await;
        }
        let mut hints = Vec::new();
        if options.doorbell.is_some() {
            let gone = ready.iter().filter(|(_, hint)| hint.is_none()).map(|(task, _)| task.as_uuid()).collect();
            hints = ready.into_values().flatten().collect();
            send_outbox(&mut pipeline, connection, gone, &hints, now).await;
        }
        if !journals.is_empty() {
            let select = async {
                read = connection.query(JOURNALS, &[&journals]).await?;
                Ok(())
            };
            pipeline.send(select).await;
        }
        pipeline.send(connection.batch("COMMIT")).await;
        pipeline.answers().await?;
        Ok((Rings { queues, hints, facts }, read))
    }
}

async fn send_rows<'p>(pipeline: &mut Pipeline<'p>, connection: &'p Connection, rows: BatchRows) {
    let BatchRows { batches, lines, tasks, duplicates } = rows;
    let revived: Vec<String> = batches.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let insert = async move {
        let slot = connection.slot();
        connection.execute(ROWS, &[&batches, &lines, &tasks, &duplicates, &slot, &DUPLICATES]).await
    };
    pipeline.send(insert.map_ok(drop)).await;
    let revive = async move { connection.execute(REVIVE, &[&revived]).await };
    pipeline.send(revive.map_ok(drop)).await;
}

async fn send_outbox<'p>(
    pipeline: &mut Pipeline<'p>,
    connection: &'p Connection,
    gone: Vec<Uuid>,
    hints: &[Hint],
    now: Timestamp,
) {
    if !gone.is_empty() {
        let delete = async move { connection.execute(DROP_HINTS, &[&gone]).await };
        pipeline.send(delete.map_ok(drop)).await;
    }
    if !hints.is_empty() {
        let tasks: Vec<Uuid> = hints.iter().map(|hint| hint.task.as_uuid()).collect();
        let versions: Vec<i64> = hints.iter().map(|hint| integer(hint.version)).collect();
        let queues: Vec<String> = hints.iter().map(|hint| hint.queue.to_string()).collect();
        let priorities: Vec<i16> = hints.iter().map(|hint| i16::from(hint.priority)).collect();
        let keep =
            async move { connection.execute(KEEP_HINTS, &[&tasks, &versions, &queues, &priorities, &Time(now)]).await };
        pipeline.send(keep.map_ok(drop)).await;
    }
}

fn place<'a>(entry: &'a Entry, batch: Option<&'a str>) -> Place<'a> {
    Place { queue: entry.head.queue.as_str(), batch, state: entry.state(), journal_bytes: entry.journal_bytes }
}
