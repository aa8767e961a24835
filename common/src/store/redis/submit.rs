//! Accepting tasks: all of a call, or none.
//!
//! A call is planned as if all its tasks were new, and written on the condition
//! that they are: one call to the server. If not, what is there is read, and the
//! rest is written. A call that spans partitions is checked on all of them
//! before anything is written; a crash of the caller in between leaves a part,
//! which the same call completes when it is repeated.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::future::try_join_all;

use super::RedisStore;
use super::blob;
use super::change::{self, Manner};
use super::desk::Desk;
use super::keys::{self, group_digest, key_digest};
use super::record::{Extra, ShortDigest, millis};
use super::reply;
use super::scripts::ask;
use super::stored::Found;
use super::unit::{Outcome, Unit, element};
use crate::id::{BatchId, TaskId};
use crate::store::intake::Accepted;
use crate::store::{Hint, Receipt, StoreError, Submission, intake};
use crate::task::StateName;

/// How often a call is planned before its caller is told to try again.
const TRIES: usize = 12;
/// A queue that may be so near to its limit is counted on all partitions before it gets more.
const NEAR: u64 = 20_000;

/// A submission with what is made of it once.
struct Candidate {
    accepted: Accepted,
    key: Option<ShortDigest>,
    group: Option<ShortDigest>,
    partition: usize,
}

/// What is known to be there: tasks by the submission that leads to them.
type Existing = HashMap<usize, (TaskId, StateName)>;

/// What a submission turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    New,
    /// A task that was there before the call.
    Known(TaskId, StateName),
    /// The same as an earlier one of the call.
    Again(usize),
}

impl RedisStore {
    pub(super) async fn accept(&self, submissions: Vec<Submission>) -> Result<Vec<Receipt>, StoreError> {
        let accepted = intake::submissions(submissions, &self.options.limits)?;
        let candidates: Vec<Candidate> = accepted.into_iter().map(|accepted| self.candidate(accepted)).collect();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        self.know_batches(&candidates).await?;
        let blobs: Vec<_> = candidates.iter().flat_map(|one| one.accepted.blobs.iter().cloned()).collect();
        self.expect_blobs(&blobs).await?;
        let spread =
            candidates.iter().any(|one| one.partition != candidates.first().map_or(0, |first| first.partition));
        // What would be refused if it were new is looked for first, too.
        let mut sure = spread || candidates.iter().any(|one| one.accepted.task.parent.is_some());
        let mut existing = if sure { self.find(&candidates, None).await? } else { Existing::new() };
        let mut created: HashSet<usize> = HashSet::new();
        for _ in 0..TRIES {
            let verdicts = judge(&candidates, &existing);
            let parents = self.parents(&candidates, &verdicts, &created).await?;
            let room = self.room(count_new(&candidates, &verdicts, &created)).await?;
            let manner = self.manner();
            let units = self.units(&candidates, &verdicts, &created, &parents, &room, manner);
            let commits = units.into_iter().map(|(partition, (unit, indexes))| async move {
                let outcome =
                    if unit.is_empty() { Outcome::Done } else { self.groups.commit(partition, unit).await?.outcome };
                Ok::<_, StoreError>((partition, indexes, outcome))
            });
            let mut stale = Vec::new();
            for (partition, indexes, outcome) in try_join_all(commits).await? {
                match outcome {
                    Outcome::Done => created.extend(indexes),
                    Outcome::Full if !sure => {
                        sure = true;
                        stale.push(partition);
                    }
                    Outcome::Full => return Err(self.full(&candidates, &verdicts).await),
                    Outcome::Gone => return Err(blob::gone()),
                    Outcome::Stale | Outcome::Expired => stale.push(partition),
                }
            }
            for parent in parents.keys() {
                self.cache().pop(parent);
            }
            if stale.is_empty() {
                return self.receipts(&candidates, &verdicts, manner).await;
            }
            for partition in stale {
                let found = self.find(&candidates, Some(partition)).await?;
                existing.extend(found.into_iter().filter(|(index, _)| !created.contains(index)));
            }
        }
        Err(StoreError::Unavailable("others submit the same tasks at the same time; try again".to_owned()))
    }

    fn candidate(&self, accepted: Accepted) -> Candidate {
        let task = &accepted.task;
        Candidate {
            key: task.key.as_ref().map(|key| key_digest(&task.pipeline, key)),
            group: task.supersede.as_ref().map(|group| group_digest(&task.pipeline, group)),
            partition: self.keys.of_task(accepted.id),
            accepted,
        }
    }

