//! Accepting tasks: all of a call, or none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::join;
use uuid::Uuid;

use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::row::Beside;
use super::transaction::Transaction;
use super::value::{integer, natural};
use super::write::Created;
use crate::id::{BatchId, GroupKey, IdempotencyKey, PipelineName, QueueName, Shard, TaskId};
use crate::store::book::Entry;
use crate::store::intake::Accepted;
use crate::store::{Receipt, StoreError, ledger};
use crate::task::StateName;

/// Only one transaction at a time supersedes within a group. (Groups whose hashes meet wait for each other, no more.)
pub(super) const LOCK_GROUPS: &str = "SELECT pg_advisory_xact_lock(1414353735, g) FROM unnest($1::int[]) AS g";
pub(super) const KEYS: &str = "SELECT u.pipeline, u.key, t.id, t.state \
     FROM unnest($1::text[], $2::text[]) AS u(pipeline, key) CROSS JOIN LATERAL (SELECT k.id, k.state FROM tasks k \
     WHERE k.pipeline = u.pipeline AND k.key = u.key AND k.key IS NOT NULL LIMIT 1) t";
pub(super) const IDS: &str = "SELECT id, state FROM tasks WHERE id = ANY($1::uuid[])";
pub(super) const DEPTHS: &str = "SELECT name, sum(n)::bigint FROM counts \
     WHERE kind = 'queue' AND name = ANY($1::text[]) AND what IN ('ready', 'scheduled') GROUP BY name";
/// They are not removed before the transaction ends.
pub(super) const BATCHES: &str = "SELECT id FROM batches WHERE id = ANY($1::text[]) ORDER BY id FOR KEY SHARE";
pub(super) const OLDER: &str = "SELECT u.pipeline, u.supersede, t.id \
     FROM unnest($1::text[], $2::text[]) AS u(pipeline, supersede) CROSS JOIN LATERAL (SELECT o.id FROM tasks o \
     WHERE o.pipeline = u.pipeline AND o.supersede = u.supersede AND o.supersede IS NOT NULL \
     AND o.finished_at IS NULL LIMIT 1000000) t";

/// What the submissions of a group ask of the store before they are judged.
#[derive(Debug, Default)]
pub(super) struct Questions {
    keys: BTreeSet<(PipelineName, IdempotencyKey)>,
    ids: Vec<Uuid>,
    queues: BTreeSet<QueueName>,
    batches: BTreeSet<BatchId>,
    groups: BTreeSet<(PipelineName, GroupKey)>,
}

/// The answers, and what the submissions so far have added to them.
#[derive(Debug, Default)]
pub(super) struct Intake {
    keys: HashMap<(PipelineName, IdempotencyKey), (TaskId, StateName)>,
    ids: HashMap<TaskId, StateName>,
    depths: BTreeMap<QueueName, u64>,
    batches: HashSet<BatchId>,
    groups: HashMap<(PipelineName, GroupKey), Vec<TaskId>>,
}

/// What a submission turned out to be.
enum Verdict {
    New,
    /// A task that was there before the call.
    Known(TaskId, StateName),
    /// The same as an earlier one of the call.
    Again(usize),
}

impl Questions {
    /// What one call asks. New ids are trusted to be new: should one be there already (a call whose answer was lost),
    /// writing it fails, and `ids` says to ask for them this time.
    pub(super) fn add(&mut self, accepted: &[Accepted], ids: bool) {
        for Accepted { id, task, .. } in accepted {
            if ids {
                self.ids.push(id.as_uuid());
            }
            self.keys.extend(task.key.clone().map(|key| (task.pipeline.clone(), key)));
            self.groups.extend(task.supersede.clone().map(|group| (task.pipeline.clone(), group)));
            if !self.queues.contains(&task.queue) {
                self.queues.insert(task.queue.clone());
            }
            if let (Some(batch), Some(_)) = (&task.batch, task.line)
                && !self.batches.contains(batch)
            {
                self.batches.insert(batch.clone());
            }
        }
    }

