//! The hash chain of a journal: each event carries the hash over the hash of the
//! one before, its number, its time, and its fingerprint. So whoever changes,
//! removes, adds or moves an event changes every hash after it.
//!
//! A fingerprint has the values of an event by their digests: it stays the same
//! whether a value lies in the journal, beside it, or was erased. It is taken of
//! what serde writes, so that a new event or field is covered without a word here.
//!
//! A journal that was begun by a version without chains has events without hashes
//! first; its chain starts with the first event that has one.

mod verify;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::verify::{Fault, Verified, Witness, verify};
use super::erasure::{digest_of, erased_digest};
use super::event::{Event, Recorded};
use super::slot::SlotMut;
use crate::clock::Timestamp;
use crate::id::{InvalidId, TaskId};

/// What the first hash of a chain is taken over in place of a hash before.
const GENESIS: &[u8] = b"teamster journal 1";

/// The hash of an event in its place: BLAKE3. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventHash([u8; 32]);

impl EventHash {
    /// The hash of an event that follows upon the one with hash `before`. Without one, the chain starts here.
    pub fn of(task: TaskId, before: Option<Self>, seq: u64, at: Timestamp, print: &Fingerprint) -> Self {
        let before = before.unwrap_or_else(|| {
            let id = task.as_uuid().into_bytes();
            Self(blake3::Hasher::new().update(GENESIS).update(&id).finalize().into())
        });
        // In one piece: a short input is hashed fastest that way.
        let mut input = [0; 80];
        input[..32].copy_from_slice(&before.0);
        input[32..40].copy_from_slice(&seq.to_be_bytes());
        input[40..48].copy_from_slice(&at.as_millis().to_be_bytes());
        input[48..].copy_from_slice(&print.0);
        Self(blake3::hash(&input).into())
    }

    /// The hash that a store kept as bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a store to keep.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventHash({self})")
    }
}

impl FromStr for EventHash {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let hash = blake3::Hash::from_hex(text);
        hash.map(|hash| Self(hash.into()))
            .map_err(|_| InvalidId::new("hash of an event", text, "such a hash is 64 lower-case hexadecimal digits"))
    }
}

impl TryFrom<String> for EventHash {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<EventHash> for String {
    fn from(hash: EventHash) -> Self {
        hash.to_string()
    }
}

/// What an event says, without its place: BLAKE3 over its JSON with the digest of
/// each value in the value's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// How values stand in the events of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As they are, or as references to where they are.
    Whole,
    /// As marks: the data of the task was erased.
    Erased,
}

impl Reading {
    /// How the events of a journal are to be read. What says that the data was erased has none itself.
    pub fn of(journal: &[Recorded]) -> Self {
        match journal.last().map(|last| &last.event) {
            Some(Event::Erased { .. }) => Self::Erased,
            _ => Self::Whole,
        }
    }
}

impl Fingerprint {
    /// The fingerprint of an event that is about to be written.
    ///
    /// # Errors
    /// A value that has no form in JSON.
    pub fn of(event: &Event) -> Result<Self, serde_json::Error> {
        Self::read(event.clone(), Reading::Whole).map(|(print, _)| print)
    }

    /// The fingerprint of an event as it was read, and whether its values stood there as they were expected to.
    ///
    /// # Errors
    /// A value that has no form in JSON.
    pub fn read(mut event: Event, reading: Reading) -> Result<(Self, bool), serde_json::Error> {
        let (mut wrong, mut expected) = (None, true);
        event.data_mut(&mut |slot| {
            let erased = if reading == Reading::Erased { erased_digest(&slot.as_slot()) } else { None };
            expected &= erased.is_some() == (reading == Reading::Erased);
            let digest = erased.map_or_else(|| digest_of(&slot.as_slot()), Ok);
            match (slot, digest) {
                (_, Err(error)) => wrong = Some(error),
                (SlotMut::Value(value), Ok(digest)) => *value = Value::String(digest.into()),
                (SlotMut::Text(text), Ok(digest)) => *text = digest.into(),
            }
        });
        match wrong {
            Some(error) => Err(error),
            None => Ok((Self(blake3::hash(&serde_json::to_vec(&event)?).into()), expected)),
        }
    }
}

/// An event as it lies in a store, whether this version can read it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chained {
    /// Its number in the journal, from 1.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// The event as JSON.
    pub event: String,
    /// Its hash, if it has one beside it.
    pub hash: Option<EventHash>,
}

/// The hash of the last of some events, given the one before the first: those without a hash are put behind it.
/// Nothing, if the chain has not started yet.
pub fn head<'e>(
    task: TaskId,
    before: Option<EventHash>,
    reading: Reading,
    events: impl IntoIterator<Item = (&'e Recorded, Option<EventHash>)>,
) -> Option<EventHash> {
    let mut head = before;
    for (recorded, hash) in events {
        head = match (hash, head) {
            (Some(hash), _) => Some(hash),
            (None, None) => None,
            (None, Some(before)) => {
                let (print, _) = Fingerprint::read(recorded.event.clone(), reading).ok()?;
                Some(EventHash::of(task, Some(before), recorded.seq, recorded.at, &print))
            }
        };
    }
    head
}

#[cfg(test)]
mod tests;
