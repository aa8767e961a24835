//! A unit of work for the server: what must still be so, and what is to be
//! written then, all or nothing. Pure: `commit.lua` reads what this writes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys;
use super::record::{Record, ShortDigest, Stamp};
use super::scripts::Args;
use crate::clock::Timestamp;
use crate::id::{BatchId, BlobName, TaskId};
use crate::journal::{Chained, EventHash};

/// Arguments of the script before the first unit: the time, the channel, and the header.
const BEFORE_UNITS: usize = 3;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// Tasks and idempotency keys that it rests upon or writes: no two units of a group have the same.
    touched: Vec<[u8; 16]>,
    checks: Args,
    keys: Args,
    blobs: Args,
    depths: Args,
    births: Args,
    writes: Args,
    write_count: u32,
    operations: Vec<Operation<Vec<u8>>>,
    places: HashMap<(&'static str, Vec<u8>), usize>,
    sums: BTreeMap<(Vec<u8>, Vec<u8>), i64>,
}

/// A command with its key and arguments. Those of a group of units with the same key become one command.
#[derive(Debug)]
struct Operation<B> {
    command: &'static str,
    key: B,
    args: Vec<B>,
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

/// What an event's hash stands behind in its JSON: a field that versions without chains do not look at.
const HASH: &str = ",\"#\":\"";

/// An event as it stands in a journal: the time in milliseconds, then the event as JSON with its hash as a last field.
pub(super) fn element(at: Timestamp, event: &str, hash: Option<EventHash>) -> Vec<u8> {
    let mut element = Vec::with_capacity(event.len() + 68);
    element.extend(super::record::millis(at).to_string().as_bytes());
    match (event.strip_suffix('}'), hash) {
        (Some(open), Some(hash)) => {
            element.extend(open.as_bytes());
            element.extend(HASH.as_bytes());
            element.extend(URL_SAFE_NO_PAD.encode(hash.as_bytes()).as_bytes());
            element.extend(b"\"}");
        }
        _ => element.extend(event.as_bytes()),
    }
    element
}

/// The reverse of [`element`]; nothing if it has no time.
pub(super) fn chained(seq: u64, element: &[u8]) -> Option<Chained> {
    let start = element.iter().position(|byte| *byte == b'{')?;
    let (at, json) = element.split_at(start);
    let at = Timestamp::from_millis(std::str::from_utf8(at).ok()?.parse().ok()?);
    let json = String::from_utf8_lossy(json);
    let hash = json.len().checked_sub(HASH.len() + 43 + 2).and_then(|end| {
        let text = json.get(end..)?.strip_prefix(HASH)?.strip_suffix("\"}")?;
        let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        Some((end, EventHash::from_bytes(bytes)))
    });
    Some(match hash {
        Some((end, hash)) => {
            Chained { seq, at, event: format!("{}}}", json.get(..end).unwrap_or_default()), hash: Some(hash) }
        }
        None => Chained { seq, at, event: json.into_owned(), hash: None },
    })
}

impl Unit {
    /// The task must be as it was when it had this stamp; with `alive`, its lease must hold now.
    pub(super) fn expect(&mut self, task: TaskId, stamp: Stamp, alive: bool) {
        self.touched.push(task.as_uuid().into_bytes());
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
        self.touched.push(task.as_uuid().into_bytes());
        self.checks.push(task.as_uuid().as_bytes());
    }

    /// No task may have this idempotency key.
    pub(super) fn expect_no_key(&mut self, key: &ShortDigest) {
        self.touched.push(*key);
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
        self.touched.push(task.as_uuid().into_bytes());
        self.births.push(task.as_uuid().as_bytes());
        self.births.push(record.encode());
        self.births.push(event);
    }

