//! Arguments against the schema of their tool.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::{PatternOptions, Validator};
use lru::LruCache;
use serde_json::Value;

/// Schemas that are kept compiled.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);
/// Complaints that are told at once.
const COMPLAINTS: usize = 5;

/// By the digest of the schema; `None` for one that cannot be compiled.
type Compiled = LruCache<blake3::Hash, Option<Arc<Validator>>>;

static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));

/// Checks the arguments of a call before it is made. A schema that cannot be
/// used (it refers to other documents, or its patterns need more than regular
/// expressions) is left to the tool itself to check.
///
/// # Errors
/// What is wrong with the arguments, and where, in words for the model.
pub fn validate(schema: &Value, arguments: &Value) -> Result<(), String> {
    let Some(validator) = compiled(schema) else { return Ok(()) };
    let complaints: Vec<String> = validator
        .iter_errors(arguments)
        .take(COMPLAINTS)
        .map(|error| {
            let place = error.instance_path().to_string();
            let message: String = error.to_string().chars().take(500).collect();
            if place.is_empty() { message } else { format!("{place}: {message}") }
        })
        .collect();
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
}

fn compiled(schema: &Value) -> Option<Arc<Validator>> {
    let digest = blake3::hash(schema.to_string().as_bytes());
    if let Some(known) = COMPILED.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
        return known.clone();
    }
    // Schemas of MCP servers are not trusted: no pattern may take exponential time.
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    let validator = match options.build(schema) {
        Ok(validator) => Some(Arc::new(validator)),
        Err(error) => {
            tracing::debug!(%error, "a tool's schema cannot be used");
            None
        }
    };
    COMPILED.lock().unwrap_or_else(PoisonError::into_inner).put(digest, validator.clone());
    validator
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn complaints_name_the_place() {
        let schema = json!({
            "type": "object",
            "properties": {"list": {"type": "array", "items": {"type": "integer"}}},
            "required": ["name"]
        });
        assert_eq!(validate(&schema, &json!({"name": 1, "list": [1]})), Ok(()));
        let complaint = validate(&schema, &json!({"list": [1, "x"]})).unwrap_err();
        assert!(complaint.contains("/list/1") && complaint.contains("\"name\""), "{complaint}");
    }

    #[test]
    fn a_schema_that_cannot_be_used_refuses_nothing() {
        for schema in [json!({"$ref": "https://example.com/a.json"}), json!({"type": "nonsense"}), json!("x")] {
            assert_eq!(validate(&schema, &json!({"a": 1})), Ok(()));
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_for_ever_does_not_end_the_process() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        ] {
            let _ = validate(&schema, &json!({"a": 1}));
        }
    }
}
