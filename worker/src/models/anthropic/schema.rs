//! Narrows a JSON Schema to what the API's structured outputs take: pure.
//!
//! The API guarantees a subset of JSON Schema (objects without further
//! properties, no lengths, no ranges). What it cannot guarantee moves into the
//! description, where the model sees it; the step validates the output against
//! the whole schema in any case. A schema that cannot be narrowed without
//! changing what it means is not sent as one.

use serde_json::{Map, Value, json};

/// Schemas nested deeper are not narrowed.
const DEPTH: usize = 32;

/// Formats of strings that the API guarantees.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];

/// What changes the meaning too much to be moved into a description.
const INEXPRESSIBLE: [&str; 15] = [
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "patternProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "unevaluatedItems",
    "prefixItems",
    "contains",
    "$dynamicRef",
    "$recursiveRef",
];

/// What says nothing about the value.
const ANNOTATIONS: [&str; 10] =
    ["$schema", "$id", "$anchor", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly", "nullable"];

/// The schema for `output_config.format`, or `None` where it cannot be expressed.
pub(super) fn narrowed(schema: &Value) -> Option<Value> {
    if schema["type"] != "object" {
        return None;
    }
    narrow(schema, 0)
}

fn narrow(schema: &Value, depth: usize) -> Option<Value> {
    let schema = schema.as_object()?;
    // A reference may be recursive, which the API refuses.
    if depth > DEPTH || schema.contains_key("$ref") || INEXPRESSIBLE.iter().any(|key| schema.contains_key(*key)) {
        return None;
    }
    if let Some(Value::Array(types)) = schema.get("type") {
        return one_branch_each(schema, types, depth);
    }
    let mut narrowed = Map::new();
    let mut moved = Vec::new();
    for (key, value) in schema {
        match (key.as_str(), value) {
            // What objects may have besides is settled below; the rest is said at its own place.
            ("description" | "additionalProperties" | "$defs" | "definitions", _) => {}
            (key, _) if ANNOTATIONS.contains(&key) => {}
            ("type" | "title", Value::String(_)) | ("required", Value::Array(_)) => {
                narrowed.insert(key.clone(), value.clone());
            }
            ("enum", Value::Array(values)) if values.iter().all(is_scalar) => {
                narrowed.insert(key.clone(), value.clone());
            }
            ("const", value) if is_scalar(value) => {
                narrowed.insert(key.clone(), value.clone());
            }
            ("format", Value::String(format)) if FORMATS.contains(&format.as_str()) => {
                narrowed.insert(key.clone(), value.clone());
            }
            ("minItems", Value::Number(n)) if n.as_u64().is_some_and(|n| n <= 1) => {
                narrowed.insert(key.clone(), value.clone());
            }
            ("anyOf" | "oneOf", Value::Array(branches)) => {
                let branches: Option<Vec<Value>> = branches.iter().map(|branch| narrow(branch, depth + 1)).collect();
                narrowed.insert("anyOf".to_owned(), Value::Array(branches?));
            }
            ("properties", Value::Object(properties)) => {
                let properties: Option<Map<String, Value>> = properties
                    .iter()
                    .map(|(name, property)| Some((name.clone(), narrow(property, depth + 1)?)))
                    .collect();
                narrowed.insert(key.clone(), Value::Object(properties?));
            }
            ("items", items) => {
                narrowed.insert(key.clone(), narrow(items, depth + 1)?);
            }
            ("type" | "required" | "enum" | "const" | "anyOf" | "oneOf" | "properties", _) => return None,
            (constraint, value) => moved.push(format!("{constraint}: {value}")),
        }
    }
    if !["type", "enum", "const", "anyOf"].iter().any(|key| narrowed.contains_key(*key)) {
        return None;
    }
    if narrowed.get("type").is_some_and(|kind| kind == "object") {
        // Closed, an object without named properties could only be empty.
        let is_map = schema.get("additionalProperties").is_some_and(Value::is_object);
        let has_names = narrowed.get("properties").and_then(Value::as_object).is_some_and(|names| !names.is_empty());
        if is_map || !has_names {
            return None;
        }
        narrowed.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    describe(&mut narrowed, schema.get("description").and_then(Value::as_str), &moved);
    Some(Value::Object(narrowed))
}

/// `type: [string, "null"]` as `anyOf`: one branch for each type.
fn one_branch_each(schema: &Map<String, Value>, types: &[Value], depth: usize) -> Option<Value> {
    if schema.contains_key("enum") || schema.contains_key("const") {
        let mut untyped = schema.clone();
        untyped.shift_remove("type");
        return narrow(&Value::Object(untyped), depth + 1);
    }
    let branches: Option<Vec<Value>> = types
        .iter()
        .map(|kind| match kind.as_str()? {
            "null" => Some(json!({"type": "null"})),
            kind => {
                let mut branch = schema.clone();
                branch.insert("type".to_owned(), Value::from(kind));
                narrow(&Value::Object(branch), depth + 1)
            }
        })
        .collect();
    Some(json!({"anyOf": branches?}))
}

fn describe(narrowed: &mut Map<String, Value>, description: Option<&str>, moved: &[String]) {
    let constraints = (!moved.is_empty()).then(|| format!("{{{}}}", moved.join(", ")));
    let parts: Vec<&str> = description.into_iter().chain(constraints.as_deref()).collect();
    if !parts.is_empty() {
        narrowed.insert("description".to_owned(), Value::from(parts.join("\n\n")));
    }
}

fn is_scalar(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_closed_and_constraints_become_words() {
        let schema = json!({"$schema": "x", "type": "object", "required": ["score"], "properties": {
            "score": {"type": "integer", "minimum": 0, "maximum": 100, "description": "How well it fits."},
            "mail": {"type": "string", "format": "email", "maxLength": 80},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}}});
        let expected = json!({"type": "object", "required": ["score"], "properties": {
            "score": {"type": "integer", "description": "How well it fits.\n\n{minimum: 0, maximum: 100}"},
            "mail": {"type": "string", "format": "email", "description": "{maxLength: 80}"},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "{maxItems: 3}"}},
            "additionalProperties": false});
        assert_eq!(narrowed(&schema), Some(expected));
    }

    #[test]
    fn a_list_of_types_becomes_branches() {
        let schema =
            json!({"type": "object", "properties": {"note": {"type": ["string", "null"], "description": "d"}}});
        let narrow = narrowed(&schema).unwrap_or_default();
        let expected = json!({"anyOf": [{"type": "string", "description": "d"}, {"type": "null"}]});
        assert_eq!(narrow["properties"]["note"], expected);
    }

    #[test]
    fn what_cannot_be_said_is_not_said_wrongly() {
        for property in [
            json!({"type": "object"}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"$ref": "#/$defs/node"}),
            json!({"not": {"type": "string"}, "type": "string"}),
            json!({"enum": [{"a": 1}]}),
            json!({"type": 7}),
            json!(true),
            json!({}),
        ] {
            assert_eq!(narrowed(&json!({"type": "object", "properties": {"p": property}})), None, "{property}");
        }
        assert_eq!(narrowed(&json!({"type": "string"})), None);
    }

    #[test]
    fn endless_nesting_ends() {
        let deep = (0..100).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
        assert_eq!(narrowed(&json!({"type": "object", "properties": {"p": deep}})), None);
    }
}
