//! The record of a task: the little that scripts must know of it, in a form that
//! Lua reads with `struct.unpack`. It is the first element of the list that holds
//! the task's journal, so that event number `n` is element `n` of that list.
//!
//! The layout is a file format, named by [`super::keys::SCHEMA`]; `prelude.lua`
//! knows the same offsets. Numbers are big-endian.

use crate::clock::Timestamp;
use crate::id::{AppendId, BatchId, LeaseToken, QueueName, TaskId};
use crate::journal::Seal;
use crate::store::book::{Entry, LastAppend, Lease};
use crate::task::{State, StateName};

/// What a digest of a name is cut to: enough that no two names meet.
pub(super) type ShortDigest = [u8; 16];
/// A random mark that every change of a task renews (renewals of its lease apart): whoever finds the mark that
/// it knows finds the task as it knows it, also after a failover that lost the newest writes.
pub(super) type Stamp = [u8; 8];

const SET_ASIDE: u8 = 1;
const FAMILY: u8 = 2;
const PARENT: u8 = 4;
const KEY: u8 = 8;
const GROUP: u8 = 16;
const BATCH: u8 = 32;
const APPENDED: u8 = 64;
const SEALED: u8 = 128;
/// The length of the part that every record has.
const FIXED: usize = 100;
/// Scores and Lua know whole numbers up to 2^53: times are kept below.
const LATEST: i64 = 1 << 52;
/// Room for a time, in milliseconds, below the priority in the score of a ready task (until the year 2248).
const AGES: i64 = 1 << 43;

/// What is kept of a task beside what its journal says. Never changes, the last three apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extra {
    /// The digest of its pipeline and idempotency key.
    pub(super) key: Option<ShortDigest>,
    /// The digest of its pipeline and supersede group.
    pub(super) group: Option<ShortDigest>,
    /// The batch of which a row made it.
    pub(super) batch: Option<BatchId>,
    /// Whether it has or had children.
    pub(super) family: bool,
    /// The number of the event up to which a snapshot of its head is kept; 0 for none.
    pub(super) snapshot: u64,
    /// The newest seal of its journal.
    pub(super) seal: Option<Seal>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) stamp: Stamp,
    pub(super) lease: Option<Lease>,
    /// The state that it counts under.
    pub(super) state: StateName,
    pub(super) set_aside: bool,
    pub(super) priority: u8,
    pub(super) queue: QueueName,
    pub(super) version: u64,
    pub(super) attempts: u32,
    /// How many signals wait for its holder.
    pub(super) kept: u32,
    pub(super) journal_bytes: u64,
    /// Since when it is ready, until when it waits, when it finished, as its state has it.
    pub(super) at: Option<Timestamp>,
    pub(super) last_append: Option<LastAppend>,
    pub(super) cost_usd: f64,
    pub(super) parent: Option<TaskId>,
    pub(super) extra: Extra,
}

/// The time that goes with a state.
pub(super) fn time_of(entry: &Entry) -> Option<Timestamp> {
    match &entry.head.state {
        State::Scheduled { run_at } => Some(*run_at),
        State::Ready { since } => Some(*since),
        State::Running { .. } => None,
        State::Waiting { wait, .. } => wait.until,
        State::Succeeded { at } | State::Cancelled { at, .. } | State::Dead { at, .. } => Some(*at),
    }
}

/// The score of a ready task: by priority, then by age.
pub(super) fn ready_score(priority: u8, since: Timestamp) -> i64 {
    i64::from(9 - priority.min(9)) * AGES + since.as_millis().clamp(0, AGES - 1)
}

/// The reverse of [`ready_score`]: since when.
pub(super) fn ready_since(score: i64) -> Timestamp {
    Timestamp::from_millis(score.rem_euclid(AGES))
}

/// A time as a score or for a script.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.as_millis().clamp(-LATEST, LATEST)
}

fn narrow(number: u64) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()
}

