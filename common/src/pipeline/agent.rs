//! Agents: Markdown files in the format of Claude Code subagents: YAML front
//! matter between `---` lines, then the system prompt.

use crate::config::hooks::{self, Author};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
use crate::document::{Kind, Node, Table};
use crate::pipeline::model::{Agent, Callees};

/// Fields that Claude Code knows and this version does not honour, with the reason.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("color", "there is nothing to colour"),
    ("skills", "write what the agent must know into its prompt"),
    ("memory", "give it an MCP server that remembers"),
    ("isolation", "every task has a working directory of its own"),
    ("initialPrompt", "the step's `prompt` is the first message"),
    ("criticalSystemReminder_EXPERIMENTAL", "write it into the prompt"),
    ("maxThinkingTokens", "set `options` of the model in teamster.yaml"),
];

/// An agent's file, read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AgentFile {
    pub(crate) agent: Agent,
    /// Where its `model` is named.
    pub(crate) model_at: Option<Place>,
    /// Where its `tools` are named.
    pub(crate) tools_at: Option<Place>,
    /// Where its `mcpServers` are named.
    pub(crate) servers_at: Option<Place>,
    /// Where its `guards` are named.
    pub(crate) guards_at: Option<Place>,
}

/// Reads an agent. `default_name` is the name of its file without the ending.
pub(crate) fn read(file: &SourceFile, default_name: &str, out: &mut Diagnostics) -> Option<AgentFile> {
    let Some((front, system)) = split(&file.text) else {
        let error = file.error(Place { line: 1, column: 1 }, "the file has no front matter");
        out.push(error.with_help("start it with `---`, a line `name: …`, a line `description: …`, and `---`"));
        return None;
    };
    // The places are those of the whole file: what is cut off is one line, put back as an empty one.
    let front = SourceFile::new(&file.name, &format!("\n{front}"));
    let node = match Node::parse(&front) {
        Ok(Node { kind: Kind::Null, at }) => Node { kind: Kind::Map(Vec::new()), at },
        Ok(node) => node,
        Err(problems) => {
            // Claude Code takes `description: a: b` for a text, which YAML does not.
            let help = "quote texts that contain `: ` or ` #`, or write them after `>-` on a line of their own";
            for problem in problems {
                out.push(problem.with_help(help));
            }
            return None;
        }
    };
    let mut table = Table::of(&node, file, "the front matter", out)?;
    let before = out.errors();
    let name = table.read("name", out).unwrap_or_else(|| default_name.to_owned());
    let description = table.read_or("description", String::new(), out);
    let tools_node = table.get("tools");
    let tools = tools_node.and_then(|node| list(node, file, out));
    let disallowed_tools = table.get("disallowedTools").and_then(|node| list(node, file, out)).unwrap_or_default();
    let model_node = table.get("model");
    let model = model_node.and_then(|node| node.read::<String>(file, out)).filter(|model| model != "inherit");
    let turns_node = table.get("maxTurns");
    let max_turns = turns_node.and_then(|node| node.read(file, out));
    let servers_node = table.get("mcpServers");
    let mcp_servers = servers_node.and_then(|node| list(node, file, out));
    let effort = table.read("effort", out);
    let permission_mode = table.read("permissionMode", out);
    let taint_node = table.get("taint");
    let taint = taint_node.and_then(|node| list(node, file, out)).unwrap_or_default();
    for source in taint.iter().filter(|source| !is_source(source)) {
        let at = taint_node.map(|node| node.at);
        let error = file.error(at, format!("{source:?} is not where text comes from"));
        out.push(error.with_help("use webhook, web, files, tools, or a rule such as mcp__crm__* or Bash(curl:*)"));
    }
    let guards_node = table.get("guards");
    let guards = guards_node.and_then(|node| list(node, file, out)).unwrap_or_default();
    let background = table.read_or("background", false, out);
    let hooks = table.get("hooks").map(|node| hooks::read(node, Author::Agent, file, out)).unwrap_or_default();
    let calls = callees(tools.as_deref().unwrap_or_default(), &disallowed_tools);
    let mut unsupported = Vec::new();
    for (field, reason) in UNSUPPORTED {
        if let Some((key, _)) = table.entry(field) {
            unsupported.push(field.to_owned());
            out.push(file.warning(key.at, format!("`{field}` is not honoured")).with_help(reason));
        }
    }
    // A field that a later Claude Code knows must not make a file unusable.
    let mut unknown = Diagnostics::new();
    table.finish("an agent", &mut unknown);
    for mut field in unknown {
        field.severity = crate::diagnostic::Severity::Warning;
        out.push(field);
    }
    if let (Some(node), Some(0)) = (turns_node, max_turns) {
        out.push(file.error(node.at, "`maxTurns` must be at least 1"));
    }
    if system.trim().is_empty() {
        out.push(file.warning(None, "the agent has no system prompt: there is nothing after its front matter"));
    }
    let agent = Agent {
        name,
        description,
        tools,
        disallowed_tools,
        model,
        max_turns,
        mcp_servers,
        effort,
        calls,
        permission_mode,
        taint,
        guards,
        background,
        hooks,
        system: system.trim().to_owned(),
        unsupported,
    };
    let at = |node: Option<&Node>| node.map(|node| node.at);
    let (model_at, tools_at) = (at(model_node), at(tools_node));
    let (servers_at, guards_at) = (at(servers_node), at(guards_node));
    (out.errors() == before).then_some(AgentFile { agent, model_at, tools_at, servers_at, guards_at })
}

