#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::diagnostic::{Diagnostics, SourceFile};
use crate::document::Node;

fn parse(text: &str, author: Author) -> (Hooks, Diagnostics) {
    let file = SourceFile::new("teamster.yaml", text);
    let mut out = Diagnostics::new();
    let hooks = read(&Node::parse(&file).unwrap(), author, &file, &mut out);
    (hooks, out)
}

fn command(text: &str) -> Hook {
    Hook { handler: HookHandler::Command(text.to_owned()), timeout: TIMEOUT }
}

#[test]
fn settings_of_claude_code_are_read_as_they_are() {
    let text = r#"{
        "PreToolUse": [
            {"matcher": "Bash", "hooks": [{"type": "command", "command": "check.sh", "timeout": 30}]},
            {"matcher": "Write|Edit", "hooks": [
                {"type": "command", "command": "a", "statusMessage": "Checking"},
                {"type": "http", "url": "https://policy.example/hooks", "headers": {"X-Team": "sales"}, "timeout": "500ms"}
            ]}
        ],
        "Stop": [{"hooks": [{"type": "command", "command": "done"}]}]
    }"#;
    let (hooks, out) = parse(text, Author::Operator);
    assert!(out.is_empty(), "{out}");
    let about = |event, subject: &str| {
        hooks.about(event, subject).map(|hook| (hook.name(), hook.timeout.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(about(HookEvent::PreToolUse, "Bash"), [("check.sh".to_owned(), "30s".to_owned())]);
    let both = [("a".to_owned(), "1m".to_owned()), ("https://policy.example/hooks".to_owned(), "500ms".to_owned())];
    assert_eq!(about(HookEvent::PreToolUse, "Edit"), both);
    assert!(about(HookEvent::PreToolUse, "Read").is_empty() && about(HookEvent::PostToolUse, "Bash").is_empty());
    assert_eq!(about(HookEvent::Stop, "").len(), 1);
    assert!(hooks.start_programs() && !hooks.is_empty());
}

#[test]
fn a_matcher_fits_what_claude_code_says_it_fits() {
    let table = [
        ("", "Bash", true),
        ("*", "Bash", true),
        ("Bash", "Bash", true),
        ("Bash", "BashOutput", false),
        ("bash", "Bash", false),
        ("Write|Edit", "Edit", true),
        ("Write, Edit", "Edit", true),
        ("Write|Edit", "WriteEdit", false),
        ("mcp__crm__write", "mcp__crm__write", true),
        ("mcp__crm__.*", "mcp__crm__write", true),
        ("mcp__crm__.*", "mcp__mail__send", false),
        ("mcp__.*__write.*", "mcp__crm__write_contact", true),
        ("^Notebook", "NotebookEdit", true),
        ("^Edit$", "NotebookEdit", false),
        ("Edit.?", "NotebookEdit", true),
        (".*", "anything", true),
        ("code-reviewer", "code-reviewer", true),
        ("code-reviewer", "code-reviewer-2", false),
    ];
    for (matcher, name, fits) in table {
        let matcher = Matcher::try_from(matcher.to_owned()).unwrap();
        assert_eq!(matcher.fits(name), fits, "{matcher:?} {name}");
    }
    for wrong in ["(", "a||b", "Bash|", "mcp__crm", "Bash|mcp__crm", "(?=x)"] {
        assert!(Matcher::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
}

#[test]
fn what_would_not_be_asked_is_an_error_in_its_place() {
    let table = [
        ("SessionStart: []", 1, "`SessionStart` are never asked"),
        ("PreToolUze: []", 1, "did you mean `PreToolUse`?"),
        ("PreToolUse:\n  - matcher: Bash", 2, "hooks"),
        ("PreToolUse:\n  - hooks:\n      - { type: prompt, prompt: Fine? }", 3, "prompt"),
        ("PreToolUse:\n  - hooks:\n      - { type: command }", 3, "`command`"),
        ("PreToolUse:\n  - hooks:\n      - { type: command, command: ' ' }", 3, "empty"),
        ("PreToolUse:\n  - hooks:\n      - { type: command, command: x, if: 'Bash(rm *)' }", 3, "if"),
        ("PreToolUse:\n  - hooks:\n      - { type: command, command: x, async: true }", 3, "async"),
        ("PreToolUse:\n  - hooks:\n      - { type: command, command: x, timeout: 0 }", 3, "timeout"),
        ("PreToolUse:\n  - hooks:\n      - { type: command, command: x, timeout: 1h }", 3, "timeout"),
        ("PreToolUse:\n  - hooks:\n      - { type: http, url: 'ftp://x' }", 3, "https://"),
        ("PreToolUse:\n  - hooks:\n      - { type: http, url: 'https://x', command: y }", 3, "no `command`"),
        ("PreToolUse:\n  - matcher: '('\n    hooks: []", 2, "regular expression"),
        ("[PreToolUse]", 1, "a mapping"),
    ];
    for (text, line, said) in table {
        let (_, out) = parse(text, Author::Operator);
        let error = out.iter().next().unwrap_or_else(|| panic!("nothing is said of {text}"));
        assert_eq!((out.errors(), error.line), (1, Some(line)), "{text}: {out}");
        assert!(out.to_string().contains(said), "{text}: {out}");
    }
}

#[test]
fn an_agent_of_another_program_works_without_the_events_that_never_come() {
    let (hooks, out) =
        parse("SessionStart:\n  - hooks: []\nStop:\n  - hooks: [{ type: command, command: x }]", Author::Agent);
    assert_eq!((out.errors(), out.warnings()), (0, 1), "{out}");
    assert_eq!(hooks.about(HookEvent::Stop, "").count(), 1);
}

#[test]
fn a_hook_of_an_agent_gets_no_secrets_of_the_installation() {
    let text = "Stop:\n  - hooks: [{ type: http, url: 'https://x', headers: { Authorization: 'env:KEY' } }]";
    assert_eq!(parse(text, Author::Operator).1.errors(), 0);
    let (_, out) = parse(text, Author::Agent);
    assert!(out.has_errors() && out.to_string().contains("teamster.yaml"), "{out}");
}

#[test]
fn the_name_of_a_hook_says_which_it_is_and_no_secret() {
    let table = [
        ("check.sh", "check.sh"),
        (
            "python3 \"$CLAUDE_PROJECT_DIR\"/hooks/check.py --token hunter2",
            "python3 \"$CLAUDE_PROJECT_DIR\"/hooks/check.py",
        ),
        ("TOKEN=hunter2 ./check hunter2", "./check"),
        ("curl -H 'Authorization: hunter2'", "curl"),
        ("(echo hunter2)", "command"),
        ("jq -e '.x'", "jq"),
    ];
    for (text, name) in table {
        assert_eq!(command(text).name(), name);
    }
    let url = "https://ann:hunter2@policy.example/hooks?key=hunter2#hunter2".to_owned();
    let http = Hook { handler: HookHandler::Http { url, headers: BTreeMap::new() }, timeout: TIMEOUT };
    assert_eq!(http.name(), "https://policy.example/hooks");
    assert_eq!(command(&"x".repeat(500)).name().chars().count(), NAME);
}