impl Record {
    /// The record of a task as it is, or is to be.
    pub(super) fn of(entry: &Entry, kept: usize, extra: &Extra, stamp: Stamp) -> Self {
        let head = &entry.head;
        Self {
            stamp,
            lease: entry.lease,
            state: entry.state(),
            set_aside: entry.set_aside,
            priority: head.priority,
            queue: head.queue.clone(),
            version: head.version,
            attempts: head.attempts,
            kept: u32::try_from(kept).unwrap_or(u32::MAX),
            journal_bytes: entry.journal_bytes,
            at: time_of(entry),
            last_append: entry.last_append,
            cost_usd: head.usage.cost_usd,
            parent: head.parent.as_ref().map(|parent| parent.task),
            extra: extra.clone(),
        }
    }

    /// As it is written.
    pub(super) fn encode(&self) -> Vec<u8> {
        let batch = self.extra.batch.as_ref().map(BatchId::as_str);
        let mut bytes = Vec::with_capacity(FIXED + self.queue.as_str().len() + batch.map_or(0, |b| 1 + b.len()) + 48);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        bytes.extend(self.stamp);
        bytes.extend(self.lease.map_or(0, |lease| millis(lease.expires)).to_be_bytes());
        bytes.extend(self.lease.map_or([0; 16], |lease| *lease.token.as_bytes()));
        bytes.push(digit(self.state) - b'0');
        bytes.push(
            flag(self.set_aside, SET_ASIDE)
                | flag(self.extra.family, FAMILY)
                | flag(self.parent.is_some(), PARENT)
                | flag(self.extra.key.is_some(), KEY)
                | flag(self.extra.group.is_some(), GROUP)
                | flag(batch.is_some(), BATCH)
                | flag(self.last_append.is_some(), APPENDED)
                | flag(self.extra.seal.is_some(), SEALED),
        );
        bytes.push(self.priority);
        bytes.push(length(self.queue.as_str()));
        bytes.extend(narrow(self.version));
        bytes.extend(self.attempts.to_be_bytes());
        bytes.extend(self.kept.to_be_bytes());
        bytes.extend(self.journal_bytes.to_be_bytes());
        bytes.extend(self.at.map_or(i64::MIN, millis).to_be_bytes());
        bytes.extend(narrow(self.extra.snapshot));
        bytes.extend(narrow(self.last_append.map_or(0, |last| last.from)));
        bytes.extend(narrow(self.last_append.map_or(0, |last| last.to)));
        bytes.extend(self.last_append.map_or([0; 16], |last| *last.id.as_bytes()));
        bytes.extend(self.cost_usd.to_be_bytes());
        bytes.extend(self.queue.as_str().as_bytes());
        bytes.extend(self.parent.iter().flat_map(|parent| parent.as_uuid().into_bytes()));
        bytes.extend(self.extra.key.iter().flatten());
        bytes.extend(self.extra.group.iter().flatten());
        if let Some(batch) = batch {
            bytes.push(length(batch));
            bytes.extend(batch.as_bytes());
        }
        bytes.extend(self.extra.seal.iter().flat_map(Seal::to_bytes));
        bytes
    }

