//! Identifiers and names: every id that crosses a module, a file or a wire.
//!
//! Validation happens once, here, at construction. Nothing in this module reads
//! a clock or a random source: both come in as arguments.

mod blob;
mod entry;
mod step;
mod token;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use blob::{BlobHouse, BlobName};
pub use entry::EntryId;
pub use step::StepKey;
pub use token::Token;

use crate::clock::Timestamp;

/// Why a text is not the id or name that it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidId {
    /// What was expected, in the words of the glossary.
    pub what: &'static str,
    /// The offending text, cut to 80 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl InvalidId {
    pub(crate) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

/// The id of a task: a version 7 UUID, so that ids sort by creation time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(Uuid);

impl TaskId {
    /// Builds an id from the time of creation and ten random bytes.
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id of a task that is made after another one by the same maker: it
    /// sorts behind it also within one millisecond, and when the clock went back,
    /// so that tasks stay in the order in which they came.
    #[must_use]
    pub fn following(previous: Option<Self>, at: Timestamp, random: [u8; 10]) -> Self {
        /// The bits below the variant of a version 7 UUID (RFC 9562, section 5.7), without those of the shard.
        const COUNTED: u128 = ((1 << 62) - 1) & !Shard::MASK;
        let fresh = Self::new(at, random);
        match previous {
            Some(Self(before)) if before >= fresh.0 && before.as_u128() & COUNTED != COUNTED => {
                Self(Uuid::from_u128(before.as_u128() + (1 << Shard::BITS))).in_shard(fresh.shard())
            }
            _ => fresh,
        }
    }

    /// The shard that the task lies in: part of its id, so that whoever has the id finds the task.
    pub fn shard(self) -> Shard {
        // The mask keeps 12 bits.
        Shard(u16::try_from(self.0.as_u128() & Shard::MASK).unwrap_or(0))
    }

    /// The same id in another shard.
    #[must_use]
    pub fn in_shard(self, shard: Shard) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() & !Shard::MASK | u128::from(shard.0)))
    }

    /// The id that a store kept as a UUID.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id as a UUID.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    /// The id whose UUID has these bytes: for a store that keeps ids in their shortest form.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::try_parse(text).map(Self).map_err(|_| {
            InvalidId::new("task id", text, "a task id is a UUID such as 0198c0de-7b3a-7000-8000-000000000000")
        })
    }
}

/// Where a task lies in a store that is spread over several machines: the last
/// 12 bits of its id. Tasks that change together (a parent and its children, two
/// submits of one idempotency key) lie in one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u16);

impl Shard {
    const BITS: u32 = 12;
    const MASK: u128 = (1 << Self::BITS) - 1;

    /// The shard of an idempotency key: keys are known by their pipeline.
    pub fn of_key(pipeline: &PipelineName, key: &IdempotencyKey) -> Self {
        Self::of_text(&[pipeline.as_str(), key.as_str()])
    }

