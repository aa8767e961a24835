//! A unit of work for the server: what must still be so, and what is to be
//! written then, all or nothing. Pure: `commit.lua` reads what this writes.

use std::collections::{BTreeMap, HashMap};

use super::keys;
use super::record::{Record, ShortDigest, Stamp};
use super::scripts::Args;
use crate::clock::Timestamp;
use crate::id::{BatchId, BlobName, TaskId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unit {
    checks: Args,
    keys: Args,
    blobs: Args,
    depths: Args,
    births: Args,
    writes: Args,
    write_count: u32,
    operations: Vec<Operation>,
    places: HashMap<(&'static str, Vec<u8>), usize>,
    sums: BTreeMap<(Vec<u8>, Vec<u8>), i64>,
}

/// A command with its key and arguments. Those of a group of units with the same key become one command.
#[derive(Debug)]
struct Operation {
    command: &'static str,
    key: Vec<u8>,
    args: Vec<Vec<u8>>,
}

/// What became of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is written.
    Done,
    /// Something that it was planned upon has changed: nothing was written.
    Stale,
    /// The lease that it needs is over: nothing was written.
    Expired,
    /// A queue would be too deep: nothing was written.
    Full,
    /// It refers to a blob that is not kept: nothing was written.
    Gone,
}

/// An event as it stands in a journal: the time in milliseconds, then the event as JSON.
pub(super) fn element(at: Timestamp, event: &str) -> Vec<u8> {
    let mut element = Vec::with_capacity(event.len() + 14);
    element.extend(super::record::millis(at).to_string().as_bytes());
    element.extend(event.as_bytes());
    element
}

impl Unit {
    /// The task must be as it was when it had this stamp; with `alive`, its lease must hold now.
    pub(super) fn expect(&mut self, task: TaskId, stamp: Stamp, alive: bool) {
        let mut check = Vec::with_capacity(25);
        check.extend(task.as_uuid().into_bytes());
        check.extend(stamp);
        if alive {
            check.push(b'L');
        }
        self.checks.push(check);
    }

    /// There must be no such task.
    pub(super) fn expect_none(&mut self, task: TaskId) {
        self.checks.push(task.as_uuid().as_bytes());
    }

    /// No task may have this idempotency key.
    pub(super) fn expect_no_key(&mut self, key: &ShortDigest) {
        self.keys.push(key);
    }

    /// The task uses a blob from now on, which must be kept.
    pub(super) fn use_blob(&mut self, task: TaskId, name: &BlobName) {
        let name = name.to_string();
        self.blobs.push(&name);
        self.command("ZREM", b"unused".to_vec(), [name.clone().into_bytes()]);
        self.command("SADD", keys::named("U", &name), [task.as_uuid().as_bytes().to_vec()]);
        self.command("SADD", keys::of(b'w', task), [name.into_bytes()]);
    }

    /// The task goes: it uses no blob any more.
    pub(super) fn quit_blobs(&mut self, task: TaskId) {
        self.command("QUIT", task.as_uuid().as_bytes().to_vec(), []);
    }

    /// With `new` more, no more than `limit` tasks of the queue may be ready or scheduled in this partition.
    pub(super) fn expect_room(&mut self, queue: &str, new: u64, limit: u64) {
        self.depths.push(queue);
        self.depths.number(new);
        // Lua knows whole numbers up to 2^53.
        self.depths.number(limit.min(1 << 52));
    }

    /// A new task with its first event; there must be none of its id.
    pub(super) fn bear(&mut self, task: TaskId, record: &Record, event: &[u8]) {
        self.births.push(task.as_uuid().as_bytes());
        self.births.push(record.encode());
        self.births.push(event);
    }

    /// A task's new record, and the events to be added. With `keep`, the end of its lease stays as it is there.
    pub(super) fn write(&mut self, task: TaskId, record: &Record, keep: bool, events: &[Vec<u8>]) {
        let mut what = Vec::with_capacity(21);
        what.extend(task.as_uuid().into_bytes());
        what.push(if keep { b'L' } else { b'-' });
        what.extend(u32::try_from(events.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.writes.push(what);
        self.writes.push(record.encode());
        for event in events {
            self.writes.push(event);
        }
        self.write_count += 1;
    }

    /// Does a command on a key.
    pub(super) fn command<const N: usize>(&mut self, command: &'static str, key: Vec<u8>, args: [Vec<u8>; N]) {
        // Removals of list elements and notes of rows are not to be put together.
        if matches!(command, "LREM" | "ROW" | "$") {
            self.operations.push(Operation { command, key, args: args.into() });
            return;
        }
        let place = *self.places.entry((command, key)).or_insert_with_key(|(command, key)| {
            self.operations.push(Operation { command, key: key.clone(), args: Vec::new() });
            self.operations.len() - 1
        });
        if let Some(operation) = self.operations.get_mut(place) {
            operation.args.extend(args);
        }
    }

    /// Adds to a counter.
    pub(super) fn count(&mut self, key: &[u8], field: Vec<u8>, by: i64) {
        *self.sums.entry((key.to_vec(), field)).or_default() += by;
    }

    /// Adds dollars to the cost of a batch.
    pub(super) fn cost(&mut self, batch: &str, dollars: f64) {
        self.command("$", keys::named("bn", batch), [b"c".to_vec(), dollars.to_string().into_bytes()]);
    }

    /// Notes a row of a batch; `known`, if its task existed before.
    pub(super) fn row(&mut self, batch: &BatchId, line: u64, task: TaskId, known: bool) {
        let mark = if known { b"D" } else { b"N" };
        let member = [mark.as_slice(), task.as_uuid().as_bytes(), &line.to_be_bytes()].concat();
        self.command("ROW", batch.as_str().as_bytes().to_vec(), [line.to_string().into_bytes(), member]);
    }

    /// Puts a task into a sorted set of ids.
    pub(super) fn list_under(&mut self, key: &str, task: TaskId) {
        self.command("ZADD", key.as_bytes().to_vec(), [b"0".to_vec(), task.as_uuid().as_bytes().to_vec()]);
    }

    /// Takes a task out of a sorted set.
    pub(super) fn strike(&mut self, key: &[u8], task: TaskId) {
        self.command("ZREM", key.to_vec(), [task.as_uuid().as_bytes().to_vec()]);
    }

    /// Whether it would do anything.
    pub(super) fn is_empty(&self) -> bool {
        self.births.len() == 0 && self.write_count == 0 && self.operations.is_empty() && self.sums.is_empty()
    }

    /// As arguments of the script.
    pub(super) fn encode(self) -> Args {
        let mut operations = Args::default();
        let mut count = 0;
        for operation in self.operations {
            operations.push(number(operation.args.len()));
            operations.push(operation.command);
            operations.push(&operation.key);
            for argument in &operation.args {
                operations.push(argument);
            }
            count += 1;
        }
        for ((key, field), by) in self.sums.into_iter().filter(|(_, by)| *by != 0) {
            operations.push(number(2));
            operations.push("+");
            operations.push(&key);
            operations.push(&field);
            operations.number(by);
            count += 1;
        }
        let parts = [&self.checks, &self.keys, &self.blobs, &self.depths, &self.births, &self.writes, &operations];
        let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut header = Vec::with_capacity(32);
        let (depths, births) = (self.depths.len() / 3, self.births.len() / 3);
        for part in [length, self.checks.len(), self.keys.len(), self.blobs.len(), depths, births] {
            header.extend(number(part));
        }
        header.extend(self.write_count.to_be_bytes());
        header.extend(number(count));
        let mut args = Args::default();
        args.push(header);
        for part in parts {
            args.append(part);
        }
        args
    }
}

fn number(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_counts_what_follows() {
        let mut unit = Unit::default();
        assert!(unit.is_empty());
        let task = TaskId::from_bytes([1; 16]);
        unit.expect(task, [2; 8], true);
        unit.list_under("open", task);
        unit.list_under("open", TaskId::from_bytes([3; 16]));
        unit.count(b"n", b"1q".to_vec(), 1);
        unit.count(b"n", b"1q".to_vec(), 1);
        unit.count(b"n", b"0q".to_vec(), 0);
        let args = unit.encode();
        let header: Vec<u8> = [14_u32, 1, 0, 0, 0, 0, 0, 2].into_iter().flat_map(u32::to_be_bytes).collect();
        let all: Vec<&[u8]> = args.iter().collect();
        assert_eq!(all.first(), Some(&header.as_slice()));
        assert_eq!(all.len(), 14, "the header says how many arguments the unit has");
        assert_eq!(all.last(), Some(&b"2".as_slice()));
    }
}
