//! Accepting tasks: all of a call, or none.

use std::collections::{HashMap, HashSet};

use rusqlite::{OptionalExtension, params};

use super::blob;
use super::connection::Stop;
use super::entries::{Entries, Reach};
use super::transaction::{NewTask, Transaction};
use crate::id::{BatchId, IdempotencyKey, PipelineName, TaskId};
use crate::store::intake::Accepted;
use crate::store::{Receipt, Signalled, StoreError, ledger};
use crate::task::StateName;

/// What a submission turned out to be.
enum Verdict {
    New,
    /// A task that was there before the call.
    Known(TaskId, StateName),
    /// The same as an earlier one of the call.
    Again(usize),
}

/// Writes them.
pub(super) fn submit(tx: &mut Transaction<'_>, prepared: &[Accepted]) -> Result<Vec<Receipt>, Stop<StoreError>> {
    let verdicts = judge(tx, prepared)?;
    let mut receipts: Vec<Receipt> = Vec::with_capacity(prepared.len());
    let mut superseded = HashSet::new();
    for (verdict, submission) in verdicts.into_iter().zip(prepared) {
        let receipt = match verdict {
            Verdict::Known(id, state) => Receipt { id, state, created: false },
            Verdict::Again(first) => {
                let (id, state) = receipts.get(first).map_or((submission.id, StateName::Ready), |r| (r.id, r.state));
                Receipt { id, state, created: false }
            }
            Verdict::New => {
                superseded.extend(supersede(tx, submission)?);
                let entry = submission.entry(tx.now);
                tx.insert(&NewTask {
                    entry: &entry,
                    journal: &[submission.first(&entry)],
                    seal: tx.options.seal.as_ref().and_then(|key| entry.sealed(key)),
                    blobs: &submission.blobs,
                    batch: submission.task.line.and(submission.task.batch.as_ref()).map(AsRef::as_ref),
                    supersede: submission.task.supersede.as_ref().map(AsRef::as_ref),
                })?;
                Receipt { id: submission.id, state: entry.state(), created: true }
            }
        };
        if let (Some(line), Some(batch)) = (submission.task.line, &submission.task.batch) {
            note_row(tx, batch, line, &receipt)?;
        }
        receipts.push(receipt);
    }
    if !superseded.is_empty() {
        for receipt in receipts.iter_mut().filter(|receipt| superseded.contains(&receipt.id)) {
            receipt.state = StateName::Cancelled;
        }
    }
    Ok(receipts)
}

/// Finds out what each submission is, and refuses the call if one of them is impossible. Writes nothing.
fn judge(tx: &Transaction<'_>, prepared: &[Accepted]) -> Result<Vec<Verdict>, Stop<StoreError>> {
    let refuse = |why: String| Err(Stop::Refused(StoreError::Refused(why)));
    let mut by_id: HashMap<TaskId, usize> = HashMap::with_capacity(prepared.len());
    let mut by_key: HashMap<(&str, &str), usize> = HashMap::new();
    let mut new_in_queue: HashMap<&str, u64> = HashMap::new();
    let mut batches: HashSet<&str> = HashSet::new();
    let mut verdicts = Vec::with_capacity(prepared.len());
    for (index, submission) in prepared.iter().enumerate() {
        let task = &submission.task;
        if let (Some(_), Some(batch)) = (submission.task.line, &task.batch)
            && batches.insert(batch.as_str())
            && !tx.batch_exists(batch)?
        {
            return refuse(format!("there is no batch {batch}; open it first"));
        }
        let key = task.key.as_ref().map(|key| (task.pipeline.as_str(), key.as_str()));
        let verdict = match key.and_then(|key| by_key.get(&key)).or_else(|| by_id.get(&submission.id)) {
            Some(first) => Verdict::Again(*first),
            None => match find(tx, submission)? {
                Some((id, state)) => Verdict::Known(id, state),
                None => Verdict::New,
            },
        };
        if let Verdict::New = verdict {
            blob::expect(tx, &submission.blobs)?;
            if let Some(parent) = &task.parent
                && !by_id.contains_key(&parent.task)
            {
                match tx.is_unfinished(&parent.task.to_string())? {
                    Some(true) => {}
                    Some(false) => return refuse(format!("task {} is done: it gets no more children", parent.task)),
                    None => return refuse(format!("there is no task {} to be the parent of another", parent.task)),
                }
            }
            *new_in_queue.entry(task.queue.as_str()).or_default() += 1;
            by_id.insert(submission.id, index);
            by_key.extend(key.map(|key| (key, index)));
        }
        verdicts.push(verdict);
    }
    check_depth(tx, new_in_queue)?;
    Ok(verdicts)
}

