//! Answers of the server, taken apart. What is not as it must be is
//! [`StoreError::Damaged`]: another program wrote into our keys.

use redis::Value;

use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::StoreError;

/// The elements of an answer, from the first to the last.
#[derive(Debug)]
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(super) fn new(value: Value) -> Self {
        Self(list(value).into_iter())
    }

    /// The next element; nil if there is none.
    pub(super) fn next(&mut self) -> Value {
        self.0.next().unwrap_or(Value::Nil)
    }

    pub(super) fn list(&mut self) -> Vec<Value> {
        list(self.next())
    }

    pub(super) fn bytes(&mut self) -> Vec<u8> {
        bytes(self.next())
    }

    pub(super) fn integer(&mut self) -> Result<i64, StoreError> {
        integer(&self.next())
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_millis(self.integer()?))
    }

    pub(super) fn task(&mut self) -> Result<TaskId, StoreError> {
        task(&self.bytes())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}

/// The elements of a list; none of anything else.
pub(super) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        _ => Vec::new(),
    }
}

/// The bytes of a text; none of anything else.
pub(super) fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        Value::Int(number) => number.to_string().into_bytes(),
        Value::Double(number) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

/// A text; what is no UTF-8 is replaced.
pub(super) fn text(value: Value) -> String {
    match value {
        Value::Okay => "OK".to_owned(),
        other => String::from_utf8_lossy(&bytes(other)).into_owned(),
    }
}

/// A whole number, also where the server says it as a text or a score.
pub(super) fn integer(value: &Value) -> Result<i64, StoreError> {
    let number = match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(digits) => std::str::from_utf8(digits).ok().and_then(whole),
        Value::SimpleString(digits) => whole(digits),
        Value::Double(number) => whole(&format!("{number:.0}")),
        _ => None,
    };
    number.ok_or_else(|| damaged("a number"))
}

/// A counter: nil counts as nothing.
pub(super) fn counter(value: &Value) -> u64 {
    integer(value).ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

fn whole(digits: &str) -> Option<i64> {
    // Scores come as "1.8e+12" from some servers.
    digits.parse().ok().or_else(|| {
        let number: f64 = digits.parse().ok()?;
        format!("{number:.0}").parse().ok()
    })
}

/// The id that some bytes are.
pub(super) fn task(bytes: &[u8]) -> Result<TaskId, StoreError> {
    <[u8; 16]>::try_from(bytes).map(TaskId::from_bytes).map_err(|_| damaged("a task id"))
}

/// What was expected was not there.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!(
        "where {what} was expected, the server has something else; does another program write to these keys? \
         Give the store a prefix of its own (?prefix=NAME)"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_read_in_every_form_that_servers_use() {
        for value in [
            Value::Int(1_800_000_000_123),
            Value::BulkString(b"1800000000123".to_vec()),
            Value::BulkString(b"1.800000000123e+12".to_vec()),
            Value::Double(1_800_000_000_123.0),
        ] {
            assert_eq!(integer(&value).unwrap(), 1_800_000_000_123);
        }
        assert!(integer(&Value::Nil).is_err() && counter(&Value::Nil) == 0);
    }

    #[test]
    fn what_is_no_id_is_damage() {
        assert!(matches!(task(b"short"), Err(StoreError::Damaged(_))));
    }
}
