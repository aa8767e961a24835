//! Which rows are the same: the idempotency keys of a batch.
//!
//! A row's key is derived from what it says, not from where it stands: the same
//! file posted again makes no second task, and a file that was added to makes
//! tasks of the new rows only. Rows that say the same within one file are
//! counted, so that each of them gets a task.

use std::collections::{HashMap, HashSet};

use common::id::{IdempotencyKey, PipelineName};
use serde_json::Value;

/// Rows of one file. What has been seen takes about 20 bytes a row.
pub const ROWS: u64 = 10_000_000;

/// Where the key of a row comes from.
#[derive(Debug)]
pub enum Keys {
    /// From what the row says.
    Content(Box<Content>),
    /// From one of its columns.
    Column(String),
}

/// What has been seen of a file.
#[derive(Debug)]
pub struct Content {
    base: blake3::Hasher,
    seen: HashSet<u64>,
    again: HashMap<u64, u32>,
}

impl Keys {
    /// Keys from the content of rows, for one pipeline; another `run` makes new tasks of the same rows.
    pub fn of_content(pipeline: &PipelineName, run: Option<&str>) -> Self {
        let mut base = blake3::Hasher::new();
        let scope = Value::from(vec![Some(pipeline.as_str()), run]);
        base.update(scope.to_string().as_bytes());
        Self::Content(Box::new(Content { base, seen: HashSet::new(), again: HashMap::new() }))
    }

    /// The key of the next row; `canonical` is its [`canonical`] text.
    pub fn next(&mut self, input: &Value, canonical: &str) -> Result<IdempotencyKey, String> {
        let text = match self {
            Self::Content(content) => content.next(canonical),
            Self::Column(column) => match input.get(&*column) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(_) => return Err(format!("the key column {column:?} holds no text and no number")),
                None => return Err(format!("the key column {column:?} is empty or missing")),
            },
        };
        IdempotencyKey::new(text).map_err(|error| error.to_string())
    }
}

impl Content {
    fn next(&mut self, canonical: &str) -> String {
        let mut hasher = self.base.clone();
        hasher.update(canonical.as_bytes());
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        // Two rows that only share eight bytes of their digests are counted as one kind: the count
        // is the same whenever the file is read, which is all that it has to be.
        let prefix = u64::from_le_bytes(prefix);
        let nth = if self.seen.insert(prefix) {
            0
        } else {
            let count = self.again.entry(prefix).or_default();
            *count += 1;
            *count
        };
        hasher.update(&nth.to_le_bytes());
        format!("row:{}", hasher.finalize().to_hex())
    }
}

/// A text that is the same for values that say the same: keys of objects are sorted.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, field)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(field, text);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn keys(run: Option<&str>, rows: &[Value]) -> Vec<String> {
        let mut keys = Keys::of_content(&PipelineName::new("leads").unwrap(), run);
        rows.iter().map(|row| keys.next(row, &canonical(row)).unwrap().to_string()).collect()
    }

    #[test]
    fn the_same_rows_have_the_same_keys_wherever_they_stand() {
        let (a, b, c) = (json!({"x": 1, "y": [1, {"p": 1, "q": 2}]}), json!({"x": 2}), json!({"x": 3}));
        let same_as_a = json!({"y": [1, {"q": 2, "p": 1}], "x": 1});
        let first = keys(None, &[a.clone(), b.clone()]);
        let second = keys(None, &[c, b, same_as_a]);
        assert_eq!((&first[0], &first[1]), (&second[2], &second[1]));
    }

    #[test]
    fn equal_rows_of_one_file_have_different_keys_each_time_the_same() {
        let rows = [json!({"x": 1}), json!({"x": 1}), json!({"x": 1})];
        let first = keys(None, &rows);
        assert_eq!(first, keys(None, &rows));
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn another_run_has_other_keys() {
        let rows = [json!({"x": 1})];
        assert_ne!(keys(None, &rows), keys(Some("again"), &rows));
        assert_ne!(keys(Some("a"), &rows), keys(Some("b"), &rows));
    }

    #[test]
    fn a_column_can_be_the_key() {
        let mut keys = Keys::Column("id".into());
        assert_eq!(keys.next(&json!({"id": 7}), "").unwrap().as_str(), "7");
        assert_eq!(keys.next(&json!({"id": "a-7"}), "").unwrap().as_str(), "a-7");
        assert!(keys.next(&json!({"no": 7}), "").is_err());
        assert!(keys.next(&json!({"id": [7]}), "").is_err());
    }
}
