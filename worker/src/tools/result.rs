//! The tool `ReadResult`: reading on in a result that was too long to be shown
//! whole. Nothing is called: the journal has all of it, and `decide` answers.

use common::id::CallId;
use common::journal::Conversation;
use common::journal::shown::{READ_RESULT, part, whole};
use serde_json::{Value, json};

use super::ToolSpec;

/// What a model is told of the tool.
pub fn spec() -> ToolSpec {
    let description = "Reads on in the result of an earlier call that was cut.".to_owned();
    let input_schema = json!({
        "type": "object",
        "properties": {
            "call": {"type": "string", "description": "The id of the call, as the place where it was cut names it."},
            "offset": {"type": "integer", "minimum": 0, "description": "The first character. Default 0."},
        },
        "required": ["call"],
        "additionalProperties": false,
    });
    ToolSpec { name: READ_RESULT.to_owned(), description, input_schema }
}

/// The part of a result that arguments ask for, which fit the schema.
///
/// # Errors
/// What is wrong with them, for the model.
pub fn read(conversation: &Conversation, arguments: &Value) -> Result<String, String> {
    let call = arguments["call"].as_str().unwrap_or_default();
    let offset = arguments["offset"].as_u64().and_then(|offset| usize::try_from(offset).ok()).unwrap_or_default();
    let known = CallId::new(call).ok().and_then(|call| {
        let result = conversation.turns.iter().rev().find_map(|turn| turn.results.get(&call))?;
        Some((call, result))
    });
    let Some((call, result)) = known else { return Err(format!("there is no result of a call {call:?}")) };
    let limit = conversation.head.context.shown.unwrap_or(usize::MAX);
    Ok(part(&call, &whole(result), offset, limit))
}
