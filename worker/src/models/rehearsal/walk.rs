//! Which tools the rehearsal calls next, and with what: search first, then read
//! what was found, then the rest by twos; each tool once.

use serde_json::{Map, Value};

use super::answer;
use super::input::Input;
use super::object;

/// Tools of our own that only read.
const READ_ONLY: [&str; 3] = ["Read", "Glob", "Grep"];
/// Tools of our own that may change something or cost something: only by name.
const BY_NAME_ONLY: [&str; 5] = ["Write", "Edit", "Bash", "WebFetch", "Agent"];
/// Files that are read at once.
const FILES: usize = 2;

/// Which tools it calls.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Walk {
    /// `Read`, `Glob` and `Grep`.
    ReadOnly,
    /// Those, and every MCP and HTTP tool.
    All,
    /// These.
    Named(Vec<String>),
}

impl Walk {
    /// From the option; `None` if it is wrong.
    pub(super) fn read(option: Option<&Value>) -> Option<Self> {
        match option {
            None => Some(Self::ReadOnly),
            Some(Value::String(word)) if word == "all" => Some(Self::All),
            Some(Value::String(word)) if word == "none" => Some(Self::Named(Vec::new())),
            Some(Value::Array(names)) => {
                let names: Option<Vec<String>> =
                    names.iter().map(|name| name.as_str().map(ToOwned::to_owned)).collect();
                names.map(Self::Named)
            }
            Some(_) => None,
        }
    }

    fn includes(&self, tool: &str) -> bool {
        match self {
            Self::ReadOnly => READ_ONLY.contains(&tool),
            Self::All => !BY_NAME_ONLY.contains(&tool),
            Self::Named(names) => names.iter().any(|name| name == tool),
        }
    }
}

/// A tool call to ask for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
}

/// The calls of the next reply; none: the walk is over.
pub(super) fn next_calls(tools: &[Value], input: &Input, walk: &Walk, turns: usize) -> Vec<Planned> {
    if input.turns >= turns {
        return Vec::new();
    }
    let open: Vec<&Value> = tools
        .iter()
        .filter(|tool| {
            let name = tool["name"].as_str().unwrap_or_default();
            !name.is_empty() && walk.includes(name) && !input.has_called(name)
        })
        .collect();
    let named = |name: &str| open.iter().copied().find(|tool| tool["name"] == name);

    let searches: Vec<Planned> =
        ["Glob", "Grep"].into_iter().filter_map(named).map(|tool| plan(tool, input, None)).collect();
    if !searches.is_empty() {
        return searches;
    }
    if let Some(read) = named("Read") {
        let files = files(input);
        if !files.is_empty() {
            return files.iter().map(|file| plan(read, input, Some(file))).collect();
        }
    }
    open.into_iter().filter(|tool| tool["name"] != "Read").take(2).map(|tool| plan(tool, input, None)).collect()
}

/// What it says before its calls.
pub(super) fn announcement(calls: &[Planned]) -> String {
    let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
    format!("Rehearsal (no language model): calling {}.", names.join(" and "))
}

/// What to read: what the prompt names and a search found, else what either has.
fn files(input: &Input) -> Vec<&String> {
    let both: Vec<&String> =
        input.found_paths.iter().filter(|path| input.prompt_paths.contains(path)).take(FILES).collect();
    if !both.is_empty() {
        return both;
    }
    input.found_paths.iter().chain(&input.prompt_paths).take(FILES).collect()
}

fn plan(tool: &Value, input: &Input, file: Option<&String>) -> Planned {
    let name = tool["name"].as_str().unwrap_or_default().to_owned();
    let known = match (name.as_str(), file) {
        ("Glob", _) => object("pattern", "**/*"),
        ("Grep", _) => object("pattern", input.keyword()),
        (_, Some(file)) => {
            let key = if tool["input_schema"]["properties"]["path"].is_object() { "path" } else { "file_path" };
            object(key, file.as_str())
        }
        _ => Map::new(),
    };
    Planned { arguments: answer::arguments(&tool["input_schema"], input, known), name }
}
