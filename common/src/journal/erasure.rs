//! What stands in an event whose data was erased: `{"$erased": DIGEST}`, or
//! `$erased:DIGEST` where only a text fits. The digest is the one that the chain
//! has of the value, so that an erased journal still verifies. A value that a
//! user wrote and that looks like this is one like any other: marks are read as
//! such only in a journal that ends with `erased`.

use serde_json::Value;

use super::chain::Reading;
use super::event::Event;
use super::reference::Reference;
use super::slot::{Slot, SlotMut};
use crate::id::Digest;

/// The key that only marks have.
const KEY: &str = "$erased";
/// What only marks begin with.
const PREFIX: &str = "$erased:";

/// The digest of the value in a slot or a note; of a large one that lies elsewhere, its reference tells it.
pub(super) fn digest_of(slot: &Slot<'_>) -> Result<Digest, serde_json::Error> {
    if let Some(Reference(name)) = Reference::of(slot) {
        return Ok(name.digest().clone());
    }
    let text = match slot {
        Slot::Value(value) => serde_json::to_vec(value)?,
        Slot::Text(text) => serde_json::to_vec(text)?,
    };
    Ok(Digest::of(&text))
}

/// The digest in a mark, if there is one.
pub(super) fn erased_digest(slot: &Slot<'_>) -> Option<Digest> {
    let digest = match slot {
        Slot::Value(Value::Object(map)) if map.len() == 1 => map.get(KEY)?.as_str()?,
        Slot::Value(_) => return None,
        Slot::Text(text) => text.strip_prefix(PREFIX)?,
    };
    digest.parse().ok()
}

/// The digest of a value, whichever way it stands in its slot; nothing for a mark that is none.
pub fn value_digest(slot: &Slot<'_>, reading: Reading) -> Option<Digest> {
    match reading {
        Reading::Whole => digest_of(slot).ok(),
        Reading::Erased => erased_digest(slot),
    }
}

/// The digest of the digests of some values; nothing if one of them has none.
pub fn combined_digest<'v>(slots: impl Iterator<Item = Slot<'v>>, reading: Reading) -> Option<Digest> {
    let digests = slots.map(|slot| value_digest(&slot, reading).map(String::from)).collect::<Option<Vec<_>>>()?;
    Some(Digest::of(digests.concat().as_bytes()))
}

impl Event {
    /// Visits every slot and every note, in an order that stays the same: all that may tell of people.
    pub(super) fn data_mut(&mut self, visit: &mut dyn FnMut(SlotMut<'_>)) {
        self.slots_mut(visit);
        self.notes_mut(visit);
    }

    /// The event without its data: in each slot and note stands the mark of what was there.
    ///
    /// # Errors
    /// A value that has no form in JSON.
    pub fn erase(&mut self) -> Result<(), serde_json::Error> {
        let mut wrong = Ok(());
        self.data_mut(&mut |slot| {
            let digest = digest_of(&slot.as_slot());
            match (slot, digest) {
                (_, Err(error)) => wrong = Err(error),
                (SlotMut::Value(value), Ok(digest)) => {
                    let entry = (KEY.to_owned(), Value::String(digest.into()));
                    *value = Value::Object(std::iter::once(entry).collect());
                }
                (SlotMut::Text(text), Ok(digest)) => *text = format!("{PREFIX}{digest}"),
            }
        });
        wrong
    }
}

impl SlotMut<'_> {
    /// What stands there.
    pub(super) fn as_slot(&self) -> Slot<'_> {
        match self {
            SlotMut::Value(value) => Slot::Value(value),
            SlotMut::Text(text) => Slot::Text(text),
        }
    }
}
