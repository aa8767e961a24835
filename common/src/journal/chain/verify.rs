//! Whether a journal is what was written: every change of it breaks the chain at
//! a place, and what fits around that place tells what was done. Pure.

use std::fmt;

use super::{Chained, EventHash, Fingerprint, Reading};
use crate::id::TaskId;
use crate::journal::event::Event;
use crate::journal::seal::{KeyId, PublicKey, Seal};

/// How far around a break is searched for what belongs there.
const WINDOW: usize = 1_000;
/// After so many faults nobody reads on.
const MOST: usize = 100;

/// What else is known of a journal.
#[derive(Debug, Clone, Copy)]
pub struct Witness<'w> {
    /// The task.
    pub task: TaskId,
    /// The number of its newest event, as the task's head has it.
    pub version: u64,
    /// Its newest seal.
    pub seal: Option<Seal>,
    /// Whose seals are accepted; with none, no seal is checked.
    pub keys: &'w [PublicKey],
}

/// Something that was done to a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// One of these events was changed after it was written.
    Altered {
        /// The first.
        from: u64,
        /// The last: most often the same.
        to: u64,
    },
    /// The event says the same, and is written down in another way.
    Rewritten {
        /// Which.
        seq: u64,
    },
    /// These events were removed.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The newest events were removed.
    CutOff {
        /// The first.
        from: u64,
        /// The last that is known to have been there.
        to: u64,
    },
    /// An event stands there that was not written there.
    Inserted {
        /// At which place.
        place: u64,
    },
    /// Events stand behind the last one that the task knows of.
    Appended {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// An event stands in another's place.
    Moved {
        /// Its number.
        seq: u64,
        /// Where it stands.
        place: u64,
    },
    /// This version cannot read it.
    Unreadable {
        /// Which.
        seq: u64,
        /// Why.
        why: String,
    },
    /// The signature is not of this journal.
    BadSeal {
        /// The event that it names.
        version: u64,
    },
    /// The signature is of a key that nobody named.
    UnknownKey {
        /// Its name.
        key: KeyId,
    },
}

impl Fault {
    /// What was done, in one word: for scripts.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Altered { .. } => "altered",
            Self::Rewritten { .. } => "rewritten",
            Self::Missing { .. } => "missing",
            Self::CutOff { .. } => "cut_off",
            Self::Inserted { .. } => "inserted",
            Self::Appended { .. } => "appended",
            Self::Moved { .. } => "moved",
            Self::Unreadable { .. } => "unreadable",
            Self::BadSeal { .. } => "bad_signature",
            Self::UnknownKey { .. } => "unknown_key",
        }
    }

    /// The event at which it was found, where it is one.
    pub const fn event(&self) -> Option<u64> {
        match self {
            Self::Altered { from, .. }
            | Self::Missing { from, .. }
            | Self::CutOff { from, .. }
            | Self::Appended { from, .. } => Some(*from),
            Self::Rewritten { seq } | Self::Moved { seq, .. } | Self::Unreadable { seq, .. } => Some(*seq),
            Self::Inserted { place } => Some(*place),
            Self::BadSeal { version } => Some(*version),
            Self::UnknownKey { .. } => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered { from, to } if from == to => write!(f, "event {from} was altered"),
            Self::Altered { from, to } => write!(f, "one of the events {from} to {to} was altered"),
            Self::Rewritten { seq } => {
                write!(f, "event {seq} is not written down as it was (another order, another spacing, more fields)")
            }
            Self::Missing { from, to } if from == to => write!(f, "event {from} was removed"),
            Self::Missing { from, to } => write!(f, "events {from} to {to} were removed"),
            Self::CutOff { from, to } if from == to => write!(f, "the journal was cut off: event {from} is missing"),
            Self::CutOff { from, to } => write!(f, "the journal was cut off: events {from} to {to} are missing"),
            Self::Inserted { place } => write!(f, "an event was inserted at place {place}"),
            Self::Appended { from, .. } => {
                write!(f, "events stand behind the last one that the task knows of, from {from} on")
            }
            Self::Moved { seq, place } => write!(f, "the order was changed: event {seq} stands at place {place}"),
            Self::Unreadable { seq, why } => write!(f, "event {seq} cannot be read: {why}"),
            Self::BadSeal { version } => write!(f, "the signature of event {version} is not valid for this journal"),
            Self::UnknownKey { key } => write!(f, "the journal is signed with key {key}, which is none of those given"),
        }
    }
}