    /// The shard of some texts.
    pub fn of_text(texts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for text in texts {
            hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let [first, second, ..] = *hasher.finalize().as_bytes();
        Self(u16::from_le_bytes([first, second]) & ((1 << Self::BITS) - 1))
    }

    /// The shard of a number; what goes beyond 12 bits is cut.
    pub const fn numbered(number: u16) -> Self {
        Self(number & ((1 << Self::BITS) - 1))
    }

    /// Its number, below 4,096.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// The fencing token of a lease. Unguessable; whoever holds it may write the
/// task's journal until the lease expires by the store's clock.
///
/// `Debug` hides the value: a token must not end up in a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseToken([u8; 16]);

impl LeaseToken {
    /// Wraps bytes that came from a cryptographic random source.
    pub const fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// The bytes, for a store to keep.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseToken(..)")
    }
}

/// Names one append, so that an append whose answer was lost can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AppendId([u8; 16]);

impl AppendId {
    /// Wraps bytes that came from a random source.
    pub const fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// The bytes, for a store to keep.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The content digest of a pipeline definition: 64 hexadecimal digits of BLAKE3.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for Digest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text))
        } else {
            Err(InvalidId::new("digest", &text, "a digest is 64 lower-case hexadecimal digits"))
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Declares a newtype over `String` whose text is checked at construction.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text and wraps it.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) { Ok(Self(text)) } else { Err(InvalidId::new($what, &text, $rule)) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

/// Lower-case letters, digits, `-`, `_` and `.`, starting with a letter or digit; at most 64.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// A name that is also an identifier of the expression language; at most 64.
fn is_identifier(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !text.as_bytes()[0].is_ascii_digit()
}

fn is_short_text(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

text_type! {
    /// The name of a pipeline.
    PipelineName, "pipeline name", "use 1 to 64 lower-case letters, digits, '-', '_' or '.', starting with a letter or digit", is_name
}
text_type! {
    /// The name of a queue.
    QueueName, "queue name", "use 1 to 64 lower-case letters, digits, '-', '_' or '.', starting with a letter or digit", is_name
}
text_type! {
    /// The id of a step within its pipeline; it is a name in expressions (`steps.ID.output`).
    StepId, "step id", "use 1 to 64 letters, digits or '_', not starting with a digit (it is a name in expressions)", is_identifier
}
text_type! {
    /// The key under which a submit is idempotent within its pipeline.
    IdempotencyKey, "idempotency key", "use 1 to 256 bytes without control characters", is_short_text
}
text_type! {
    /// The id of a worker process, unique among all that run: shown to people, never trusted.
    WorkerId, "worker id", "use 1 to 256 bytes without control characters", is_short_text
}
text_type! {
    /// The name of a session: the pipeline, `/`, and the key that its step gave.
    SessionName, "session name", "use 1 to 256 bytes without control characters, the pipeline's name included", is_short_text
}
text_type! {
    /// The id of a batch.
    BatchId, "batch id", "use 1 to 64 lower-case letters, digits, '-', '_' or '.', starting with a letter or digit", is_name
}
text_type! {
    /// The id of one tool call within its step: the model's `tool_use` id, or one made from the step.
    CallId, "call id", "use 1 to 256 bytes without control characters", is_short_text
}
text_type! {
    /// A group of tasks of which only the newest is wanted (`supersede`).
    GroupKey, "supersede group", "use 1 to 256 bytes without control characters", is_short_text
}

text_type! {
    /// The name of a meter: what is counted, and of whom (`usd pipeline/lead-intake`).
    MeterName, "meter name", "use 1 to 200 bytes without control characters", |text| text.len() <= 200 && is_short_text(text)
}
text_type! {
    /// Names one reservation: the task, step and turn that it is for, so that whoever resumes the task finds it.
    ReservationId, "reservation id", "use 1 to 256 bytes without control characters", is_short_text
}

impl QueueName {
    /// The queue of pipelines that name none.
    pub fn default_queue() -> Self {
        Self("default".to_owned())
    }
}

/// An approval: the task, and the place in its journal where it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApprovalId {
    /// The task that waits.
    pub task: TaskId,
    /// The sequence number of the `approval_requested` event.
    pub seq: u64,
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.task, self.seq)
    }
}

impl FromStr for ApprovalId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        const RULE: &str = "an approval id is TASK.NUMBER as `teamster approvals` lists it";
        let (task, seq) = text.split_once('.').ok_or_else(|| InvalidId::new("approval id", text, RULE))?;
        Ok(Self { task: task.parse()?, seq: seq.parse().map_err(|_| InvalidId::new("approval id", text, RULE))? })
    }
}

impl TryFrom<String> for ApprovalId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ApprovalId> for String {
    fn from(id: ApprovalId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_construction() {
        assert!(PipelineName::new("lead-intake").is_ok());
        for bad in ["", "Lead", "-x", "a b", &"x".repeat(65), "é"] {
            assert!(PipelineName::new(bad).is_err(), "{bad:?}");
        }
        assert!(StepId::new("crm_write").is_ok());
        for bad in ["crm-write", "1st", "", "a.b"] {
            assert!(StepId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn task_ids_sort_by_creation_time() {
        let early = TaskId::new(Timestamp::from_millis(1_000), [255; 10]);
        let late = TaskId::new(Timestamp::from_millis(1_001), [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
    }

    #[test]
    fn ids_of_one_maker_stay_in_order_within_a_millisecond_and_when_the_clock_goes_back() {
        let mut last = None;
        for (at, random) in [(5, 9), (5, 0), (5, 200), (4, 255), (6, 0)] {
            let next = TaskId::following(last, Timestamp::from_millis(at), [random; 10]);
            assert!(last.is_none_or(|last| last < next));
            assert_eq!((next.as_uuid().get_version_num(), next.as_uuid().get_variant()), (7, uuid::Variant::RFC4122));
            last = Some(next);
        }
    }

    #[test]
    fn an_approval_id_names_its_task() {
        let id = ApprovalId { task: TaskId::new(Timestamp::from_millis(5), [7; 10]), seq: 12 };
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
