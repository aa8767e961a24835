//! Putting tasks here with the journals that they had in another store.

use std::collections::{HashMap, HashSet};

use super::blob;
use super::connection::Stop;
use super::submit::{check_depth, find_key, note_row};
use super::transaction::{NewTask, Transaction};
use crate::id::TaskId;
use crate::store::intake::{Arrival, Moved};
use crate::store::{Receipt, StoreError};
use crate::task::StateName;

/// A task that is not here yet.
struct New<'a> {
    moved: &'a Moved,
    settled: Arrival,
}

/// Writes those that are not here yet, all or none; says which these are.
pub(super) fn restore(tx: &mut Transaction<'_>, moved: &[Moved]) -> Result<Vec<bool>, Stop<StoreError>> {
    let (new, answers) = judge(tx, moved)?;
    for New { moved, settled: Arrival { entry, journal, seal } } in new {
        let Some(submitted) = moved.submitted() else { continue };
        let row = match (submitted.line, &submitted.batch) {
            (Some(line), Some(batch)) if tx.batch_exists(batch)? => Some((line, batch)),
            _ => None,
        };
        tx.insert(&NewTask {
            entry: &entry,
            journal: &journal,
            seal,
            blobs: &moved.blobs,
            batch: row.map(|(_, batch)| batch.as_str()),
            supersede: submitted.supersede.as_ref().map(AsRef::as_ref),
        })?;
        if let Some((line, batch)) = row {
            note_row(tx, batch, line, &Receipt { id: moved.id, state: entry.state(), created: true })?;
        }
    }
    Ok(answers)
}

/// Finds out which tasks are new, and refuses the call if one of them cannot be here. Writes nothing.
fn judge<'a>(tx: &Transaction<'_>, moved: &'a [Moved]) -> Result<(Vec<New<'a>>, Vec<bool>), Stop<StoreError>> {
    let refuse = |why: String| Stop::Refused(StoreError::Refused(why));
    let mut ids: HashSet<TaskId> = HashSet::with_capacity(moved.len());
    let mut keys: HashMap<_, TaskId> = HashMap::new();
    let mut new_in_queue: HashMap<&str, u64> = HashMap::new();
    let (mut new, mut answers) = (Vec::with_capacity(moved.len()), Vec::with_capacity(moved.len()));
    for moved in moved {
        let known = !ids.insert(moved.id) || tx.is_unfinished(&moved.id.to_string())?.is_some();
        answers.push(!known);
        let Some(submitted) = moved.submitted().filter(|_| !known) else { continue };
        blob::expect(tx, &moved.blobs)?;
        if let Some(key) = &submitted.key {
            let here = find_key(tx, &submitted.pipeline, key)?.map(|(id, _)| id);
            if let Some(other) = here.or(keys.insert((&submitted.pipeline, key), moved.id)) {
                return Err(refuse(format!(
                    "task {} cannot come here: task {other} of pipeline {} has its idempotency key {key}",
                    moved.id, submitted.pipeline
                )));
            }
        }
        let settled = moved.settle(tx.now, tx.options.seal.as_deref()).map_err(Stop::Refused)?;
        if matches!(settled.entry.state(), StateName::Ready | StateName::Scheduled) {
            *new_in_queue.entry(submitted.queue.as_str()).or_default() += 1;
        }
        new.push(New { moved, settled });
    }
    check_depth(tx, new_in_queue)?;
    Ok((new, answers))
}
