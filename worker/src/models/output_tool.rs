//! The tool `StructuredOutput`: how a model gives its final answer where its API
//! has no format for that. Nobody calls it: its arguments are the output of the
//! step, and `decide` takes them from the reply.

use serde_json::{Value, json};

/// The name of the tool.
pub const STRUCTURED_OUTPUT: &str = "StructuredOutput";
/// The argument that holds an output that is no object.
const OUTPUT: &str = "output";

/// What a model is told of the tool, as it stands among those of a request; nothing for a schema that cannot be that of arguments.
pub fn spec(schema: &Value) -> Option<Value> {
    let input_schema = if is_object(schema) {
        schema.clone()
    } else if refers(schema) {
        // References are from the root of the schema, which would no longer be the root.
        return None;
    } else {
        json!({"type": "object", "properties": {OUTPUT: schema}, "required": [OUTPUT]})
    };
    let description = "Gives your final answer, as the arguments. Call it once, when everything else is done.";
    Some(json!({"name": STRUCTURED_OUTPUT, "description": description, "input_schema": input_schema}))
}

/// The output that a call gives.
pub fn output<'a>(schema: &Value, arguments: &'a Value) -> &'a Value {
    if is_object(schema) { arguments } else { arguments.get(OUTPUT).unwrap_or(arguments) }
}

fn is_object(schema: &Value) -> bool {
    schema["type"] == "object"
}

fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.iter().any(|(key, value)| key == "$ref" || refers(value)),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_object_is_given_as_it_is_and_anything_else_as_an_argument() {
        let object = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        assert_eq!(spec(&object).unwrap()["input_schema"], object);
        assert_eq!(output(&object, &json!({"output": 1})), &json!({"output": 1}));
        let list = json!({"type": "array"});
        assert_eq!(spec(&list).unwrap()["input_schema"]["properties"]["output"], list);
        assert_eq!(output(&list, &json!({"output": [1]})), &json!([1]));
        assert_eq!(output(&list, &json!([1])), &json!([1]));
    }

    #[test]
    fn a_schema_that_refers_to_its_own_parts_is_not_put_into_another() {
        assert!(spec(&json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}})).is_none());
        assert!(spec(&json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}})).is_some());
    }
}
