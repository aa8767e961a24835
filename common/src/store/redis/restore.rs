//! Tasks that come from another store, with the journals that they had there.

use std::collections::{BTreeMap, HashMap};

use futures::future::try_join_all;

use super::RedisStore;
use super::change;
use super::keys::{group_digest, key_digest};
use super::record::{Extra, millis};
use super::unit::{Outcome, Unit};
use crate::id::TaskId;
use crate::journal::{Event, Recorded};
use crate::store::book::Entry;
use crate::store::{Hint, StoreError, Transcript, ledger};

/// How often a call is planned before its caller is told to try again.
const TRIES: usize = 8;

/// A task as it is to be here.
struct Restored {
    entry: Entry,
    extra: Extra,
    events: Vec<Vec<u8>>,
}

impl RedisStore {
    /// Puts tasks here, all or none; false for those that are here already.
    pub(super) async fn restore_tasks(&self, transcripts: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        let limit = self.options.limits.submissions;
        if transcripts.len() > limit {
            return Err(StoreError::Refused(format!(
                "{} tasks in one call; at most {limit} are allowed (limits.submissions): send them in several calls",
                transcripts.len()
            )));
        }
        let ids: Vec<TaskId> = transcripts.iter().map(|transcript| transcript.id).collect();
        let mut tasks: HashMap<TaskId, Restored> = HashMap::with_capacity(ids.len());
        for transcript in transcripts {
            tasks.insert(transcript.id, self.restored(transcript)?);
        }
        let mut created: HashMap<TaskId, bool> = HashMap::new();
        for _ in 0..TRIES {
            for (partition, ids) in self.by_partition(&ids) {
                for (task, record) in ids.iter().zip(self.records(partition, &ids).await?) {
                    if record.is_some() {
                        created.entry(*task).or_insert(false);
                    }
                }
            }
            let manner = self.manner();
            let mut units: BTreeMap<usize, (Unit, Vec<TaskId>)> = BTreeMap::new();
            for (task, restored) in tasks.iter().filter(|(task, _)| !created.contains_key(task)) {
                let (unit, new) = units.entry(self.keys.of_task(*task)).or_default();
                new.push(*task);
                if let Some(key) = &restored.extra.key {
                    unit.expect_no_key(key);
                }
                if let Some(group) = restored.extra.group.filter(|_| !restored.entry.state().is_terminal()) {
                    let accepted = millis(restored.entry.head.created_at).to_be_bytes();
                    let note = [group.as_slice(), &accepted].concat();
                    unit.command("HSET", b"notes".to_vec(), [task.as_uuid().as_bytes().to_vec(), note]);
                }
                change::bear(unit, &restored.entry, &restored.extra, self.stamp(), &restored.events, manner);
            }
            let commits = units.into_iter().map(|(partition, (unit, new))| async move {
                Ok::<_, StoreError>((self.groups.commit(partition, unit).await?.outcome, new))
            });
            let mut stale = false;
            for (outcome, new) in try_join_all(commits).await? {
                stale |= outcome != Outcome::Done;
                if outcome == Outcome::Done {
                    created.extend(new.into_iter().map(|task| (task, true)));
                }
            }
            if !stale {
                self.hint_at(&tasks, &created);
                // A task that stands twice in the call is new once.
                return Ok(ids.iter().map(|task| created.insert(*task, false).unwrap_or(false)).collect());
            }
        }
        Err(StoreError::Refused(
            "a task has an idempotency key that another task has here already; nothing of its partition was restored"
                .to_owned(),
        ))
    }

    fn restored(&self, transcript: Transcript) -> Result<Restored, StoreError> {
        let Transcript { id, journal } = transcript;
        let refuse = |why: String| StoreError::Refused(format!("task {id} cannot be restored: {why}"));
        let (head, added) =
            ledger::restore(id, &journal, self.clock.now()).map_err(|illegal| refuse(illegal.to_string()))?;
        let Some(Recorded { event: Event::Submitted(task), .. }) = journal.first() else {
            return Err(refuse("its journal does not begin with what was submitted".to_owned()));
        };
        let extra = Extra {
            key: task.key.as_ref().map(|key| key_digest(&task.pipeline, key)),
            group: task.supersede.as_ref().map(|group| group_digest(&task.pipeline, group)),
            batch: task.line.and(task.batch.clone()),
            // Its children may come before or after it.
            family: true,
            snapshot: 0,
        };
        let journal: Vec<Recorded> = journal.into_iter().chain(added).collect();
        let events = change::elements(&journal)?;
        let bytes = events
            .iter()
            .zip(&journal)
            .map(|(element, recorded)| element.len().saturating_sub(millis(recorded.at).to_string().len()) as u64);
        let mut entry = Entry::open(head, bytes.sum());
        entry.ending = journal.into_iter().next_back().filter(|_| entry.head.state.is_terminal());
        Ok(Restored { entry, extra, events })
    }

    fn hint_at(&self, tasks: &HashMap<TaskId, Restored>, created: &HashMap<TaskId, bool>) {
        let Some(doorbell) = &self.options.doorbell else { return };
        let ready = |restored: &&Restored| {
            restored.entry.ready_since().is_some() && created.get(&restored.entry.head.id) == Some(&true)
        };
        let hint = |restored: &Restored| {
            let head = &restored.entry.head;
            Hint { task: head.id, version: head.version, queue: head.queue.clone(), priority: head.priority }
        };
        let hints: Vec<Hint> = tasks.values().filter(ready).map(hint).collect();
        if !hints.is_empty() {
            doorbell.ring(hints);
        }
    }
}
