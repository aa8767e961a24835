//! Tasks that come from another store, with the journals that they had there.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::future::try_join_all;

use super::RedisStore;
use super::change;
use super::keys::{group_digest, key_digest};
use super::record::Extra;
use super::unit::{Outcome, Unit, element};
use crate::id::{BatchId, BlobName, TaskId};
use crate::store::book::Entry;
use crate::store::intake::{self, Arrival, Moved};
use crate::store::{Hint, StoreError, Transcript};
use crate::task::StateName;

/// How often a call is planned before its caller is told to try again.
const TRIES: usize = 8;

/// A task as it is to be here.
struct Restored {
    entry: Entry,
    extra: Extra,
    events: Vec<Vec<u8>>,
    blobs: Vec<BlobName>,
    line: Option<u64>,
}

impl RedisStore {
    /// Puts tasks here, all or none; false for those that are here already.
    pub(super) async fn restore_tasks(&self, transcripts: Vec<Transcript>) -> Result<Vec<bool>, StoreError> {
        let moved = intake::transcripts(transcripts, &self.options.limits)?;
        let ids: Vec<TaskId> = moved.iter().map(|moved| moved.id).collect();
        let batches = self.known_batches(&moved).await?;
        let mut tasks: HashMap<TaskId, Restored> = HashMap::with_capacity(ids.len());
        for moved in moved {
            tasks.insert(moved.id, self.restored(&moved, &batches)?);
        }
        let mut created: HashSet<TaskId> = HashSet::new();
        for _ in 0..TRIES {
            let new = self.new_among(&tasks, &created).await?;
            let mut deeper: BTreeMap<&str, u64> = BTreeMap::new();
            for restored in new.iter().filter_map(|task| tasks.get(task)) {
                let waits = matches!(restored.entry.state(), StateName::Ready | StateName::Scheduled);
                *deeper.entry(restored.entry.head.queue.as_str()).or_default() += u64::from(waits);
            }
            self.room(deeper).await?;
            let units = self.births(&tasks, &new);
            for restored in new.iter().filter_map(|task| tasks.get(task)) {
                // Before the task: one that then does not come is dropped by the next of its group.
                if let Some(group) = restored.extra.group.filter(|_| !restored.entry.state().is_terminal()) {
                    self.join_group(restored.entry.head.id, &group, restored.entry.head.created_at).await?;
                }
            }
            let commits = units.into_iter().map(|(partition, (unit, new))| async move {
                Ok::<_, StoreError>((self.groups.commit(partition, unit).await?.outcome, new))
            });
            let mut stale = false;
            for (outcome, new) in try_join_all(commits).await? {
                stale |= outcome != Outcome::Done;
                if outcome == Outcome::Done {
                    created.extend(new);
                }
            }
            if !stale {
                self.hint_at(&tasks, &created);
                // A task that stands twice in the call is new once.
                return Ok(ids.iter().map(|task| created.remove(task)).collect());
            }
        }
        Err(StoreError::Unavailable("others bring the same tasks at the same time; try again".to_owned()))
    }

    async fn known_batches(&self, moved: &[Moved]) -> Result<HashSet<BatchId>, StoreError> {
        let rows = moved.iter().filter_map(Moved::submitted).filter(|submitted| submitted.line.is_some());
        let named: HashSet<&BatchId> = rows.filter_map(|submitted| submitted.batch.as_ref()).collect();
        let mut known = HashSet::new();
        for batch in named {
            if self.batch_exists(batch).await? {
                known.insert(batch.clone());
            }
        }
        Ok(known)
    }

    /// Those that are not here yet; refuses the call if one has the idempotency key of another task.
    async fn new_among(
        &self,
        tasks: &HashMap<TaskId, Restored>,
        created: &HashSet<TaskId>,
    ) -> Result<Vec<TaskId>, StoreError> {
        let all: Vec<TaskId> = tasks.keys().copied().filter(|task| !created.contains(task)).collect();
        let mut new = Vec::new();
        for (partition, ids) in self.by_partition(&all) {
            let records = self.records(partition, &ids).await?;
            new.extend(ids.into_iter().zip(records).filter(|(_, record)| record.is_none()).map(|(task, _)| task));
        }
        let mut keys = HashMap::new();
        for task in &new {
            let Some(restored) = tasks.get(task) else { continue };
            let Some(key) = restored.extra.key else { continue };
            let here = self.owner(self.keys.of_task(*task), &key).await?;
            if let Some(other) = here.or(keys.insert(key, *task)) {
                let head = &restored.entry.head;
                return Err(StoreError::Refused(format!(
                    "task {task} cannot come here: task {other} of pipeline {} has its idempotency key {}",
                    head.pipeline,
                    head.key.as_ref().map_or("", |key| key.as_str())
                )));
            }
        }
        Ok(new)
    }

    fn births(&self, tasks: &HashMap<TaskId, Restored>, new: &[TaskId]) -> BTreeMap<usize, (Unit, Vec<TaskId>)> {
        let manner = self.manner();
        let mut units: BTreeMap<usize, (Unit, Vec<TaskId>)> = BTreeMap::new();
        for task in new {
            let Some(restored) = tasks.get(task) else { continue };
            let (unit, new) = units.entry(self.keys.of_task(*task)).or_default();
            new.push(*task);
            if let Some(key) = &restored.extra.key {
                unit.expect_no_key(key);
            }
            change::bear(unit, &restored.entry, &restored.extra, self.stamp(), &restored.events, manner);
            for name in &restored.blobs {
                unit.use_blob(*task, name);
            }
            if let (Some(batch), Some(line)) = (&restored.extra.batch, restored.line) {
                unit.row(batch, line, *task, false);
            }
        }
        units
    }

    fn restored(&self, moved: &Moved, batches: &HashSet<BatchId>) -> Result<Restored, StoreError> {
        let refuse = |why: &dyn std::fmt::Display| {
            StoreError::Refused(format!("what was given for task {} is no journal: {why}", moved.id))
        };
        let Arrival { entry, journal, seal } = moved.settle(self.clock.now(), self.options.seal.as_deref())?;
        let task = moved.submitted().ok_or_else(|| refuse(&"it does not begin with what was submitted"))?;
        let extra = Extra {
            key: task.key.as_ref().map(|key| key_digest(&task.pipeline, key)),
            group: task.supersede.as_ref().map(|group| group_digest(&task.pipeline, group)),
            batch: task.line.and(task.batch.clone()).filter(|batch| batches.contains(batch)),
            // Its children may come before or after it.
            family: true,
            snapshot: 0,
            seal,
        };
        let events = journal.iter().map(|one| element(one.at, &one.event, one.hash)).collect();
        let line = task.line;
        Ok(Restored { entry, extra, events, blobs: moved.blobs.clone(), line })
    }

    fn hint_at(&self, tasks: &HashMap<TaskId, Restored>, created: &HashSet<TaskId>) {
        let Some(doorbell) = &self.options.doorbell else { return };
        let new = created.iter().filter_map(|task| tasks.get(task));
        let ready = new.filter(|restored| restored.entry.ready_since().is_some());
        let hints: Vec<Hint> = ready.map(|restored| Hint::of(&restored.entry.head)).collect();
        if !hints.is_empty() {
            doorbell.ring(hints);
        }
    }
}
