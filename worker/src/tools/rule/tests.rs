#![allow(clippy::unwrap_used, clippy::panic)]
use Reading::{Grants, Takes};
use serde_json::json;

use super::*;

fn bash(command: &str) -> Value {
    json!({"command": command})
}

#[test]
fn rules_fit_what_the_truth_table_says() {
    let read = |path: &str| json!({"file_path": path});
    let grep = |path: &str| json!({"pattern": "x", "path": path});
    let fetch = |url: &str| json!({"url": url});
    let none = json!({});
    // rule, tool, arguments, fits when it grants, fits when it takes
    let table: Vec<(&str, &str, Value, bool, bool)> = vec![
        ("Read", "Read", read("a"), true, true),
        ("Read", "Write", read("a"), false, false),
        ("Read", "ReadMore", read("a"), false, false),
        ("Read(*)", "Read", read("../a"), true, true),
        ("Bash", "Bash", bash("rm -rf /; x"), true, true),
        ("Bash(*)", "Bash", bash("a | b"), true, true),
        ("Bash(npm test)", "Bash", bash("npm test"), true, true),
        ("Bash(npm test)", "Bash", bash("  npm test\n"), true, true),
        ("Bash(npm test)", "Bash", bash("npm test --all"), false, false),
        ("Bash(npm test)", "Bash", bash("npm tests"), false, false),
        ("Bash(npm test)", "Bash", bash("npm test; rm x"), false, true),
        ("Bash(a | b)", "Bash", bash("a | b"), true, true),
        ("Bash(git diff:*)", "Bash", bash("git diff"), true, true),
        ("Bash(git diff:*)", "Bash", bash("git diff HEAD~1 -- src"), true, true),
        ("Bash(git diff:*)", "Bash", bash("git  diff  HEAD"), true, true),
        ("Bash(git diff:*)", "Bash", bash("git difftool"), false, false),
        ("Bash(git diff:*)", "Bash", bash("git log"), false, false),
        ("Bash(git diff:*)", "Bash", bash("git diff; rm -rf ."), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff && rm -rf ."), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff || true"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff | sh"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff & sh"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff `rm x`"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff $(rm x)"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff ${X:=y}"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff $X"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff > ../file"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff < file"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff <(rm x)"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff\nrm x"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff\rrm x"), false, true),
        ("Bash(git diff:*)", "Bash", bash("git diff \"a;b\""), false, true),
        ("Bash(git diff:*)", "Bash", bash("{ git diff; }"), false, true),
        ("Bash(git diff:*)", "Bash", bash("A=1 git diff x; y"), false, true),
        ("Bash(rm:*)", "Bash", bash("echo a; rm -rf x"), false, true),
        ("Bash(rm:*)", "Bash", bash("true && sudo env A=b rm x"), false, true),
        ("Bash(rm:*)", "Bash", bash("echo $(rm x)"), false, true),
        ("Bash(rm:*)", "Bash", bash("ls\nrm x"), false, true),
        ("Bash(rm:*)", "Bash", bash("charm"), false, false),
        ("Bash(npm run *)", "Bash", bash("npm run build"), true, true),
        ("Bash(npm run *)", "Bash", bash("npm run build; x"), false, true),
        ("Bash(npm run *)", "Bash", bash("npm install"), false, false),
        ("Bash(git * main)", "Bash", bash("git push origin main"), true, true),
        ("Bash(git * main)", "Bash", bash("git push origin dev"), false, false),
        ("Bash(git diff:*)", "Bash", none.clone(), false, false),
        ("Read(src/**)", "Read", read("src/a.rs"), true, true),
        ("Read(src/**)", "Read", read("./src/deep/a.rs"), true, true),
        ("Read(./src/**)", "Read", read("src/a.rs"), true, true),
        ("Read(src/**)", "Read", read("/w/src/a.rs"), true, true),
        ("Read(src/**)", "Read", read("/elsewhere/src/a.rs"), false, true),
        ("Read(src/**)", "Read", read("srcs/a.rs"), false, false),
        ("Read(src/**)", "Read", read("src/../secret"), false, false),
        ("Read(secret/**)", "Read", read("src/../secret/key"), false, true),
        ("Read(*.md)", "Read", read("README.md"), true, true),
        ("Read(*.md)", "Read", read("docs/README.md"), false, false),
        ("Read(**/*.md)", "Read", read("docs/README.md"), true, true),
        ("Grep(src/**)", "Grep", grep("src"), true, true),
        ("Grep(src/**)", "Grep", none.clone(), false, true),
        ("Grep(src/**)", "Grep", grep("docs"), false, false),
        ("Grep(**/*.key)", "Grep", grep("docs"), false, true),
        ("Glob(src/deep/**)", "Glob", grep("src"), false, true),
        ("WebFetch(domain:example.com)", "WebFetch", fetch("https://example.com/a"), true, true),
        ("WebFetch(domain:Example.com)", "WebFetch", fetch("http://EXAMPLE.com.:8080"), true, true),
        ("WebFetch(domain:example.com)", "WebFetch", fetch("https://www.example.com"), false, false),
        ("WebFetch(domain:example.com)", "WebFetch", fetch("https://example.com.evil.org"), false, false),
        ("WebFetch(domain:example.com)", "WebFetch", fetch("https://example.com@evil.org"), false, false),
        ("WebFetch(domain:*.example.com)", "WebFetch", fetch("https://www.example.com"), true, true),
        ("WebFetch(domain:*.example.com)", "WebFetch", fetch("https://example.com"), false, false),
        ("WebFetch(domain:*.example.com)", "WebFetch", fetch("https://notexample.com"), false, false),
        ("WebFetch(domain:example.com)", "WebFetch", fetch("no url"), false, false),
        ("mcp__github__*", "mcp__github__get_issue", none.clone(), true, true),
        ("mcp__github", "mcp__github__get_issue", none.clone(), true, true),
        ("mcp__github__get_issue", "mcp__github__get_issue", none.clone(), true, true),
        ("mcp__github__get_*", "mcp__github__set_issue", none.clone(), false, false),
        ("mcp__github__*", "mcp__githubber__get", none.clone(), false, false),
        ("mcp__github", "mcp__githubber__get", none, false, false),
    ];
    assert!(table.len() >= 40);
    for (rule, tool, arguments, grants, takes) in &table {
        let subject = Subject { tool, arguments, workspace: Some(Path::new("/w")) };
        let parsed = Rule::parse(rule).unwrap();
        assert_eq!(parsed.fits(subject, Grants), *grants, "{rule} grants {tool} {arguments}");
        assert_eq!(parsed.fits(subject, Takes), *takes, "{rule} takes {tool} {arguments}");
    }
}

#[test]
fn what_is_no_rule_is_refused_with_the_reason() {
    for (rule, why) in [
        ("", "names no tool"),
        ("(x)", "names no tool"),
        ("Bash(", "not closed"),
        ("Bash(git diff:*", "not closed"),
        ("Bash()", "empty"),
        ("Re ad", "characters"),
        ("Read*", "only the tools of MCP servers"),
        ("*", "only the tools of MCP servers"),
        ("Bash(a;b:*)", "plain words"),
        ("Bash(a | *)", "operators"),
        ("Read(/etc/**)", "relative"),
        ("Read(../**)", "relative"),
        ("Read(a{)", "not valid"),
        ("WebFetch(example.com)", "domain:"),
        ("WebFetch(domain:)", "host name"),
        ("WebFetch(domain:a/b)", "host name"),
        ("mcp__a__b(x)", "takes no pattern"),
    ] {
        let error = Rule::parse(rule).unwrap_err().to_string();
        assert!(error.contains(why), "{rule}: {error}");
    }
}

fn permissions(allow: Option<&[&str]>, deny: &[&str]) -> Permissions {
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Permissions::parse(allow.map(own).as_deref(), &own(deny)).unwrap()
}

#[test]
fn deny_beats_allow_and_a_pattern_offers_the_tool_but_refuses_other_calls() {
    let permissions = permissions(Some(&["Read", "Bash(git:*)", "Write"]), &["Write", "Bash(git push:*)"]);
    assert!(permissions.offers("Read") && permissions.offers("Bash"));
    assert!(!permissions.offers("Write") && !permissions.offers("Edit"));
    let verdict =
        |command: &str| permissions.verdict(Subject { tool: "Bash", arguments: &bash(command), workspace: None });
    assert_eq!(verdict("git log"), Verdict::Allowed);
    assert!(matches!(verdict("git push"), Verdict::Refused(why) if why.contains("Bash(git push:*)")));
    assert!(matches!(verdict("ls"), Verdict::Refused(why) if why.contains("Bash(git:*)")));
    assert!(matches!(verdict("git log; git push"), Verdict::Refused(_)));
}

#[test]
fn without_an_allow_list_all_is_allowed_that_is_not_denied() {
    let permissions = permissions(None, &["Bash(rm:*)"]);
    assert!(permissions.offers("Bash") && permissions.offers("anything"));
    let verdict =
        |command: &str| permissions.verdict(Subject { tool: "Bash", arguments: &bash(command), workspace: None });
    assert_eq!(verdict("ls"), Verdict::Allowed);
    assert!(matches!(verdict("ls && rm x"), Verdict::Refused(_)));
}

#[test]
fn the_longest_rule_that_fits_gives_the_class() {
    let rules = [
        ("Bash", Effect::Keyed),
        ("Bash(git:*)", Effect::Read),
        ("Bash(git push:*)", Effect::Once),
        ("mcp__memory__*", Effect::Keyed),
        ("mcp__memory__read_graph", Effect::Read),
    ];
    let effects = Effects::parse(&rules.map(|(rule, effect)| (rule.to_owned(), effect)).into()).unwrap();
    let of = |tool: &str, arguments: &Value| effects.of(Subject { tool, arguments, workspace: None });
    for (command, class) in [
        ("ls", Effect::Keyed),
        ("git diff", Effect::Read),
        ("git push origin", Effect::Once),
        ("git diff; git push", Effect::Once),
        ("git diff; ls", Effect::Keyed),
    ] {
        assert_eq!(of("Bash", &bash(command)), Some(class), "{command}");
    }
    assert_eq!(of("mcp__memory__read_graph", &Value::Null), Some(Effect::Read));
    assert_eq!(of("mcp__memory__create", &Value::Null), Some(Effect::Keyed));
    assert_eq!(of("Read", &Value::Null), None);
}
