//! Calls of tools outside of a task.
#![allow(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

use std::path::Path;
use std::time::Duration;

use common::clock::Timestamp;
use common::id::TaskId;
use serde_json::Value;
use worker::tools::{CallContext, Tool, ToolAnswer, ToolCall, ToolError};

/// The longest that a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A call as the executor makes it.
pub fn call(tool: &dyn Tool, arguments: Value, workspace: &Path) -> ToolCall {
    ToolCall {
        name: tool.spec().name.clone(),
        arguments,
        key: "task/step/call".to_owned(),
        context: CallContext {
            task: TaskId::new(Timestamp::from_millis(1), [7; 10]),
            epoch: 1,
            workspace: workspace.to_owned(),
            output_limit: 1 << 20,
            timeout: Duration::from_secs(20),
            traceparent: None,
        },
    }
}

/// The text of an answer that is no error.
pub fn ok_text(answer: &Result<ToolAnswer, ToolError>) -> String {
    match answer {
        Ok(ToolAnswer { content: Value::String(text), is_error: false }) => text.clone(),
        other => panic!("expected a text, got {other:?}"),
    }
}

/// The text of an answer that the tool calls an error.
pub fn error_text(answer: &Result<ToolAnswer, ToolError>) -> String {
    match answer {
        Ok(ToolAnswer { content: Value::String(text), is_error: true }) => text.clone(),
        other => panic!("expected an error of the tool, got {other:?}"),
    }
}

/// Waits until a file is there and not empty.
pub async fn file_appears(path: &Path) {
    until(&format!("{} appears", path.display()), || std::fs::metadata(path).is_ok_and(|file| file.len() > 0)).await;
}

/// Waits until a process has ended and is no child of ours any more.
/// One that was orphaned may wait as a zombie for its new parent.
pub async fn process_is_gone(id: i32) {
    until(&format!("process {id} is gone"), || match std::fs::read_to_string(format!("/proc/{id}/stat")) {
        Err(_) => true,
        Ok(stat) => {
            let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
            let (state, parent) = (fields.next().unwrap(), fields.next().unwrap());
            state == "Z" && parent != std::process::id().to_string()
        }
    })
    .await;
}

/// Polls for something that cannot be waited for otherwise.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "it never came that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