    /// Asks, in one flush.
    pub(super) async fn ask(self, connection: &Connection) -> Result<Intake, Fault> {
        let Self { keys, ids, queues, batches, groups } = self;
        let mut locks: Vec<i32> = groups
            .iter()
            .map(|(pipeline, group)| i32::from(Shard::of_text(&[pipeline.as_str(), group.as_str()]).number()))
            .collect();
        locks.sort_unstable();
        locks.dedup();
        let (pipelines, names): (Vec<&str>, Vec<&str>) = keys.iter().map(|(p, k)| (p.as_str(), k.as_str())).unzip();
        let (owners, supersedes): (Vec<&str>, Vec<&str>) = groups.iter().map(|(p, g)| (p.as_str(), g.as_str())).unzip();
        let queue_names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
        let batch_ids: Vec<&str> = batches.iter().map(BatchId::as_str).collect();
        let none = || Ok(Vec::new());
        let (locked, older, known, present, depths, open) = join!(
            async { if locks.is_empty() { none() } else { connection.query(LOCK_GROUPS, &[&locks]).await } },
            async { if locks.is_empty() { none() } else { connection.query(OLDER, &[&owners, &supersedes]).await } },
            async { if names.is_empty() { none() } else { connection.query(KEYS, &[&pipelines, &names]).await } },
            async { if ids.is_empty() { none() } else { connection.query(IDS, &[&ids]).await } },
            async { if queues.is_empty() { none() } else { connection.query(DEPTHS, &[&queue_names]).await } },
            async { if batches.is_empty() { none() } else { connection.query(BATCHES, &[&batch_ids]).await } },
        );
        locked?;
        let mut intake = Intake::default();
        // Names that this version cannot read are none of those that were asked for.
        for row in older? {
            if let (Ok(pipeline), Ok(group)) =
                (PipelineName::new(row.try_get::<_, &str>(0)?), GroupKey::new(row.try_get::<_, &str>(1)?))
            {
                intake.groups.entry((pipeline, group)).or_default().push(TaskId::from_uuid(row.try_get(2)?));
            }
        }
        // The oldest first.
        intake.groups.values_mut().for_each(|tasks| tasks.sort_unstable());
        for row in known? {
            if let (Ok(pipeline), Ok(key), Ok(state)) = (
                PipelineName::new(row.try_get::<_, &str>(0)?),
                IdempotencyKey::new(row.try_get::<_, &str>(1)?),
                row.try_get::<_, &str>(3)?.parse(),
            ) {
                intake.keys.insert((pipeline, key), (TaskId::from_uuid(row.try_get(2)?), state));
            }
        }
        for row in present? {
            if let Ok(state) = row.try_get::<_, &str>(1)?.parse() {
                intake.ids.insert(TaskId::from_uuid(row.try_get(0)?), state);
            }
        }
        for row in depths? {
            if let Ok(queue) = QueueName::new(row.try_get::<_, &str>(0)?) {
                intake.depths.insert(queue, natural(row.try_get(1)?));
            }
        }
        for row in open? {
            intake.batches.extend(BatchId::new(row.try_get::<_, &str>(0)?).ok());
        }
        Ok(intake)
    }
}

/// Judges a call and enters what it adds.
pub(super) async fn submit(
    tx: &mut Transaction<'_>,
    intake: &mut Intake,
    accepted: &[Accepted],
) -> Result<Vec<Receipt>, Stop<StoreError>> {
    let verdicts = judge(tx, intake, accepted).map_err(Stop::Refused)?;
    let mut receipts: Vec<Receipt> = Vec::with_capacity(accepted.len());
    for (verdict, submission) in verdicts.into_iter().zip(accepted) {
        let receipt = match verdict {
            Verdict::Known(id, state) => Receipt { id, state, created: false },
            Verdict::Again(first) => {
                let (id, state) = receipts.get(first).map_or((submission.id, StateName::Ready), |r| (r.id, r.state));
                Receipt { id, state, created: false }
            }
            Verdict::New => create(tx, intake, submission).await?,
        };
        if let (Some(line), Some(batch)) = (submission.task.line, &submission.task.batch) {
            tx.rows.batches.push(batch.to_string());
            tx.rows.lines.push(integer(line));
            tx.rows.tasks.push(receipt.id.as_uuid());
            tx.rows.duplicates.push(!receipt.created);
        }
        receipts.push(receipt);
    }
    for receipt in &mut receipts {
        // A later one of the call may have superseded it.
        if let Some(entry) = tx.entry(receipt.id) {
            receipt.state = entry.state();
        }
    }
    Ok(receipts)
}

