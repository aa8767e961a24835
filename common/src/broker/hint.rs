//! A hint as a message: tiny JSON, and the lane that it travels in. Pure.

use serde::{Deserialize, Serialize};

use crate::id::{QueueName, TaskId};
use crate::store::Hint;

/// The largest message that can be a hint, in bytes.
const LARGEST: usize = 1 << 10;

/// Which of the broker's queues for one task queue a hint is in. Quorum queues
/// have no priorities (not before `RabbitMQ` 4.0, and only two then), so there is one for
/// each of three classes, and the first that has something is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Priorities 5 to 9.
    High,
    /// Priority 4: what a pipeline has that says nothing.
    Normal,
    /// Priorities 0 to 3.
    Low,
}

impl Lane {
    /// All of them, the first to be served first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// That of a priority.
    pub fn of(priority: u8) -> Self {
        match priority {
            0..=3 => Self::Low,
            4 => Self::Normal,
            _ => Self::High,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// What a message says that is not a hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a hint of Teamster: {0}")]
pub struct NotAHint(String);

#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    task: TaskId,
    version: u64,
    queue: QueueName,
    priority: u8,
}

/// A hint as the body of a message.
pub fn encode(hint: &Hint) -> Vec<u8> {
    let wire = Wire { task: hint.task, version: hint.version, queue: hint.queue.clone(), priority: hint.priority };
    // Names and numbers always have a form in JSON.
    serde_json::to_vec(&wire).unwrap_or_default()
}

/// The hint that a body says. A key that this version does not know is let
/// pass: a newer version may have added it.
///
/// # Errors
/// [`NotAHint`], with what is wrong, for whoever looks at the dead letters of the broker.
pub fn decode(body: &[u8]) -> Result<Hint, NotAHint> {
    if body.len() > LARGEST {
        return Err(NotAHint(format!("it has {} bytes, and a hint has at most {LARGEST}", body.len())));
    }
    let wire: Wire = serde_json::from_slice(body).map_err(|error| NotAHint(error.to_string()))?;
    if wire.priority > 9 {
        return Err(NotAHint(format!("{} is not a priority", wire.priority)));
    }
    Ok(Hint { task: wire.task, version: wire.version, queue: wire.queue, priority: wire.priority })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_hint_comes_back_as_it_was() {
        let hint = Hint {
            task: TaskId::new(Timestamp::from_millis(1_800_000_000_000), [7; 10]),
            version: 12,
            queue: "leads".parse().unwrap(),
            priority: 9,
        };
        assert_eq!(decode(&encode(&hint)), Ok(hint));
    }

    #[test]
    fn every_priority_has_a_lane() {
        let lanes: Vec<&str> = (0..=9).map(|priority| Lane::of(priority).as_str()).collect();
        assert_eq!(lanes, ["low", "low", "low", "low", "normal", "high", "high", "high", "high", "high"]);
    }

    #[test]
    fn what_is_no_hint_is_told_why() {
        for body in ["", "hello", "{}", "[]", r#"{"task":"x","version":1,"queue":"q","priority":4}"#] {
            assert!(decode(body.as_bytes()).unwrap_err().to_string().starts_with("this is not a hint"), "{body}");
        }
        assert!(decode(&vec![b' '; 2_000]).unwrap_err().to_string().contains("2000 bytes"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
