//! `Bash`: a shell command.
//!
//! The command runs in the working directory, in a process group of its own,
//! with none of the worker's environment but `PATH` and `LANG`. A stranger's
//! text may have led the model to it, so that by default it is closed in: it
//! reads the system's programs and its directory, writes only there and below
//! `TMPDIR`, has no network, and is bounded in what it uses (`sandbox.bash`).

use std::time::Duration;

use async_trait::async_trait;
use common::journal::Effect;
use sandbox::Sandbox;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec, arguments};
use crate::process::{Ended, Program, environment, run_program};

/// How long a command may take if the call does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a command may take at most.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest command, in bytes: what the kernel takes as one argument.
const COMMAND: usize = 128 << 10;

/// Runs a command with `bash -c`. `once`, unless a rule of the operator says otherwise.
#[derive(Debug)]
pub struct Bash {
    spec: ToolSpec,
    sandbox: Sandbox,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    command: String,
    timeout: Option<u64>,
}

impl Bash {
    /// Commands run in this sandbox.
    pub fn new(sandbox: Sandbox) -> Self {
        let confined = if sandbox.is_off() {
            ""
        } else if sandbox.allows_network() {
            " Only the working directory can be written, and $TMPDIR, which goes with the call."
        } else {
            " Only the working directory can be written, and $TMPDIR, which goes with the call. There is no network."
        };
        Self {
            sandbox,
            spec: ToolSpec {
                name: "Bash".to_owned(),
                description: format!(
                    "Runs a command with bash in the working directory and answers with what it wrote and its exit \
                     code. Every call is a new shell: `cd` and variables do not last. There is no terminal and no \
                     stdin; processes left in the background are killed when the command ends.{confined} A command may \
                     take {} s unless `timeout` says otherwise.",
                    DEFAULT_TIMEOUT.as_secs()
                ),
                input_schema: json!({
                    "type": "object",
                    "properties": {
                        "command": {"type": "string", "minLength": 1, "description": "The command"},
                        "timeout": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT.as_secs() * 1000,
                                    "description": "How long it may take, in milliseconds"},
                        "description": {"type": "string", "description": "What it does, in a few words"}
                    },
                    "required": ["command"],
                    "additionalProperties": false
                }),
            },
        }
    }
}

#[async_trait]
impl Tool for Bash {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        Effect::Once
    }

    /// A command that takes too long is killed and answered as an error with
    /// what it wrote so far: what happened is known, it was stopped half way.
    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let Arguments { command, timeout } = arguments(&call)?;
        if command.contains('\0') || command.len() >= COMMAND {
            return Ok(ToolAnswer::error("the command contains a NUL or is longer than 128 KiB"));
        }
        let context = call.context;
        let timeout = timeout.map_or(DEFAULT_TIMEOUT, Duration::from_millis).min(MAX_TIMEOUT).min(context.timeout);
        let outcome = run_program(Program {
            argv: vec!["bash".to_owned(), "-c".to_owned(), command],
            env: environment(&context.workspace, []),
            sandbox: self.sandbox.clone(),
            cwd: context.workspace,
            stdin: None,
            timeout,
            output_limit: context.output_limit / 2,
        })
        .await
        .map_err(ToolError::Failed)?;
        let mut text = outcome.stdout.text();
        if !outcome.stderr.is_empty() {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&outcome.stderr.text());
        }
        let error = match outcome.ended {
            Ended::Exited(0) => None,
            Ended::Exited(code) => Some(format!("Exit code {code}")),
            Ended::Signalled(signal) => Some(format!("Killed by signal {signal}")),
            Ended::TimedOut => Some(format!("Killed after {} s, its timeout", timeout.as_secs_f64())),
        };
        Ok(match error {
            Some(error) => ToolAnswer::error(format!("{error}\n{text}")),
            None if text.is_empty() => ToolAnswer::text("(no output)"),
            None => ToolAnswer::text(text),
        })
    }
}
