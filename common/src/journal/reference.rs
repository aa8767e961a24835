//! What stands in a slot of an event whose value is too large for a journal:
//! `{"$blob": NAME}`, or `$blob:NAME` where only a text fits. A user's own value
//! that looks like this never gets into a journal: it is made a blob itself, so
//! that nobody can get at another's value by writing its name down.

use serde_json::Value;

use super::event::Event;
use super::slot::{Slot, SlotMut};
use crate::id::BlobName;
use crate::task::Signal;

/// The key that only references have.
const KEY: &str = "$blob";
/// What only references begin with.
const PREFIX: &str = "$blob:";

/// A reference to a value that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(pub BlobName);

impl Reference {
    /// What stands in a slot, if it is a reference.
    pub fn of(slot: &Slot<'_>) -> Option<Self> {
        let name = match slot {
            Slot::Value(Value::Object(map)) if map.len() == 1 => map.get(KEY)?.as_str()?,
            Slot::Value(_) => return None,
            Slot::Text(text) => text.strip_prefix(PREFIX)?,
        };
        name.parse().ok().map(Self)
    }

    /// Whether a slot's own value could be taken for a reference.
    pub fn is_imitated_by(slot: &Slot<'_>) -> bool {
        match slot {
            Slot::Value(Value::Object(map)) => map.contains_key(KEY),
            Slot::Value(_) => false,
            Slot::Text(text) => text.starts_with(PREFIX),
        }
    }

    /// Puts the reference into a slot.
    pub fn put(&self, slot: SlotMut<'_>) {
        match slot {
            SlotMut::Value(value) => {
                let entry = (KEY.to_owned(), Value::String(self.0.to_string()));
                *value = Value::Object(std::iter::once(entry).collect());
            }
            SlotMut::Text(text) => *text = format!("{PREFIX}{}", self.0),
        }
    }

    /// The blobs that an event refers to, given the event and its JSON. For the
    /// usual event, which refers to none, this is one search in the JSON.
    pub fn in_event(event: &Event, encoded: &str) -> Vec<BlobName> {
        let mut names = Vec::new();
        if encoded.contains(KEY) {
            event.slots(&mut |slot| names.extend(Self::of(&slot).map(|reference| reference.0)));
        }
        names
    }

    /// The blobs that a signal refers to.
    pub fn in_signal(signal: &Signal) -> Vec<BlobName> {
        let mut names = Vec::new();
        signal.slots(&mut |slot| names.extend(Self::of(&slot).map(|reference| reference.0)));
        names
    }
}

impl Slot<'_> {
    /// Whether its JSON has more bytes than this, without encoding it: escapes
    /// are not counted, and as soon as it is too large, nothing more is.
    pub fn is_larger_than(&self, bytes: usize) -> bool {
        match self {
            Slot::Value(value) => spend(value, bytes).is_none(),
            Slot::Text(text) => text.len() + 2 > bytes,
        }
    }
}

/// What is left of `room` after a value.
fn spend(value: &Value, room: usize) -> Option<usize> {
    match value {
        Value::Null | Value::Bool(true) => room.checked_sub(4),
        Value::Bool(false) => room.checked_sub(5),
        // Between 1 and 25 characters.
        Value::Number(_) => room.checked_sub(4),
        Value::String(text) => room.checked_sub(text.len() + 2),
        Value::Array(items) => {
            let room = room.checked_sub(2)?;
            items.iter().try_fold(room, |room, item| spend(item, room)?.checked_sub(1))
        }
        Value::Object(map) => {
            let room = room.checked_sub(2)?;
            map.iter().try_fold(room, |room, (key, value)| spend(value, room)?.checked_sub(key.len() + 4))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::id::{BlobHouse, Digest, Shard};

    fn reference() -> Reference {
        Reference(BlobName::new(BlobHouse::Store, Shard::numbered(7), [1; 8], Digest::of(b"x")))
    }

    #[test]
    fn a_reference_is_read_as_it_was_put() {
        let (mut value, mut text) = (json!([1]), "x".to_owned());
        reference().put(SlotMut::Value(&mut value));
        reference().put(SlotMut::Text(&mut text));
        assert_eq!(Reference::of(&Slot::Value(&value)), Some(reference()));
        assert_eq!(Reference::of(&Slot::Text(&text)), Some(reference()));
        let event = Event::Succeeded { output: value };
        assert_eq!(Reference::in_event(&event, &serde_json::to_string(&event).unwrap()), [reference().0]);
    }

    #[test]
    fn whatever_could_be_taken_for_a_reference_imitates_one() {
        let name = reference().0.to_string();
        for value in [json!({"$blob": name}), json!({"$blob": 1}), json!({"a": 1, "$blob": name})] {
            assert!(Reference::is_imitated_by(&Slot::Value(&value)), "{value}");
        }
        assert!(Reference::is_imitated_by(&Slot::Text(&format!("$blob:{name}"))));
        for value in [json!(name), json!([{"$blob": name}]), json!({"a": {"$blob": name}})] {
            assert!(!Reference::is_imitated_by(&Slot::Value(&value)), "{value}");
            assert_eq!(Reference::of(&Slot::Value(&value)), None);
        }
    }

    #[test]
    fn a_size_is_estimated_closely_enough() {
        let values =
            [json!(null), json!("text"), json!([1, 2.5, true]), json!({"key": {"other": ["a", "b"]}, "n": -17})];
        for value in values {
            let encoded = value.to_string().len();
            let estimated = (0..1_000).find(|bytes| !Slot::Value(&value).is_larger_than(*bytes)).unwrap();
            assert!(estimated.abs_diff(encoded) <= 8, "{value}: {estimated}, not {encoded}");
        }
    }
}
