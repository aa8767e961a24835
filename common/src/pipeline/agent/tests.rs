#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::journal::HookEvent;

fn parse(text: &str) -> (Option<AgentFile>, Diagnostics) {
    let mut out = Diagnostics::new();
    (read(&SourceFile::new("agents/a.md", text), "a", &mut out), out)
}

/// A file as Claude Code writes it.
const REVIEWER: &str = r#"---
name: code-reviewer
description: "Use this agent to review code. Examples: <example>user: hi</example>"
tools: Read, Grep, Glob, Bash(git diff:*, git log:*), mcp__memory__read_graph
disallowedTools: [Write, Edit]
model: inherit
maxTurns: 12
permissionMode: plan
mcpServers:
  - memory
effort: high
background: true
color: purple
hooks:
  PreToolUse:
    - matcher: Bash
      hooks: [{ type: command, command: "./check.sh", timeout: 5 }]
skills: [review]
---

You review code.

---

A line of dashes does not end the prompt.
"#;

#[test]
fn an_agent_of_claude_code_works_as_it_is() {
    let (file, out) = parse(REVIEWER);
    let agent = file.unwrap_or_else(|| panic!("{out}")).agent;
    assert_eq!(agent.name, "code-reviewer");
    let tools = ["Read", "Grep", "Glob", "Bash(git diff:*, git log:*)", "mcp__memory__read_graph"];
    assert_eq!(agent.tools.unwrap(), tools);
    assert_eq!(agent.disallowed_tools, ["Write", "Edit"]);
    assert_eq!((agent.model, agent.max_turns, agent.effort.as_deref()), (None, Some(12), Some("high")));
    assert_eq!(agent.mcp_servers.unwrap(), ["memory"]);
    assert_eq!(agent.hooks.about(HookEvent::PreToolUse, "Bash").count(), 1);
    assert!(agent.system.starts_with("You review code.") && agent.system.ends_with("end the prompt."));
}

#[test]
fn what_is_not_honoured_is_reported_in_its_place() {
    let (file, out) = parse(REVIEWER);
    assert_eq!(file.unwrap().agent.unsupported, ["color", "skills"]);
    let lines: Vec<_> = out.iter().map(|warning| warning.line.unwrap()).collect();
    assert_eq!((out.errors(), lines), (0, vec![13, 18]), "{out}");
    let (file, out) = parse("---\nname: a\ncolour: red\n---\nx\n");
    assert!(file.is_some());
    assert_eq!((out.errors(), out.warnings(), out.iter().next().unwrap().line), (0, 1, Some(3)), "{out}");
}

#[test]
fn whom_it_may_call_is_said_by_its_tools() {
    let calls = |front: &str, own: &str| {
        let agent = parse(&format!("---\n{front}\n---\nx\n")).0.unwrap().agent;
        agent.calls.of(["a", "b", "c"].into_iter(), own).join(",")
    };
    for (front, callees) in [
        ("tools: Read", ""),
        ("name: a", ""),
        ("tools: Agent", "b,c"),
        ("tools: Read, Agent(*)", "b,c"),
        ("tools: Agent(a, c), Read", "a,c"),
        ("tools: [Agent(b), Agent(c)]", "b,c"),
        ("tools: Agent(b, c)\ndisallowedTools: Agent(c)", "b"),
        ("tools: Agent\ndisallowedTools: Agent(c), Bash", "b"),
        ("tools: Agent(b)\ndisallowedTools: Agent", ""),
        ("tools: AgentX", ""),
    ] {
        assert_eq!(calls(front, "a"), callees, "{front}");
    }
}

#[test]
fn line_ends_and_byte_order_marks_make_no_difference() {
    let windows = format!("\u{feff}{}", REVIEWER.replace('\n', "\r\n"));
    assert_eq!(parse(&windows).0, parse(REVIEWER).0);
}

#[test]
fn the_name_is_that_of_the_file_where_none_is_said() {
    let agent = parse("---\ndescription: x\n---\nHi\n").0.unwrap().agent;
    assert_eq!((agent.name.as_str(), agent.tools, agent.system.as_str()), ("a", None, "Hi"));
    assert_eq!(parse("---\n---\nHi").0.unwrap().agent.name, "a");
}

#[test]
fn what_is_wrong_is_reported_in_its_place() {
    for (text, place, message) in [
        ("You are an agent.", (1, 1), "no front matter"),
        ("", (1, 1), "no front matter"),
        ("---\nname: a\n", (1, 1), "no front matter"),
        ("--- x\nname: a\n---\n", (1, 1), "no front matter"),
        ("---\nname: a\nmaxTurns: many\n---\nx", (3, 11), "expected u32"),
        ("---\nname: a\nmaxTurns: 0\n---\nx", (3, 11), "at least 1"),
        ("---\nname: a\ntools: {Read: true}\n---\nx", (3, 8), "expected a list"),
        ("---\nname: [a]\n---\nx", (2, 7), "expected a string"),
        ("---\n- a\n---\nx", (2, 1), "must be a mapping"),
    ] {
        let (file, out) = parse(text);
        assert!(file.is_none(), "{text}");
        let found =
            out.iter().find(|problem| problem.message.contains(message)).unwrap_or_else(|| panic!("{text}\n{out}"));
        assert_eq!((found.line, found.column), (Some(place.0), Some(place.1)), "{text}\n{found}");
    }
    let (_, out) = parse("---\nname: a\ndescription: use it: always\n---\nx");
    assert!(out.iter().any(|problem| problem.help.as_deref().is_some_and(|help| help.contains("quote"))), "{out}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(front in "(\\PC|\n){0,120}", body in "(\\PC|\n){0,40}") {
        parse(&front);
        parse(&format!("---\n{front}\n---\n{body}"));
    }
}