/// Refuses tasks for which a queue has no room.
pub(super) fn check_depth<'q>(
    tx: &Transaction<'_>,
    new_in_queue: impl IntoIterator<Item = (&'q str, u64)>,
) -> Result<(), Stop<StoreError>> {
    let limit = tx.options.limits.queue_depth;
    for (queue, new) in new_in_queue {
        let depth = tx.tally.depth(tx.db, queue)?;
        if depth.saturating_add(new) > limit {
            return Err(Stop::Refused(StoreError::Refused(format!(
                "queue {queue} holds {depth} tasks that are ready or scheduled, and {new} more would be over its limit \
                 of {limit} (limits.queue_depth); try again when some are done"
            ))));
        }
    }
    Ok(())
}

/// The task of the same key, or of the same id: a call whose answer was lost.
fn find(tx: &Transaction<'_>, submission: &Accepted) -> rusqlite::Result<Option<(TaskId, StateName)>> {
    let task = &submission.task;
    if let Some(key) = &task.key
        && let Some(found) = find_key(tx, &task.pipeline, key)?
    {
        return Ok(Some(found));
    }
    let found = tx
        .db
        .prepare_cached("SELECT id, state FROM tasks WHERE id = ?1")?
        .query_row([submission.id.to_string()], id_and_state)
        .optional()?;
    Ok(found.flatten())
}

/// The task that has an idempotency key.
pub(super) fn find_key(
    tx: &Transaction<'_>,
    pipeline: &PipelineName,
    key: &IdempotencyKey,
) -> rusqlite::Result<Option<(TaskId, StateName)>> {
    let found = tx
        .db
        .prepare_cached("SELECT id, state FROM tasks WHERE pipeline = ?1 AND key = ?2")?
        .query_row([pipeline.as_str(), key.as_str()], id_and_state)
        .optional()?;
    Ok(found.flatten())
}

fn id_and_state(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<(TaskId, StateName)>> {
    let (id, state) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
    Ok(id.parse().ok().zip(state.parse().ok()))
}

/// Cancels the older unfinished tasks of the group; answers with those that are cancelled now.
fn supersede(tx: &mut Transaction<'_>, submission: &Accepted) -> rusqlite::Result<Vec<TaskId>> {
    let Some(group) = &submission.task.supersede else { return Ok(Vec::new()) };
    let older: Vec<String> = tx
        .db
        .prepare_cached(
            "SELECT id FROM tasks WHERE pipeline = ?1 AND supersede = ?2 AND finished_at IS NULL ORDER BY id",
        )?
        .query_map([submission.task.pipeline.as_str(), group.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut entries = Entries::open(tx);
    let mut cancelled = Vec::new();
    for id in older.iter().filter_map(|id| id.parse().ok()) {
        entries.load(id, Reach::Family)?;
        if let Some(Signalled::Applied(_)) = entries.tell(id, &ledger::supersede(submission.id))? {
            cancelled.push(id);
        }
    }
    entries.write()?;
    Ok(cancelled)
}

/// Notes the task under its line of the batch. A line that was noted before stays as it is.
pub(super) fn note_row(tx: &Transaction<'_>, batch: &BatchId, line: u64, receipt: &Receipt) -> rusqlite::Result<()> {
    let added = tx
        .db
        .prepare_cached(
            "INSERT INTO batch_rows (batch, line, task, duplicate) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?
        .execute(params![batch.as_str(), super::row::integer(line), receipt.id.to_string(), !receipt.created])?;
    if added > 0 && !receipt.created {
        tx.db
            .prepare_cached("UPDATE batches SET duplicates = duplicates + 1 WHERE id = ?1")?
            .execute([batch.as_str()])?;
    }
    Ok(())
}