    /// Refuses rows of batches that were not opened.
    async fn know_batches(&self, candidates: &[Candidate]) -> Result<(), StoreError> {
        let named = candidates.iter().filter_map(|one| one.accepted.task.line.and(one.accepted.task.batch.as_ref()));
        let batches: HashSet<&BatchId> = named.collect();
        for batch in batches {
            if !self.batch_exists(batch).await? {
                return Err(super::batch::unknown(batch));
            }
        }
        Ok(())
    }

    /// Which of the submissions lead to tasks that are there, by key or by id.
    async fn find(&self, candidates: &[Candidate], only: Option<usize>) -> Result<Existing, StoreError> {
        let mut by_partition: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, one) in candidates.iter().enumerate() {
            if only.is_none_or(|partition| partition == one.partition) {
                by_partition.entry(one.partition).or_default().push(index);
            }
        }
        let searches = by_partition.into_iter().map(|(partition, indexes)| async move {
            let mut ids: Vec<TaskId> =
                indexes.iter().filter_map(|index| candidates.get(*index)).map(|one| one.accepted.id).collect();
            let keyed: Vec<(usize, &ShortDigest)> = indexes
                .iter()
                .enumerate()
                .filter_map(|(place, index)| Some((place, candidates.get(*index)?.key.as_ref()?)))
                .collect();
            for keyed in keyed.chunks(1_000) {
                let mut command = redis::cmd("HMGET");
                command.arg(self.keys.key(partition, b"keys"));
                for (_, key) in keyed {
                    command.arg(key.as_slice());
                }
                let owners = reply::list(ask(&self.link, &command).await?);
                for ((place, _), owner) in keyed.iter().zip(owners) {
                    let owner = reply::bytes(owner);
                    if let Some(id) = ids.get_mut(*place)
                        && !owner.is_empty()
                    {
                        *id = reply::task(&owner)?;
                    }
                }
            }
            let records = self.records(partition, &ids).await?;
            let found = indexes.into_iter().zip(ids).zip(records);
            Ok::<_, StoreError>(found.filter_map(|((index, id), r)| Some((index, (id, r?.state)))).collect::<Vec<_>>())
        });
        Ok(try_join_all(searches).await?.into_iter().flatten().collect())
    }

    /// The task that has an idempotency key.
    pub(super) async fn owner(&self, partition: usize, key: &ShortDigest) -> Result<Option<TaskId>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.key(partition, b"keys")).arg(key.as_slice());
        let owner = reply::bytes(ask(&self.link, &command).await?);
        if owner.is_empty() { Ok(None) } else { reply::task(&owner).map(Some) }
    }

    /// The parents of new tasks that are there before the call, each of which must be unfinished.
    async fn parents(
        &self,
        candidates: &[Candidate],
        verdicts: &[Verdict],
        created: &HashSet<usize>,
    ) -> Result<Desk, StoreError> {
        let mut parents = Desk::new();
        let mut own: HashSet<TaskId> = HashSet::new();
        let mut wanted = Vec::new();
        for (index, (one, verdict)) in candidates.iter().zip(verdicts).enumerate() {
            if *verdict != Verdict::New {
                continue;
            }
            if let Some(parent) = &one.accepted.task.parent
                && !own.contains(&parent.task)
                && !created.contains(&index)
            {
                wanted.push(parent.task);
            }
            own.insert(one.accepted.id);
        }
        if wanted.is_empty() {
            return Ok(parents);
        }
        wanted.sort_unstable();
        wanted.dedup();
        self.load(&wanted, &mut parents).await?;
        let refuse = |why: String| Err(StoreError::Refused(why));
        for task in wanted {
            match parents.get(&task) {
                Some(Found::Task(stored)) if stored.entry.state().is_terminal() => {
                    return refuse(format!("task {task} is done: it gets no more children"));
                }
                Some(Found::Task(_)) => {}
                Some(Found::Unreadable(unreadable)) => return Err(unreadable.damage()),
                _ => return refuse(format!("there is no task {task} to be the parent of another")),
            }
        }
        Ok(parents)
    }

    /// How many tasks a partition may hold in each queue: what the other partitions leave of the limit. A count over
    /// all partitions is made for queues only that are near to it.
    pub(super) async fn room(&self, new: BTreeMap<&str, u64>) -> Result<HashMap<(usize, String), u64>, StoreError> {
        let limit = self.options.limits.queue_depth;
        let mut room = HashMap::new();
        if self.keys.count() == 1 {
            room.extend(new.keys().map(|queue| ((0, (*queue).to_owned()), limit)));
            return Ok(room);
        }
        for (queue, new) in new {
            if self.depths.is_far(queue, new, limit.saturating_sub(NEAR)) {
                continue;
            }
            let depths = self.depth(queue).await?;
            let depth: u64 = depths.iter().sum();
            self.depths.counted(queue, depth.saturating_add(new));
            if depth.saturating_add(new) > limit {
                return Err(too_deep(queue, depth, new, limit));
            }
            for (partition, own) in depths.into_iter().enumerate() {
                room.insert((partition, queue.to_owned()), limit.saturating_sub(depth - own));
            }
        }
        Ok(room)
    }

    async fn full(&self, candidates: &[Candidate], verdicts: &[Verdict]) -> StoreError {
        let limit = self.options.limits.queue_depth;
        let mut new: BTreeMap<&str, u64> = BTreeMap::new();
        for (one, verdict) in candidates.iter().zip(verdicts) {
            *new.entry(one.accepted.task.queue.as_str()).or_default() += u64::from(*verdict == Verdict::New);
        }
        for (queue, new) in new {
            match self.depth(queue).await {
                Ok(depths) if depths.iter().sum::<u64>().saturating_add(new) > limit => {
                    return too_deep(queue, depths.iter().sum(), new, limit);
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
        StoreError::Unavailable("a queue was full a moment ago; try again".to_owned())
    }

    /// How many tasks of a queue are ready or scheduled, by partition.
    pub(super) async fn depth(&self, queue: &str) -> Result<Vec<u64>, StoreError> {
        let counts = (0..self.keys.count()).map(|partition| async move {
            let mut command = redis::cmd("HMGET");
            command.arg(self.keys.key(partition, b"n"));
            command.arg(keys::counter(StateName::Scheduled, queue)).arg(keys::counter(StateName::Ready, queue));
            let counts = reply::list(ask(&self.link, &command).await?);
            Ok::<u64, StoreError>(counts.iter().map(reply::counter).sum())
        });
        try_join_all(counts).await
    }

    /// What is to be written, by partition, with the submissions that are new there.
    fn units(
        &self,
        candidates: &[Candidate],
        verdicts: &[Verdict],
        created: &HashSet<usize>,
        parents: &Desk,
        room: &HashMap<(usize, String), u64>,
        manner: Manner,
    ) -> BTreeMap<usize, (Unit, Vec<usize>)> {
        let mut units: BTreeMap<usize, (Unit, Vec<usize>)> = BTreeMap::new();
        let mut new_in_queue: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        let mut families: HashSet<TaskId> = verdicts
            .iter()
            .zip(candidates)
            .filter(|(verdict, _)| **verdict == Verdict::New)
            .filter_map(|(_, one)| one.accepted.task.parent.as_ref().map(|parent| parent.task))
            .collect();
        for (index, (one, verdict)) in candidates.iter().zip(verdicts).enumerate() {
            let (id, task) = (one.accepted.id, &one.accepted.task);
            let (unit, new) = units.entry(one.partition).or_default();
            if *verdict == Verdict::New && !created.contains(&index) {
                new.push(index);
                *new_in_queue.entry((one.partition, task.queue.as_str())).or_default() += 1;
                if let Some(key) = &one.key {
                    unit.expect_no_key(key);
                }
                let entry = one.accepted.entry(manner.now);
                let event = element(manner.now, &one.accepted.event, entry.hash);
                let seal = self.options.seal.as_ref().and_then(|key| entry.sealed(key));
                let family = families.remove(&id);
                let batch = task.line.and(task.batch.clone());
                let extra = Extra { key: one.key, group: one.group, batch, family, snapshot: 0, seal };
                change::bear(unit, &entry, &extra, self.stamp(), &[event], manner);
                for name in &one.accepted.blobs {
                    unit.use_blob(id, name);
                }
                if let Some(group) = &one.group {
                    let note = [group.as_slice(), &millis(manner.now).to_be_bytes()].concat();
                    unit.command("HSET", b"notes".to_vec(), [id.as_uuid().as_bytes().to_vec(), note]);
                }
            }
            if let (Some(line), Some(batch)) = (task.line, &task.batch) {
                let (id, known) = match verdict {
                    Verdict::New => (id, false),
                    Verdict::Known(id, _) => (*id, true),
                    Verdict::Again(first) => (candidates.get(*first).map_or(id, |one| one.accepted.id), true),
                };
                unit.row(batch, line, id, known);
            }
        }
        for ((partition, queue), new) in new_in_queue {
            if let Some(limit) = room.get(&(partition, queue.to_owned()))
                && let Some((unit, _)) = units.get_mut(&partition)
            {
                unit.expect_room(queue, new, *limit);
            }
        }
        for (task, found) in parents {
            let partition = self.keys.of_task(*task);
            if let (Found::Task(stored), Some((unit, _))) = (found, units.get_mut(&partition)) {
                unit.expect(*task, stored.stamp, false);
                change::note_family(unit, stored, self.stamp());
            }
        }
        units
    }

    async fn receipts(
        &self,
        candidates: &[Candidate],
        verdicts: &[Verdict],
        manner: Manner,
    ) -> Result<Vec<Receipt>, StoreError> {
        let mut receipts: Vec<Receipt> = Vec::with_capacity(candidates.len());
        let mut hints = Vec::new();
        let mut superseded = HashSet::new();
        for (one, verdict) in candidates.iter().zip(verdicts) {
            let (id, task) = (one.accepted.id, &one.accepted.task);
            receipts.push(match verdict {
                Verdict::Known(id, state) => Receipt { id: *id, state: *state, created: false },
                Verdict::Again(first) => {
                    let (id, state) =
                        receipts.get(*first).map_or((id, StateName::Ready), |first| (first.id, first.state));
                    Receipt { id, state, created: false }
                }
                Verdict::New => {
                    let ready = task.run_at.is_none_or(|at| at <= manner.now);
                    if ready && manner.hints {
                        let (queue, priority) = (task.queue.clone(), task.priority.min(9));
                        hints.push(Hint { task: id, version: 1, queue, priority });
                    }
                    let state = if ready { StateName::Ready } else { StateName::Scheduled };
                    Receipt { id, state, created: true }
                }
            });
        }
        if let Some(doorbell) = self.options.doorbell.as_ref().filter(|_| !hints.is_empty()) {
            doorbell.ring(hints);
        }
        for (one, verdict) in candidates.iter().zip(verdicts) {
            if let (Verdict::New, Some(group)) = (verdict, &one.group) {
                superseded.extend(self.supersede(one.accepted.id, group, manner.now, false).await?);
            }
        }
        for receipt in receipts.iter_mut().filter(|receipt| superseded.contains(&receipt.id)) {
            receipt.state = StateName::Cancelled;
        }
        Ok(receipts)
    }
}

/// How many tasks each queue gets.
fn count_new<'a>(
    candidates: &'a [Candidate],
    verdicts: &[Verdict],
    created: &HashSet<usize>,
) -> BTreeMap<&'a str, u64> {
    let mut new: BTreeMap<&str, u64> = BTreeMap::new();
    for (index, (one, verdict)) in candidates.iter().zip(verdicts).enumerate() {
        if *verdict == Verdict::New && !created.contains(&index) {
            *new.entry(one.accepted.task.queue.as_str()).or_default() += 1;
        }
    }
    new
}

