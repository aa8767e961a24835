//! Accepting tasks: all of a call, or none.

use std::collections::{HashMap, HashSet};

use rusqlite::{OptionalExtension, params};

use super::blob;
use super::connection::Stop;
use super::transaction::{Told, Transaction};
use crate::id::TaskId;
use crate::store::intake::Accepted;
use crate::store::{Receipt, StoreError, ledger};
use crate::task::{Head, StateName};

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
    for (verdict, submission @ Accepted { event, .. }) in verdicts.into_iter().zip(prepared) {
        let receipt = match verdict {
            Verdict::Known(id, state) => Receipt { id, state, created: false },
            Verdict::Again(first) => {
                let (id, state) = receipts.get(first).map_or((submission.id, StateName::Ready), |r| (r.id, r.state));
                Receipt { id, state, created: false }
            }
            Verdict::New => {
                superseded.extend(supersede(tx, submission)?);
                // `ledger::open`, without a copy of what is encoded already.
                let head = Head::open(submission.id, tx.now, &submission.task);
                let batch = submission.task.line.and(submission.task.batch.as_ref()).map(AsRef::as_ref);
                tx.insert(&head, event, batch, submission.task.supersede.as_ref().map(AsRef::as_ref))?;
                blob::begin_use(tx, &submission.id.to_string(), &submission.blobs)?;
                Receipt { id: submission.id, state: head.state.name(), created: true }
            }
        };
        note_row(tx, submission, &receipt)?;
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
    let limit = tx.options.limits.queue_depth;
    for (queue, new) in new_in_queue {
        let depth = tx.tally.depth(tx.db, queue)?;
        if depth.saturating_add(new) > limit {
            return refuse(format!(
                "queue {queue} holds {depth} tasks that are ready or scheduled, and {new} more would be over its limit \
                 of {limit} (limits.queue_depth); try again when some are done"
            ));
        }
    }
    Ok(verdicts)
}

/// The task of the same key, or of the same id: a call whose answer was lost.
fn find(tx: &Transaction<'_>, submission: &Accepted) -> rusqlite::Result<Option<(TaskId, StateName)>> {
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
    let mut found = None;
    if let Some(key) = &submission.task.key {
        found = tx
            .db
            .prepare_cached("SELECT id, state FROM tasks WHERE pipeline = ?1 AND key = ?2")?
            .query_row([submission.task.pipeline.as_str(), key.as_str()], row)
            .optional()?;
    }
    if found.is_none() {
        found = tx
            .db
            .prepare_cached("SELECT id, state FROM tasks WHERE id = ?1")?
            .query_row([submission.id.to_string()], row)
            .optional()?;
    }
    Ok(found.and_then(|(id, state)| Some((id.parse().ok()?, state.parse().ok()?))))
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
    let mut cancelled = Vec::new();
    for id in older.iter().filter_map(|id| id.parse().ok()) {
        if let Told::Applied(changed) = tx.tell(id, &ledger::supersede(submission.id))? {
            cancelled.push(id);
            tx.settle(*changed)?;
        }
    }
    Ok(cancelled)
}

/// Notes the task under its line of the batch. A line that was noted before stays as it is.
fn note_row(tx: &Transaction<'_>, submission: &Accepted, receipt: &Receipt) -> rusqlite::Result<()> {
    let (Some(line), Some(batch)) = (submission.task.line, &submission.task.batch) else { return Ok(()) };
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