/// Whether something can taint: a kind of source, or the name of a tool with or without a pattern.
fn is_source(text: &str) -> bool {
    let name = text.split('(').next().unwrap_or_default();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'*'));
    let closed = text.contains('(') == text.ends_with(')');
    matches!(text, "webhook" | "web" | "files" | "tools")
        || plain && closed && (name.starts_with("mcp__") || name.starts_with(|first: char| first.is_ascii_uppercase()))
}

/// What the lists say of the tool `Agent`. Deny beats allow, as with every tool.
fn callees(tools: &[String], disallowed: &[String]) -> Callees {
    let named = |rules: &[String]| -> (bool, Vec<String>) {
        let (mut all, mut names) = (false, Vec::new());
        for rule in rules.iter().filter_map(|rule| rule.trim().strip_prefix("Agent")) {
            match rule.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).map(str::trim) {
                None if !rule.is_empty() => {}
                None | Some("*") => all = true,
                Some(list) => names.extend(list.split(',').map(|name| name.trim().to_owned())),
            }
        }
        (all, names)
    };
    let ((all, mut names), (none, except)) = (named(tools), named(disallowed));
    names.retain(|name| !except.contains(name));
    match (none, all) {
        (false, true) => Callees::All { except },
        (false, false) if !names.is_empty() => Callees::Named(names),
        _ => Callees::None,
    }
}

/// The front matter and what follows it.
fn split(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("---")?;
    let (first, rest) = rest.split_once('\n')?;
    if !first.trim().is_empty() {
        return None;
    }
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some((&rest[..at], &rest[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

/// A list that may be written as one text with commas. Commas within parentheses do not
/// separate: `Bash(git log:*, git diff:*), Read`.
fn list(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> Option<Vec<String>> {
    match &node.kind {
        Kind::Text(text) => {
            let mut items = vec![String::new()];
            let mut depth = 0_usize;
            for c in text.chars() {
                match c {
                    '(' => depth += 1,
                    ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                match (c, items.last_mut()) {
                    (',', _) if depth == 0 => items.push(String::new()),
                    (_, Some(item)) => item.push(c),
                    (_, None) => {}
                }
            }
            Some(items.iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect())
        }
        Kind::List(_) => node.read(file, out),
        _ => {
            out.push(file.error(node.at, format!("expected a list, or a text with commas, not {}", node.what())));
            None
        }
    }
}

#[cfg(test)]
mod tests;
