//! What holds where nobody says anything, in the form of settings.

use serde_json::{Value, json};

use super::{Level, Setting};
use crate::config::{Limits, Permissions, Sandbox, SandboxPolicy};

/// The defaults of what organisations can bound.
pub fn defaults() -> Vec<Setting> {
    let mut all = Vec::new();
    let mut add = |key: String, value: Value| {
        all.push(Setting { key, value, layer: Level::Default, file: String::new(), line: None, at: None });
    };
    let permissions = Permissions::default();
    add("permissions.votes".to_owned(), json!(permissions.votes));
    add("permissions.expires".to_owned(), json!(permissions.expires));
    add("permissions.allow_bypass".to_owned(), json!(permissions.allow_bypass));
    let Limits {
        webhook_body,
        input,
        journal,
        values,
        batch_body,
        json_depth,
        tool_output,
        tool_shown,
        queue_depth,
        barren_attempts,
        foreach_items,
        child_depth,
        mcp_tools,
    } = Limits::default();
    let sizes = [
        ("webhook_body", webhook_body),
        ("input", input),
        ("journal", journal),
        ("values", values),
        ("batch_body", batch_body),
        ("tool_output", tool_output),
        ("tool_shown", tool_shown),
    ];
    for (key, size) in sizes {
        add(format!("limits.{key}"), json!(size.0));
    }
    let numbers = [
        ("json_depth", json!(json_depth)),
        ("queue_depth", json!(queue_depth)),
        ("barren_attempts", json!(barren_attempts)),
        ("foreach_items", json!(foreach_items)),
        ("child_depth", json!(child_depth)),
        ("mcp_tools", json!(mcp_tools)),
    ];
    for (key, number) in numbers {
        add(format!("limits.{key}"), number);
    }
    let sandbox = Sandbox::default();
    let server = SandboxPolicy { writes_cwd: false, ..sandbox.run() };
    for (kind, policy) in [("bash", sandbox.bash()), ("run", sandbox.run()), ("mcp", server)] {
        add(format!("sandbox.{kind}.mode"), json!("prefer"));
        add(format!("sandbox.{kind}.network"), json!(policy.network));
        add(format!("sandbox.{kind}.read"), json!(policy.read));
        add(format!("sandbox.{kind}.write"), json!(policy.write));
        let numbers = [
            ("memory", policy.memory),
            ("processes", policy.processes.map(u64::from)),
            ("file_size", policy.file_size),
            ("open_files", policy.open_files.map(u64::from)),
        ];
        for (key, number) in numbers {
            if let Some(number) = number {
                add(format!("sandbox.{kind}.{key}"), json!(number));
            }
        }
        if let Some(cpu) = policy.cpu {
            add(format!("sandbox.{kind}.cpu"), json!(crate::span::Span::clamped(cpu)));
        }
    }
    all
}
