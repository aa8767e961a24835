//! JSON Schemas of inputs and outputs, compiled once.

use std::fmt;
use std::sync::Arc;

use jsonschema::Validator;
use serde::Serialize;
use serde_json::Value;

/// A JSON Schema, compiled, with the place that it came from, for messages. Cheap to clone.
///
/// References to other documents (`$ref: https://…`) are refused: nothing is fetched.
#[derive(Clone)]
pub struct Schema {
    /// The file, or the key within the pipeline.
    pub origin: String,
    /// The schema.
    pub schema: Value,
    validator: Arc<Validator>,
}

/// What of a value does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: {message}", if pointer.is_empty() { "(the whole value)" } else { pointer })]
pub struct SchemaIssue {
    /// Where in the value: a JSON pointer, empty for the whole.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

impl Schema {
    /// The most issues that are reported of one value.
    pub const ISSUE_LIMIT: usize = 20;

    /// Compiles a schema; the error says what is wrong with it.
    pub fn new(origin: impl Into<String>, schema: Value) -> Result<Self, SchemaIssue> {
        let validator = jsonschema::options().build(&schema).map_err(|error| SchemaIssue {
            pointer: error.instance_path().to_string(),
            message: shortened(&error.to_string()),
        })?;
        Ok(Self { origin: origin.into(), schema, validator: Arc::new(validator) })
    }

    /// Whether a value fits; if not, what does not, at most [`Schema::ISSUE_LIMIT`] issues.
    pub fn validate(&self, value: &Value) -> Result<(), Vec<SchemaIssue>> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let issues = self.validator.iter_errors(value).take(Self::ISSUE_LIMIT).map(|error| SchemaIssue {
            pointer: error.instance_path().to_string(),
            message: shortened(&error.to_string()),
        });
        Err(issues.collect())
    }
}

/// Messages repeat the value that does not fit, which may be long.
fn shortened(message: &str) -> String {
    const LIMIT: usize = 300;
    let mut short: String = message.chars().take(LIMIT).collect();
    if short.len() < message.len() {
        short.push('…');
    }
    short
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && self.schema == other.schema
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("origin", &self.origin).field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn issues_name_the_place_in_the_value() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {"n": {"type": "integer"}}});
        let schema = Schema::new("input", schema).unwrap();
        let issues = schema.validate(&json!({"n": "x"})).unwrap_err();
        let pointers: Vec<_> = issues.iter().map(|i| i.pointer.as_str()).collect();
        assert!(pointers.contains(&"/n") && pointers.contains(&""), "{issues:?}");
        assert_eq!(schema.validate(&json!({"a": 1, "n": 2})), Ok(()));
    }

    #[test]
    fn nothing_is_fetched() {
        for target in ["https://example.com/x.json", "file:///etc/passwd", "other.json"] {
            assert!(Schema::new("x", json!({"$ref": target})).is_err(), "{target}");
        }
    }

    #[test]
    fn a_wrong_schema_is_refused() {
        assert!(Schema::new("x", json!({"type": "objekt"})).is_err());
        assert!(Schema::new("x", json!({"pattern": "("})).is_err());
    }
}
