//! Accepting tasks: all of a call, or none.

use std::collections::{HashMap, HashSet};

use rusqlite::{OptionalExtension, params};

use super::connection::Stop;
use super::transaction::{Told, Transaction};
use crate::id::TaskId;
use crate::journal::Event;
use crate::store::{Limits, Receipt, StoreError, Submission, ledger};
use crate::task::{Head, StateName};

/// Names, labels and the like beside the input, in bytes of JSON.
const ENVELOPE: usize = 64 << 10;

/// A submission with its first event as JSON.
pub(super) struct Prepared {
    submission: Submission,
    event: String,
}

/// Checks what can be checked without the store, and encodes: not in the writer's thread.
pub(super) fn prepare(submissions: Vec<Submission>, limits: &Limits) -> Result<Vec<Prepared>, StoreError> {
    if submissions.len() > limits.submissions {
        return Err(StoreError::Refused(format!(
            "{} tasks in one call; at most {} are allowed (limits.submissions): send them in several calls",
            submissions.len(),
            limits.submissions
        )));
    }
    submissions.into_iter().enumerate().map(|(index, submission)| prepare_one(index, submission, limits)).collect()
}

fn prepare_one(index: usize, submission: Submission, limits: &Limits) -> Result<Prepared, StoreError> {
    let number = index + 1;
    let unencodable = |error| StoreError::Refused(format!("task {number} of the call cannot be encoded: {error}"));
    let id = submission.id;
    // Moved in and out: an event is encoded as it will be read, without a copy of the input.
    let event = Event::Submitted(Box::new(submission.task));
    let encoded = serde_json::to_string(&event).map_err(unencodable)?;
    let Event::Submitted(task) = event else {
        return Err(StoreError::Refused(format!("task {number} of the call is not a submission")));
    };
    if encoded.len() > limits.input_bytes {
        let input = serde_json::to_string(&task.input).map_err(unencodable)?.len();
        if input > limits.input_bytes {
            return Err(StoreError::Refused(format!(
                "the input of task {number} of the call has {input} bytes; at most {} are allowed (limits.input)",
                limits.input_bytes
            )));
        }
        if encoded.len() - input > ENVELOPE {
            return Err(StoreError::Refused(format!(
                "the labels and names of task {number} of the call have {} bytes; at most {ENVELOPE} are allowed",
                encoded.len() - input
            )));
        }
    }
    let submission = Submission { id, task: *task, supersede: submission.supersede, line: submission.line };
    Ok(Prepared { submission, event: encoded })
}

/// What a submission turned out to be.
enum Verdict {
    New,
    /// A task that was there before the call.
    Known(TaskId, StateName),
    /// The same as an earlier one of the call.
    Again(usize),
}

/// Writes them.
pub(super) fn submit(tx: &mut Transaction<'_>, prepared: &[Prepared]) -> Result<Vec<Receipt>, Stop<StoreError>> {
    let verdicts = judge(tx, prepared)?;
    let mut receipts: Vec<Receipt> = Vec::with_capacity(prepared.len());
    let mut superseded = HashSet::new();
    for (verdict, Prepared { submission, event }) in verdicts.into_iter().zip(prepared) {
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
                let batch = submission.line.and(submission.task.batch.as_ref()).map(AsRef::as_ref);
                tx.insert(&head, event, batch, submission.supersede.as_ref().map(AsRef::as_ref))?;
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
fn judge(tx: &Transaction<'_>, prepared: &[Prepared]) -> Result<Vec<Verdict>, Stop<StoreError>> {
    let refuse = |why: String| Err(Stop::Refused(StoreError::Refused(why)));
    let mut by_id: HashMap<TaskId, usize> = HashMap::with_capacity(prepared.len());
    let mut by_key: HashMap<(&str, &str), usize> = HashMap::new();
    let mut new_in_queue: HashMap<&str, u64> = HashMap::new();
    let mut batches: HashSet<&str> = HashSet::new();
    let mut verdicts = Vec::with_capacity(prepared.len());
    for (index, Prepared { submission, .. }) in prepared.iter().enumerate() {
        let task = &submission.task;
        if let (Some(_), Some(batch)) = (submission.line, &task.batch)
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
fn find(tx: &Transaction<'_>, submission: &Submission) -> rusqlite::Result<Option<(TaskId, StateName)>> {
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
fn supersede(tx: &mut Transaction<'_>, submission: &Submission) -> rusqlite::Result<Vec<TaskId>> {
    let Some(group) = &submission.supersede else { return Ok(Vec::new()) };
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
fn note_row(tx: &Transaction<'_>, submission: &Submission, receipt: &Receipt) -> rusqlite::Result<()> {
    let (Some(line), Some(batch)) = (submission.line, &submission.task.batch) else { return Ok(()) };
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
