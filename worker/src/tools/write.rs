//! `Write`: a file as a whole.

use async_trait::async_trait;
use common::journal::Effect;
use serde::Deserialize;
use serde_json::{Value, json};

use super::blocking;
use super::workspace::Workspace;
use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec, arguments};

/// Writes a file of the working directory. `keyed`: writing the same contents
/// to the same place again changes nothing.
#[derive(Debug)]
pub struct Write {
    spec: ToolSpec,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    file_path: String,
    content: String,
}

impl Default for Write {
    fn default() -> Self {
        Self {
            spec: ToolSpec {
                name: "Write".to_owned(),
                description: "Writes a file of the working directory, with the directories that it needs. \
                              Replaces what was there; to change a part of a file, use Edit."
                    .to_owned(),
                input_schema: json!({
                    "type": "object",
                    "properties": {
                        "file_path": {"type": "string", "description": "The file, relative to the working directory"},
                        "content": {"type": "string", "description": "All of its contents"}
                    },
                    "required": ["file_path", "content"],
                    "additionalProperties": false
                }),
            },
        }
    }
}

#[async_trait]
impl Tool for Write {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        Effect::Keyed
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let Arguments { file_path, content } = arguments(&call)?;
        let context = call.context;
        blocking::run(context.timeout, move |wanted| {
            let written = Workspace::open(&context.workspace).and_then(|workspace| {
                let path = workspace.relative(&file_path)?;
                workspace.replace_file(&path, content.as_bytes(), &call.key, || wanted.check())
            });
            match written {
                Ok(Ok(())) => Ok(ToolAnswer::text(format!("Wrote {} bytes to {file_path}.", content.len()))),
                Ok(Err(unwanted)) => Err(unwanted),
                Err(refusal) => Ok(ToolAnswer::error(refusal.to_string())),
            }
        })
        .await
    }
}
