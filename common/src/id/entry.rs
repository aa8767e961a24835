//! The id of a request in a model batch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{InvalidId, TaskId};

/// Names one request in a model batch, at its provider too (`custom_id`): the task in 32 hexadecimal digits, `-`, and
/// 16 more that tell the task's requests apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryId(String);

/// The digits of a task.
const TASK: usize = 32;
/// The digits behind it.
const REQUEST: usize = 16;

impl EntryId {
    /// The id of a task's request. `what` says which one, in any words that no other request of the task has.
    pub fn new(task: TaskId, what: &str) -> Self {
        let digest = blake3::hash(what.as_bytes()).to_hex();
        Self(format!("{}-{}", task.as_uuid().simple(), &digest[..REQUEST]))
    }

    /// The task that the request is of.
    pub fn task(&self) -> TaskId {
        // It was checked when the id was made.
        TaskId::from_uuid(self.0.get(..TASK).and_then(|digits| Uuid::try_parse(digits).ok()).unwrap_or_default())
    }

    /// As it stands in a request.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for EntryId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = |text: &str, count| {
            text.len() == count && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let valid = text.split_once('-').is_some_and(|(task, request)| digits(task, TASK) && digits(request, REQUEST));
        let rule = "it is 32 hexadecimal digits, '-', and 16 more";
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidId::new("model batch entry", text, rule)) }
    }
}

impl TryFrom<String> for EntryId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<EntryId> for String {
    fn from(id: EntryId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn an_entry_says_whose_it_is_and_is_an_id_that_providers_take() {
        let task = TaskId::new(Timestamp::from_millis(1), [7; 10]);
        let entry = EntryId::new(task, "think 0 0");
        assert_eq!(entry.task(), task);
        assert_ne!(entry, EntryId::new(task, "think 0 1"));
        assert_eq!(entry.as_str().parse::<EntryId>().unwrap(), entry);
        assert!(entry.as_str().len() <= 64, "the most that the Message Batches API takes");
        for wrong in ["", "x", "-", "0198c0de-7b3a-7000-8000-000000000000", &entry.as_str()[1..]] {
            assert!(wrong.parse::<EntryId>().is_err(), "{wrong:?}");
        }
    }
}
