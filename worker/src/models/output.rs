//! How a model learns of the schema of its output where its API cannot hold it
//! to one: it is told in words. Pure.

use common::failure::{Failure, FailureClass};
use common::journal::RequestHead;
use serde_json::{Map, Value};

/// The option that says `prompt` where a model or gateway has no structured outputs.
const OUTPUT_FORMAT: &str = "output_format";

/// Takes the option out: whether the schema is to be told in words.
///
/// # Errors
/// `Configuration`, when it says something else.
pub(super) fn is_in_words(head: &RequestHead, options: &mut Map<String, Value>) -> Result<bool, Failure> {
    match options.shift_remove(OUTPUT_FORMAT) {
        None => Ok(false),
        Some(how) if how == "prompt" => Ok(true),
        Some(other) => Err(wrong_option(head, &format!("{OUTPUT_FORMAT} is {other}, and can only be prompt"))),
    }
}

/// The system prompt with the schema behind it.
pub(super) fn with_schema(system: &str, schema: &Value) -> String {
    let text = format!(
        "Your final answer is one JSON value that fits this JSON Schema, with no text and no code fence around it:\n{schema}"
    );
    if system.is_empty() { text } else { format!("{system}\n\n{text}") }
}

/// Refuses options that the agent loop sets itself.
///
/// # Errors
/// `Configuration`, with the option.
pub(super) fn refuse_reserved(head: &RequestHead, reserved: &[&str]) -> Result<(), Failure> {
    match reserved.iter().find(|key| head.options.contains_key(**key)) {
        Some(key) => Err(wrong_option(head, &format!("{key} is set by the agent loop; remove it"))),
        None => Ok(()),
    }
}

/// An option that cannot be sent.
pub(super) fn wrong_option(head: &RequestHead, text: &str) -> Failure {
    Failure::new(FailureClass::Configuration, format!("model {}: the option {text}", head.alias))
}