/// What came of a look at a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many events there are.
    pub events: u64,
    /// The first event that the chain covers; none: a version without chains wrote all of them.
    pub starts: Option<u64>,
    /// The hash of the newest event, as far as it is known.
    pub head: Option<EventHash>,
    /// Whether the data of the task was erased.
    pub erased: bool,
    /// Up to which event somebody signed, and with which key.
    pub sealed: Option<(u64, KeyId)>,
    /// Whether that was checked, and is so.
    pub seal_holds: bool,
    /// What was done to it.
    pub faults: Vec<Fault>,
}

/// Where the chain is.
#[derive(Debug, Clone, Copy)]
enum Head {
    /// It has not started.
    Before,
    /// There.
    At(EventHash),
    /// What was before is gone: the next hash is taken as it is.
    Lost,
}

struct Walk<'j> {
    task: TaskId,
    journal: &'j [Chained],
    prints: Vec<Option<Fingerprint>>,
    head: Head,
    /// The number of the next event, as it was given once.
    number: u64,
    starts: Option<u64>,
    faults: Vec<Fault>,
}

/// Looks at a whole journal, in the order of its numbers.
pub fn verify(witness: &Witness<'_>, journal: &[Chained]) -> Verified {
    let (events, mut faults) = read(journal);
    let erased = matches!(events.last(), Some(Some(Event::Erased { .. })));
    let reading = if erased { Reading::Erased } else { Reading::Whole };
    let mut prints = Vec::with_capacity(events.len());
    for (event, chained) in events.into_iter().zip(journal) {
        prints.push(event.and_then(|event| {
            let (print, expected) = Fingerprint::read(event, reading).ok()?;
            if !expected {
                faults.push(Fault::Rewritten { seq: chained.seq });
            }
            Some(print)
        }));
    }
    let task = witness.task;
    let mut walk = Walk { task, journal, prints, head: Head::Before, number: 1, starts: None, faults };
    let sealed_hash = walk.go(witness);
    let Walk { head, number, starts, mut faults, .. } = walk;
    let last = number - 1;
    let known = witness.seal.map_or(0, |seal| seal.version).max(witness.version);
    if last < known {
        faults.push(Fault::CutOff { from: number, to: known });
    } else if last > witness.version {
        faults.push(Fault::Appended { from: witness.version + 1, to: last });
    }
    let mut seal_holds = false;
    if let Some(seal) = witness.seal.filter(|_| !witness.keys.is_empty()) {
        let holds = |hash| witness.keys.iter().any(|key| key.accepts(&seal, task, hash));
        if !witness.keys.iter().any(|key| key.id() == seal.key) {
            faults.push(Fault::UnknownKey { key: seal.key });
        } else if sealed_hash.is_some_and(holds) {
            seal_holds = true;
        } else if seal.version <= last {
            faults.push(Fault::BadSeal { version: seal.version });
        }
    }
    Verified {
        events: journal.len() as u64,
        starts,
        head: if let Head::At(hash) = head { Some(hash) } else { None },
        erased,
        sealed: witness.seal.map(|seal| (seal.version, seal.key)),
        seal_holds,
        faults,
    }
}

/// The events, as far as this version can read them, and what is wrong with how they are written down.
fn read(journal: &[Chained]) -> (Vec<Option<Event>>, Vec<Fault>) {
    let mut faults = Vec::new();
    let mut events = Vec::with_capacity(journal.len());
    for Chained { seq, event: text, .. } in journal {
        match serde_json::from_str::<Event>(text) {
            Ok(event) => {
                if serde_json::to_string(&event).is_ok_and(|written| written != *text) {
                    faults.push(Fault::Rewritten { seq: *seq });
                }
                events.push(Some(event));
            }
            Err(why) => {
                faults.push(Fault::Unreadable { seq: *seq, why: why.to_string() });
                events.push(None);
            }
        }
    }
    (events, faults)
}

