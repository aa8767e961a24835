//! A content block, put together from its deltas: pure.

use serde_json::{Map, Value};

use super::super::wire::errors::StreamFault;

/// A block under way.
#[derive(Debug)]
pub(super) struct Block {
    value: Map<String, Value>,
    /// The pieces of `input`, which is parsed when it is whole.
    input: String,
}

impl Block {
    /// As the stream starts it.
    pub(super) fn new(value: Map<String, Value>) -> Self {
        Self { value, input: String::new() }
    }

    /// Takes in a delta.
    pub(super) fn apply(&mut self, delta: Value) -> Result<(), StreamFault> {
        let Value::Object(mut delta) = delta else {
            return Err(StreamFault::Malformed("a delta is no object".to_owned()));
        };
        let kind = delta.shift_remove("type");
        match kind.as_ref().and_then(Value::as_str) {
            Some("text_delta") => self.append("text", &delta),
            Some("thinking_delta") => self.append("thinking", &delta),
            Some("input_json_delta") => {
                self.input.push_str(delta.get("partial_json").and_then(Value::as_str).unwrap_or_default());
            }
            Some("signature_delta") => {
                if let Some(signature) = delta.shift_remove("signature") {
                    self.value.insert("signature".to_owned(), signature);
                }
            }
            Some("citations_delta") => {
                let citation = delta.shift_remove("citation").unwrap_or_default();
                self.merge("citations".to_owned(), Value::Array(vec![citation]));
            }
            // A delta that is not known: what it carries is joined to what is there.
            _ => delta.into_iter().for_each(|(key, value)| self.merge(key, value)),
        }
        Ok(())
    }

    fn append(&mut self, key: &str, delta: &Map<String, Value>) {
        if let Some(piece) = delta.get(key) {
            self.merge(key.to_owned(), piece.clone());
        }
    }

    fn merge(&mut self, key: String, piece: Value) {
        match (self.value.get_mut(&key), piece) {
            (Some(Value::String(whole)), Value::String(piece)) => whole.push_str(&piece),
            (Some(Value::Array(whole)), Value::Array(piece)) => whole.extend(piece),
            (_, piece) => {
                self.value.insert(key, piece);
            }
        }
    }

    /// The whole block; a fault, if its arguments are no JSON.
    pub(super) fn finish(mut self) -> Result<Value, StreamFault> {
        if !self.input.is_empty() {
            let input: Value = serde_json::from_str(&self.input).map_err(|e| {
                StreamFault::Malformed(format!("the arguments of the tool call {} are no JSON: {e}", self.label()))
            })?;
            self.value.insert("input".to_owned(), input);
        }
        Ok(Value::Object(self.value))
    }

    fn label(&self) -> String {
        let text = |key: &str| self.value.get(key).and_then(Value::as_str).unwrap_or("?");
        format!("{} ({})", text("id"), text("name"))
    }
}