    /// A task's new record, and the events to be added. With `keep`, the end of its lease stays as it is there.
    pub(super) fn write(&mut self, task: TaskId, record: &Record, keep: bool, events: &[Vec<u8>]) {
        self.touched.push(task.as_uuid().into_bytes());
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
        if is_alone(command) {
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

    /// The tasks and idempotency keys that it rests upon or writes.
    pub(super) fn touched(&self) -> &[[u8; 16]] {
        &self.touched
    }

    /// How many bytes it is, about.
    pub(super) fn bytes(&self) -> usize {
        let operations = self.operations.iter().flat_map(|operation| &operation.args).map(Vec::len).sum::<usize>();
        self.checks.bytes() + self.births.bytes() + self.writes.bytes() + operations
    }

    /// Whether it would do anything.
    pub(super) fn is_empty(&self) -> bool {
        self.births.len() == 0 && self.write_count == 0 && self.operations.is_empty() && self.sums.is_empty()
    }
}

/// Units as arguments of the script: what each needs, then what all of them write, commands on the same key put
/// together. Everything that is taken away goes before everything that is added.
pub(super) fn encode<'u>(units: impl Iterator<Item = &'u Unit> + Clone) -> Args {
    let mut args = Args::default();
    let (mut count, mut births, mut writes) = (0, Args::default(), Args::default());
    let mut write_count: u32 = 0;
    let mut needs = Args::default();
    for unit in units.clone() {
        let (depths, born) = (unit.depths.len() / 3, unit.births.len() / 3);
        let mut header = Vec::with_capacity(20);
        for part in [unit.checks.len(), unit.keys.len(), unit.blobs.len(), depths, born] {
            header.extend(number(part));
        }
        needs.push(header);
        for part in [&unit.checks, &unit.keys, &unit.blobs, &unit.depths] {
            needs.append(part);
        }
        births.append(&unit.births);
        writes.append(&unit.writes);
        write_count += unit.write_count;
        count += 1;
    }
    let operations = together(units);
    let mut header = Vec::with_capacity(20);
    for part in [count, BEFORE_UNITS + needs.len() + 1, births.len() / 3] {
        header.extend(number(part));
    }
    header.extend(write_count.to_be_bytes());
    header.extend(number(operations.len()));
    args.push(header);
    for part in [&needs, &births, &writes] {
        args.append(part);
    }
    for Operation { command, key, args: arguments } in operations {
        args.push(number(arguments.len()));
        args.push(command);
        args.push(key);
        for argument in arguments {
            args.push(argument);
        }
    }
    args
}

/// The operations of units, in the order in which they are done.
fn together<'u>(units: impl Iterator<Item = &'u Unit> + Clone) -> Vec<Operation<Cow<'u, [u8]>>> {
    let mut all: Vec<Operation<Cow<'u, [u8]>>> = Vec::new();
    let mut places: HashMap<(&str, &[u8]), usize> = HashMap::new();
    for operation in units.clone().flat_map(|unit| &unit.operations) {
        let arguments = operation.args.iter().map(|argument| Cow::Borrowed(argument.as_slice()));
        let new = |all: &mut Vec<_>| {
            all.push(Operation {
                command: operation.command,
                key: Cow::Borrowed(&operation.key[..]),
                args: Vec::new(),
            });
            all.len() - 1
        };
        let place = if is_alone(operation.command) {
            new(&mut all)
        } else {
            *places.entry((operation.command, &operation.key)).or_insert_with(|| new(&mut all))
        };
        if let Some(operation) = all.get_mut(place) {
            operation.args.extend(arguments);
        }
    }
    let mut sums: BTreeMap<&[u8], BTreeMap<&[u8], i64>> = BTreeMap::new();
    for ((key, field), by) in units.flat_map(|unit| &unit.sums) {
        *sums.entry(key).or_default().entry(field).or_default() += by;
    }
    for (key, fields) in sums {
        let fields = fields.into_iter().filter(|(_, by)| *by != 0);
        let args: Vec<Cow<'u, [u8]>> =
            fields.flat_map(|(field, by)| [Cow::Borrowed(field), Cow::Owned(by.to_string().into_bytes())]).collect();
        if !args.is_empty() {
            all.push(Operation { command: "+", key: Cow::Borrowed(key), args });
        }
    }
    all.sort_by_key(|operation| rank(operation.command));
    all
}

/// Removals of list elements, costs and notes of rows are not to be put together.
fn is_alone(command: &str) -> bool {
    matches!(command, "LREM" | "ROW" | "$")
}

/// When a command's turn is.
fn rank(command: &str) -> u8 {
    match command {
        "ZREM" | "SREM" | "HDEL" | "LREM" | "UNLINK" => 0,
        "QUIT" => 2,
        "+" => 3,
        "$" => 4,
        "ROW" => 5,
        _ => 1,
    }
}

fn number(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(n: u8) -> TaskId {
        TaskId::from_bytes([n; 16])
    }

    fn header(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    #[test]
    fn an_element_is_read_as_it_was_written_with_a_hash_and_without() {
        let at = Timestamp::from_millis(-5);
        for hash in [None, Some(EventHash::from_bytes([0xFB; 32]))] {
            for event in ["{\"type\":\"x\"}", "{\"type\":\"é\",\"v\":{\"#\":\"y\"}}"] {
                let read = chained(7, &element(at, event, hash));
                assert_eq!(read, Some(Chained { seq: 7, at, event: event.to_owned(), hash }));
            }
        }
        assert_eq!(chained(1, b"no event"), None);
        assert_eq!(chained(1, br#"x{"type":"x"}"#), None);
    }

    #[test]
    fn headers_count_what_follows() {
        let mut one = Unit::default();
        assert!(one.is_empty());
        one.expect(task(1), [2; 8], true);
        one.expect_room("leads", 1, 10);
        let mut other = Unit::default();
        other.expect(task(3), [2; 8], false);
        let args = encode([&one, &other].into_iter());
        let all: Vec<&[u8]> = args.iter().collect();
        assert_eq!(
            all.first(),
            Some(&header(&[2, 11, 0, 0, 0]).as_slice()),
            "the births begin at argument 11 of the script"
        );
        assert_eq!(all.get(1), Some(&header(&[1, 0, 0, 1, 0]).as_slice()));
        assert_eq!(all.get(6), Some(&header(&[1, 0, 0, 0, 0]).as_slice()));
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn units_do_things_to_the_same_key_together_and_take_away_before_they_add() {
        let mut one = Unit::default();
        one.list_under("open", task(1));
        one.count(b"n", b"1q".to_vec(), 1);
        one.count(b"n", b"2q".to_vec(), 1);
        let mut other = Unit::default();
        other.list_under("open", task(2));
        other.strike(b"open", task(3));
        other.count(b"n", b"1q".to_vec(), 1);
        other.count(b"n", b"2q".to_vec(), -1);
        let all = together([&one, &other].into_iter());
        let commands: Vec<(&str, usize)> =
            all.iter().map(|operation| (operation.command, operation.args.len())).collect();
        assert_eq!(commands, [("ZREM", 1), ("ZADD", 4), ("+", 2)]);
        assert_eq!(all.last().map(|sum| sum.args.clone()), Some(vec![Cow::from(&b"1q"[..]), Cow::from(&b"2"[..])]));
    }
}