/// Finds out what each submission is, and refuses the call if one of them is impossible. Changes nothing.
fn judge(tx: &Transaction<'_>, intake: &Intake, accepted: &[Accepted]) -> Result<Vec<Verdict>, StoreError> {
    let refuse = |why: String| Err(StoreError::Refused(why));
    let mut by_id: HashMap<TaskId, usize> = HashMap::with_capacity(accepted.len());
    let mut by_key: HashMap<(&PipelineName, &IdempotencyKey), usize> = HashMap::new();
    let mut new_in_queue: BTreeMap<&QueueName, u64> = BTreeMap::new();
    let mut verdicts = Vec::with_capacity(accepted.len());
    for (index, Accepted { id, task, .. }) in accepted.iter().enumerate() {
        if let (Some(_), Some(batch)) = (task.line, &task.batch)
            && !intake.batches.contains(batch)
        {
            return refuse(format!("there is no batch {batch}; open it first"));
        }
        let key = task.key.as_ref().map(|key| (&task.pipeline, key));
        if let Some(first) = key.and_then(|key| by_key.get(&key)).or_else(|| by_id.get(id)) {
            verdicts.push(Verdict::Again(*first));
            continue;
        }
        let by_known_key = task.key.clone().and_then(|key| intake.keys.get(&(task.pipeline.clone(), key)).copied());
        if let Some((id, state)) = by_known_key.or_else(|| intake.ids.get(id).map(|state| (*id, *state))) {
            verdicts.push(Verdict::Known(id, state));
            continue;
        }
        if let Some(parent) = task.parent.as_ref().map(|parent| parent.task)
            && !by_id.contains_key(&parent)
        {
            let state = tx
                .entry(parent)
                .map(Entry::state)
                .or_else(|| tx.beside.get(&parent).map(|beside| beside.state.unwrap_or(StateName::Running)))
                .or_else(|| intake.ids.get(&parent).copied());
            match state {
                Some(state) if state.is_terminal() => {
                    return refuse(format!("task {parent} is done: it gets no more children"));
                }
                Some(_) => {}
                None => return refuse(format!("there is no task {parent} to be the parent of another")),
            }
        }
        *new_in_queue.entry(&task.queue).or_default() += 1;
        by_id.insert(*id, index);
        by_key.extend(key.map(|key| (key, index)));
        verdicts.push(Verdict::New);
    }
    check_depth(&intake.depths, new_in_queue, tx.options.limits.queue_depth)?;
    Ok(verdicts)
}

/// Refuses what would make a queue deeper than its limit.
pub(super) fn check_depth(
    depths: &BTreeMap<QueueName, u64>,
    new_in_queue: BTreeMap<&QueueName, u64>,
    limit: u64,
) -> Result<(), StoreError> {
    for (queue, new) in new_in_queue {
        let depth = depths.get(queue).copied().unwrap_or(0);
        if depth.saturating_add(new) > limit {
            return Err(StoreError::Refused(format!(
                "queue {queue} holds {depth} tasks that are ready or scheduled, and {new} more would be over its limit \
                 of {limit} (limits.queue_depth); try again when some are done"
            )));
        }
    }
    Ok(())
}

/// A new task; the older ones of its group are cancelled.
async fn create(
    tx: &mut Transaction<'_>,
    intake: &mut Intake,
    submission: &Accepted,
) -> Result<Receipt, Stop<StoreError>> {
    let Accepted { id, task, blobs, .. } = submission;
    let entry = submission.entry(tx.now);
    let state = entry.state();
    let batch = task.line.and(task.batch.as_ref()).map(ToString::to_string);
    if let Some(group) = &task.supersede {
        let group = intake.groups.entry((task.pipeline.clone(), group.clone())).or_default();
        let signal = ledger::supersede(*id);
        for older in group.iter() {
            match tx.settle(|book| book.signal(*older, &signal)).await {
                // It is done, gone, or cannot be read: then it is no rival.
                Ok(_) | Err(Stop::Refused(_)) => {}
                Err(Stop::Fault(fault)) => return Err(fault.into()),
            }
        }
        group.push(*id);
    }
    if task.supersede.is_some() || task.parent.is_some() {
        // Others of the group may still change it.
        tx.book.open(entry.clone());
        let beside = Beside {
            queue: task.queue.to_string(),
            state: Some(state),
            parent: task.parent.as_ref().map(|parent| parent.task),
            batch: batch.clone(),
            journal_bytes: entry.journal_bytes,
            unread: Vec::new(),
        };
        tx.beside.insert(*id, beside);
    }
    intake.ids.insert(*id, state);
    intake.keys.extend(task.key.clone().map(|key| ((task.pipeline.clone(), key), (*id, state))));
    *intake.depths.entry(task.queue.clone()).or_default() += 1;
    tx.created.push(Created {
        events: vec![submission.first(&entry)],
        seal: tx.options.seal.as_ref().and_then(|key| entry.sealed(key)),
        blobs: blobs.clone(),
        batch,
        supersede: task.supersede.as_ref().map(ToString::to_string),
        entry,
    });
    Ok(Receipt { id: *id, state, created: true })
}
