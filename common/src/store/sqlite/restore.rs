//! Putting tasks here with the journals that they had in another store.

use std::collections::{HashMap, HashSet};

use super::blob;
use super::connection::{Stop, unencodable};
use super::submit::{check_depth, find_key, note_row};
use super::transaction::{NewTask, Transaction};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::book::Entry;
use crate::store::intake::Moved;
use crate::store::{Receipt, StoreError, ledger};
use crate::task::{Head, StateName};

/// A task that is not here yet: its head, and the events that are added by its coming.
struct New<'a> {
    moved: &'a Moved,
    head: Head,
    added: Vec<(u64, Timestamp, String)>,
}

/// Writes those that are not here yet, all or none; says which these are.
pub(super) fn restore(tx: &mut Transaction<'_>, moved: &[Moved]) -> Result<Vec<bool>, Stop<StoreError>> {
    let (new, answers) = judge(tx, moved)?;
    for New { moved, head, added } in new {
        let Some(submitted) = moved.submitted() else { continue };
        let given = moved.journal.iter().zip(&moved.events).map(|(r, event)| (r.seq, r.at, event.as_str()));
        let added = added.iter().map(|(seq, at, event)| (*seq, *at, event.as_str()));
        let journal: Vec<_> = given.chain(added).collect();
        let bytes = journal.iter().map(|(_, _, event)| event.len() as u64).sum();
        let entry = Entry::open(head, bytes);
        let row = match (submitted.line, &submitted.batch) {
            (Some(line), Some(batch)) if tx.batch_exists(batch)? => Some((line, batch)),
            _ => None,
        };
        tx.insert(&NewTask {
            entry: &entry,
            journal: &journal,
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
        let (head, added) = ledger::restore(moved.id, &moved.journal, tx.now)
            .map_err(|illegal| refuse(format!("what was given for task {} is no journal: {illegal}", moved.id)))?;
        if matches!(head.state.name(), StateName::Ready | StateName::Scheduled) {
            *new_in_queue.entry(submitted.queue.as_str()).or_default() += 1;
        }
        let encode = |added: crate::journal::Recorded| {
            let event = serde_json::to_string(&added.event).map_err(unencodable)?;
            Ok((added.seq, added.at, event))
        };
        let added = added.into_iter().map(encode).collect::<rusqlite::Result<_>>()?;
        new.push(New { moved, head, added });
    }
    check_depth(tx, new_in_queue)?;
    Ok((new, answers))
}