impl Walk<'_> {
    /// Whether the event at a place was written with this number, upon what has this hash (nothing: the chain starts).
    fn follows(&self, before: Option<EventHash>, number: u64, place: usize) -> bool {
        let (Some(chained), Some(Some(print))) = (self.journal.get(place), self.prints.get(place)) else {
            return false;
        };
        chained.hash == Some(EventHash::of(self.task, before, number, chained.at, print))
    }

    fn is_next(&self, place: usize) -> bool {
        match self.head {
            Head::Before => self.follows(None, self.number, place),
            Head::At(hash) => self.follows(Some(hash), self.number, place),
            Head::Lost => false,
        }
    }

    /// From the first event to the last; answers with the hash of the one that the seal names.
    fn go(&mut self, witness: &Witness<'_>) -> Option<EventHash> {
        let sealed = witness.seal.map_or(0, |seal| seal.version);
        let mut sealed_hash = None;
        // Passed over: they may belong to a later place.
        let mut aside: Vec<usize> = Vec::new();
        // The first event without a hash since the last one that has one.
        let mut bare: Option<u64> = None;
        let mut before_last = Head::Before;
        let mut place = 0;
        while let Some(chained) = self.journal.get(place) {
            if self.faults.len() >= MOST {
                break;
            }
            let previous = place.checked_sub(1).and_then(|before| self.journal.get(before)).map_or(0, |c| c.seq);
            let gap = chained.seq.saturating_sub(previous + 1);
            if gap > 0 {
                self.faults.push(Fault::Missing { from: self.number, to: self.number + gap - 1 });
                self.number += gap;
                self.head = Head::Lost;
            }
            let started = before_last;
            before_last = self.head;
            match chained.hash {
                None => {
                    self.head = match (self.head, self.prints.get(place)) {
                        (Head::At(hash), Some(Some(print))) => {
                            bare.get_or_insert(self.number);
                            Head::At(EventHash::of(self.task, Some(hash), self.number, chained.at, print))
                        }
                        (Head::At(_), _) => Head::Lost,
                        (head, _) => head,
                    };
                }
                Some(hash) => {
                    let unreadable = matches!(self.prints.get(place), Some(None));
                    let fits = unreadable || matches!(self.head, Head::Lost) || self.is_next(place);
                    // A version without chains wrote the events before.
                    let starts_anew = !fits && bare.is_some() && self.follows(None, self.number, place);
                    if starts_anew || (fits && !matches!(self.head, Head::At(_))) {
                        self.starts = if matches!(self.head, Head::Lost) { self.starts } else { Some(self.number) };
                        self.starts = self.starts.or(Some(self.number));
                    }
                    if !fits && !starts_anew {
                        if let Some(ahead) = (place + 1..self.journal.len()).take(WINDOW).find(|at| self.is_next(*at)) {
                            aside.extend(place..ahead);
                            place = ahead;
                            before_last = started;
                            continue;
                        }
                        if let Some(hash) = self.take_up(&mut aside) {
                            sealed_hash = sealed_hash.or((self.number == sealed + 1).then_some(hash));
                            continue;
                        }
                        self.explain(place, hash, started, bare, witness.version);
                    }
                    bare = None;
                    self.head = Head::At(hash);
                }
            }
            if let Head::At(hash) = self.head
                && self.number == sealed
            {
                sealed_hash = Some(hash);
            }
            self.number += 1;
            place += 1;
        }
        while let Some(hash) = self.take_up(&mut aside) {
            sealed_hash = sealed_hash.or((self.number == sealed + 1).then_some(hash));
        }
        for at in aside {
            self.faults.extend(self.journal.get(at).map(|chained| Fault::Inserted { place: chained.seq }));
        }
        sealed_hash
    }

    /// Takes up the next event, if it is one that was passed over: its hash.
    fn take_up(&mut self, aside: &mut Vec<usize>) -> Option<EventHash> {
        let found = aside.iter().rev().take(WINDOW).position(|at| self.is_next(*at))?;
        let chained = self.journal.get(aside.remove(aside.len() - 1 - found))?;
        let hash = chained.hash?;
        self.faults.push(Fault::Moved { seq: self.number, place: chained.seq });
        self.head = Head::At(hash);
        self.number += 1;
        Some(hash)
    }

    /// The event at a place does not follow, and no other does. What is behind it tells what was done.
    fn explain(&mut self, place: usize, hash: EventHash, before_last: Head, bare: Option<u64>, version: u64) {
        let one_back = match before_last {
            Head::Before => self.follows(None, self.number - 1, place),
            Head::At(before) => self.follows(Some(before), self.number - 1, place),
            Head::Lost => false,
        };
        if one_back {
            // What stood before it was put there, with a hash that fits.
            let inserted = place.checked_sub(1).and_then(|at| self.journal.get(at)).map_or(self.number, |c| c.seq);
            self.faults.push(Fault::Inserted { place: inserted });
            self.number -= 1;
            return;
        }
        let from = bare.unwrap_or(self.number);
        let removed = if place + 1 < self.journal.len() {
            (0..=WINDOW as u64).find(|gone| self.follows(Some(hash), self.number + gone + 1, place + 1))
        } else {
            // Nothing is behind it: the head knows how many there were.
            version.checked_sub(self.number)
        };
        match removed {
            Some(gone) if gone > 0 => {
                self.faults.push(Fault::Missing { from: self.number, to: self.number + gone - 1 });
                self.number += gone;
            }
            _ => self.faults.push(Fault::Altered { from, to: self.number }),
        }
    }
}
