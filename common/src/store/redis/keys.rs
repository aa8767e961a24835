//! The names of keys. `PREFIX:meta` says what the others look like; all others
//! begin with `PREFIX:{P}:`, where `P` is the number of their partition: the
//! braces make a cluster keep a partition on one node.
//!
//! | key | what |
//! |---|---|
//! | `t`ID | list: the record of a task, then its journal |
//! | `h`ID | the head of a task as its newest snapshot has it |
//! | `i`ID | list: signals that wait for the holder |
//! | `c`ID, `u`ID | zset: all children; set: the unfinished ones |
//! | `q:`QUEUE | zset: ready tasks by priority and age |
//! | `due` | zset: timers and leases by time |
//! | `open`, `done`, `failed`, `ask` | zsets, by id: unfinished tasks; succeeded; cancelled and dead; those that ask a person |
//! | `f`, `d` | lists: finished tasks and dead letters in the order in which they finished, for retention |
//! | `ft`, `dt` | zsets, by time: those of them that came in another order |
//! | `blobs` | hash: the names of kept blobs by house and content |
//! | `B:`NAME, `U:`NAME | the bytes of a blob; set: the tasks that use it |
//! | `w`ID | set: the blobs that a task uses |
//! | `unused`, `condemned` | zset: blobs that no task uses, by time; set: those to be removed elsewhere |
//! | `n` | hash: how many tasks of a queue are in a state, and what retention counts |
//! | `keys` | hash: idempotency keys by their digest |
//! | `outbox` | zset: hints that the broker may not have |
//! | `notes` | hash: tasks whose elders of the same group are to be cancelled still |
//! | `g:`GROUP | zset: tasks of a group, in the group's own partition |
//! | `bn:`BATCH, `br:`BATCH, `bd:`BATCH | counts of a batch; its rows by line; its tasks that existed before |
//! | `b:`BATCH, `bx:`BATCH, `over` | in the batch's own partition: what was opened; rejected rows by line; closed batches by age |
//! | `meters`, `reservations`, `halts` | in partition 0: hashes of JSON |
//! | `sessions` | in partition 0: hash of a line of JSON and a body |
//! | `names`, `looks` | in partition 0, zsets: the meters by name; meters and reservations by when they are to be looked at |
//! | `definitions`, `current`, `schedules`, `paused`, `health` | in partition 0, the last in each |

use crate::id::{BatchId, GroupKey, IdempotencyKey, PipelineName, Shard, TaskId};

use super::record::{ShortDigest, digit};
use crate::task::StateName;

/// The version of what is kept and how. A store of another version is refused.
pub(super) const SCHEMA: u64 = 1;

/// Where the keys of a store are.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    partitions: Vec<Vec<u8>>,
}

impl Keys {
    pub(super) fn new(prefix: &str, partitions: u16) -> Self {
        let partitions = (0..partitions.max(1)).map(|number| format!("{prefix}:{{{number}}}:").into_bytes()).collect();
        Self { prefix: prefix.to_owned(), partitions }
    }

    /// What says how the others look.
    pub(super) fn meta(prefix: &str) -> String {
        format!("{prefix}:meta")
    }

    /// The channel on which queues are named that got something ready.
    pub(super) fn channel(&self) -> String {
        format!("{}:ready", self.prefix)
    }

    /// How many partitions there are.
    pub(super) fn count(&self) -> usize {
        self.partitions.len()
    }

    /// What all keys of a partition begin with.
    pub(super) fn partition(&self, number: usize) -> &[u8] {
        self.partitions.get(number).map_or(&[], Vec::as_slice)
    }

    /// A key in a partition.
    pub(super) fn key(&self, partition: usize, name: &[u8]) -> Vec<u8> {
        [self.partition(partition), name].concat()
    }

    /// The partition that a task lies in.
    pub(super) fn of_task(&self, task: TaskId) -> usize {
        self.of_shard(task.shard())
    }

    /// The partition that a batch has its header in.
    pub(super) fn of_batch(&self, batch: &BatchId) -> usize {
        self.of_shard(Shard::of_text(&["batch", batch.as_str()]))
    }

    /// The partition in which the tasks of a group are put in order.
    pub(super) fn of_group(&self, group: &ShortDigest) -> usize {
        let [first, second, ..] = *group;
        usize::from(u16::from_le_bytes([first, second])) % self.count()
    }

    /// The partition of a shard.
    pub(super) fn of_shard(&self, shard: Shard) -> usize {
        usize::from(shard.number()) % self.count()
    }
}

/// A key of a task: a letter and the bytes of its id.
pub(super) fn of(letter: u8, task: TaskId) -> Vec<u8> {
    let mut name = Vec::with_capacity(17);
    name.push(letter);
    name.extend(task.as_uuid().into_bytes());
    name
}

/// A key of a named thing: `q:leads`.
pub(super) fn named(kind: &str, name: &str) -> Vec<u8> {
    [kind.as_bytes(), b":", name.as_bytes()].concat()
}

/// The key of a group.
pub(super) fn of_group(group: &ShortDigest) -> Vec<u8> {
    [b"g:", group.as_slice()].concat()
}

/// The field that counts the tasks of a queue in a state.
pub(super) fn counter(state: StateName, queue: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(1 + queue.len());
    name.push(digit(state));
    name.extend(queue.as_bytes());
    name
}

/// The digest of an idempotency key.
pub(super) fn key_digest(pipeline: &PipelineName, key: &IdempotencyKey) -> ShortDigest {
    digest(&["key", pipeline.as_str(), key.as_str()])
}

/// The digest of a supersede group.
pub(super) fn group_digest(pipeline: &PipelineName, group: &GroupKey) -> ShortDigest {
    digest(&["group", pipeline.as_str(), group.as_str()])
}

fn digest(texts: &[&str]) -> ShortDigest {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let mut short = [0; 16];
    hasher.finalize_xof().fill(&mut short);
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_keys_of_a_partition_share_a_hash_tag() {
        let keys = Keys::new("teamster", 4);
        let task = TaskId::from_bytes([255; 16]);
        assert_eq!(keys.of_task(task), 0xfff % 4);
        assert!(keys.key(keys.of_task(task), &of(b't', task)).starts_with(b"teamster:{3}:t\xff"));
    }

    #[test]
    fn digests_tell_pipelines_keys_and_groups_apart() {
        let (a, ab) = (PipelineName::new("a").unwrap(), PipelineName::new("ab").unwrap());
        let key = |text: &str| IdempotencyKey::new(text).unwrap();
        assert_ne!(key_digest(&a, &key("bc")), key_digest(&ab, &key("c")));
        assert_ne!(key_digest(&a, &key("c")), group_digest(&a, &GroupKey::new("c").unwrap()));
    }
}