    /// As it was read; nothing if this is no record.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let stamp = chunk(&mut rest)?;
        let expires = Timestamp::from_millis(i64::from_be_bytes(chunk(&mut rest)?));
        let token = LeaseToken::new(chunk(&mut rest)?);
        let [state, flags, priority, queue_length] = chunk(&mut rest)?;
        let state = *StateName::ALL.get(usize::from(state))?;
        let version = u64::from(u32::from_be_bytes(chunk(&mut rest)?));
        let attempts = u32::from_be_bytes(chunk(&mut rest)?);
        let kept = u32::from_be_bytes(chunk(&mut rest)?);
        let journal_bytes = u64::from_be_bytes(chunk(&mut rest)?);
        let at = Some(i64::from_be_bytes(chunk(&mut rest)?)).filter(|at| *at != i64::MIN).map(Timestamp::from_millis);
        let snapshot = u64::from(u32::from_be_bytes(chunk(&mut rest)?));
        let from = u64::from(u32::from_be_bytes(chunk(&mut rest)?));
        let to = u64::from(u32::from_be_bytes(chunk(&mut rest)?));
        let id = AppendId::new(chunk(&mut rest)?);
        let cost_usd = f64::from_be_bytes(chunk(&mut rest)?);
        let queue = QueueName::new(text(&mut rest, queue_length)?).ok()?;
        let has = |flag: u8| flags & flag != 0;
        let parent = if has(PARENT) { Some(TaskId::from_bytes(chunk(&mut rest)?)) } else { None };
        let key = if has(KEY) { Some(chunk(&mut rest)?) } else { None };
        let group = if has(GROUP) { Some(chunk(&mut rest)?) } else { None };
        let batch = if has(BATCH) {
            let [length] = chunk(&mut rest)?;
            Some(BatchId::new(text(&mut rest, length)?).ok()?)
        } else {
            None
        };
        let seal = if has(SEALED) { Some(Seal::from_bytes(&chunk(&mut rest)?)) } else { None };
        Some(Self {
            stamp,
            lease: (state == StateName::Running).then_some(Lease { token, expires }),
            state,
            set_aside: has(SET_ASIDE),
            priority,
            queue,
            version,
            attempts,
            kept,
            journal_bytes,
            at,
            last_append: has(APPENDED).then_some(LastAppend { id, from, to }),
            cost_usd,
            parent,
            extra: Extra { key, group, batch, family: has(FAMILY), snapshot, seal },
        })
    }
}

/// A state as one digit: in records, and in the names of counters.
pub(super) fn digit(state: StateName) -> u8 {
    b'0' + match state {
        StateName::Scheduled => 0,
        StateName::Ready => 1,
        StateName::Running => 2,
        StateName::Waiting => 3,
        StateName::Succeeded => 4,
        StateName::Cancelled => 5,
        StateName::Dead => 6,
    }
}

/// Names have 64 bytes at most.
fn length(name: &str) -> u8 {
    u8::try_from(name.len()).unwrap_or(u8::MAX)
}

fn chunk<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, more) = rest.split_first_chunk()?;
    *rest = more;
    Some(*first)
}

fn text<'a>(rest: &mut &'a [u8], length: u8) -> Option<&'a str> {
    let (first, more) = rest.split_at_checked(usize::from(length))?;
    *rest = more;
    std::str::from_utf8(first).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record() -> Record {
        Record {
            stamp: [7; 8],
            lease: Some(Lease { token: LeaseToken::new([9; 16]), expires: Timestamp::from_millis(1_800_000_000_123) }),
            state: StateName::Running,
            set_aside: false,
            priority: 4,
            queue: QueueName::new("leads").unwrap(),
            version: 300,
            attempts: 2,
            kept: 1,
            journal_bytes: 1 << 40,
            at: None,
            last_append: Some(LastAppend { id: AppendId::new([3; 16]), from: 299, to: 301 }),
            cost_usd: 0.1 + 0.2,
            parent: Some(TaskId::from_bytes([5; 16])),
            extra: Extra {
                key: Some([1; 16]),
                group: Some([2; 16]),
                batch: Some(BatchId::new("b").unwrap()),
                family: true,
                snapshot: 256,
                seal: Some(Seal::from_bytes(&[6; Seal::LENGTH])),
            },
        }
    }

    #[test]
    fn a_record_reads_back_what_it_writes() {
        let full = record();
        assert_eq!(Record::decode(&full.encode()), Some(full.clone()));
        let bare = Record {
            lease: None,
            state: StateName::Dead,
            set_aside: true,
            at: Some(Timestamp::from_millis(-5)),
            last_append: None,
            parent: None,
            extra: Extra::default(),
            ..full
        };
        assert_eq!(Record::decode(&bare.encode()), Some(bare));
    }

    #[test]
    fn what_is_cut_short_is_no_record() {
        let bytes = record().encode();
        for end in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Record::decode(&[255; 200]), None);
    }

    #[test]
    fn priority_comes_before_age() {
        let at = Timestamp::from_millis;
        assert!(ready_score(9, at(2)) < ready_score(8, at(1)));
        assert!(ready_score(4, at(1)) < ready_score(4, at(2)));
        assert_eq!(ready_since(ready_score(0, at(1_800_000_000_000))), at(1_800_000_000_000));
    }
}
