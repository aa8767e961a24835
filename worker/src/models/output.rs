//! How a model is held to the schema of its output: by its API's own format, by a
//! tool that it must call, or in words. Pure.

use common::failure::{Failure, FailureClass};
use common::journal::{RequestHead, Structured};
use serde_json::{Map, Value};

use super::output_tool::{STRUCTURED_OUTPUT, spec};

/// How the model of one request is held to a schema.
#[derive(Debug)]
pub(super) enum Output {
    /// There is none.
    Free,
    /// The API holds the model to it, in the form that the API takes.
    Format(Value),
    /// The model gives its answer by a tool, told of as a request head tells of tools.
    Tool(Value),
    /// The model is told.
    Words(Value),
}

impl Output {
    /// As the model's settings say; `format` is the schema as the API takes it, if it can.
    pub(super) fn of(head: &RequestHead, format: impl FnOnce(&Value) -> Option<Value>) -> Self {
        let Some(schema) = &head.output_schema else { return Self::Free };
        let by_tool = || spec(schema).map_or_else(|| Self::Words(schema.clone()), Self::Tool);
        match head.settings.structured {
            Structured::Native => format(schema).map_or_else(by_tool, Self::Format),
            Structured::Tool => by_tool(),
            Structured::Prompt => Self::Words(schema.clone()),
        }
    }

    /// The system prompt, with what has to be said of the output behind it. `forced` says whether the model can do
    /// nothing but call tools.
    pub(super) fn system(&self, system: &str, forced: bool) -> String {
        let text = match self {
            Self::Words(schema) => format!(
                "Your final answer is one JSON value that fits this JSON Schema, with no text and no code fence \
                 around it:\n{schema}"
            ),
            Self::Tool(_) if !forced => format!("Give your final answer by calling the tool {STRUCTURED_OUTPUT}."),
            _ => return system.to_owned(),
        };
        if system.is_empty() { text } else { format!("{system}\n\n{text}") }
    }
}

/// The option that stood for `structured: prompt` and is refused now.
const OUTPUT_FORMAT: &str = "output_format";

/// Refuses options that the agent loop sets itself.
///
/// # Errors
/// `Configuration`, with the option.
pub(super) fn refuse_reserved(head: &RequestHead, reserved: &[&str]) -> Result<(), Failure> {
    if head.options.contains_key(OUTPUT_FORMAT) {
        return Err(wrong_option(head, "output_format is now `structured: prompt` of the model"));
    }
    match reserved.iter().find(|key| head.options.contains_key(**key)) {
        Some(key) => Err(wrong_option(head, &format!("{key} is set by the agent loop; remove it"))),
        None => Ok(()),
    }
}

/// An option that cannot be sent.
pub(super) fn wrong_option(head: &RequestHead, text: &str) -> Failure {
    Failure::new(FailureClass::Configuration, format!("model {}: the option {text}", head.alias))
}

/// Whether the model thinks before it answers: then the API lets nobody force a tool upon it.
pub(super) fn thinks(options: &Map<String, Value>) -> bool {
    options.get("thinking").is_some_and(|thinking| thinking["type"] != "disabled")
}