fn too_deep(queue: &str, depth: u64, new: u64, limit: u64) -> StoreError {
    StoreError::Refused(format!(
        "queue {queue} holds {depth} tasks that are ready or scheduled, and {new} more would be over its limit of {limit} \
         (limits.queue_depth); try again when some are done"
    ))
}

/// What each submission is, as far as is known.
fn judge(candidates: &[Candidate], existing: &Existing) -> Vec<Verdict> {
    let mut by_id: HashMap<TaskId, usize> = HashMap::with_capacity(candidates.len());
    let mut by_key: HashMap<&ShortDigest, usize> = HashMap::new();
    let mut verdicts = Vec::with_capacity(candidates.len());
    for (index, one) in candidates.iter().enumerate() {
        let earlier = one.key.as_ref().and_then(|key| by_key.get(key)).or_else(|| by_id.get(&one.accepted.id));
        let verdict = match (earlier, existing.get(&index)) {
            (Some(first), _) => Verdict::Again(*first),
            (None, Some((id, state))) => Verdict::Known(*id, *state),
            (None, None) => Verdict::New,
        };
        if verdict == Verdict::New {
            by_id.insert(one.accepted.id, index);
            by_key.extend(one.key.as_ref().map(|key| (key, index)));
        }
        verdicts.push(verdict);
    }
    verdicts
}
