//! Reading layers: the files of an organisation and of teams, and what
//! `teamster.yaml` and a pipeline say of the same things.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::direction::direction;
use super::{Layer, Level, Setting};
use crate::config::guards;
use crate::config::hooks::{self, Author};
use crate::config::{Hook, HookHandler, Hooks, Limits, Permissions, RateLimit, Sandbox, SharedBudget};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
use crate::document::{Kind, Node, Table};
use crate::span::Span;

/// Programs that are confined in ways of their own.
const KINDS: [&str; 3] = ["bash", "run", "mcp"];

/// `budget:` of a team: what each task may spend.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TaskBudget {
    usd: Option<f64>,
    tokens: Option<u64>,
}

/// Reads the file of an organisation, with its hooks.
pub(crate) fn organisation(file: &SourceFile, out: &mut Diagnostics) -> Option<(Layer, Hooks)> {
    let node = parse(file, out)?;
    let before = out.errors();
    let mut table = Table::of(&node, file, "a policy", out)?;
    let _: Option<Permissions> = table.read("permissions", out);
    let _: Option<Limits> = table.read("limits", out);
    let _: Option<Sandbox> = table.read("sandbox", out);
    let _: Option<BTreeMap<String, SharedBudget>> = table.read("budgets", out);
    let _: Option<BTreeMap<String, RateLimit>> = table.read("rate_limits", out);
    if let Some(node) = table.get("guards") {
        guards::read_layer(node, false, file, out);
    }
    let hooks = table.get("hooks").map(|node| hooks::read(node, Author::Operator, file, out)).unwrap_or_default();
    table.finish("a policy", out);
    let layer =
        Layer { level: Level::Organisation, file: file.clone(), settings: settings(&node, Level::Organisation, file) };
    (out.errors() == before).then_some((layer, hooks))
}

/// Reads the file of a team, with its hooks. It goes with definitions, and holds no secrets.
pub(crate) fn team(file: &SourceFile, out: &mut Diagnostics) -> Option<(Layer, Hooks)> {
    let node = parse(file, out)?;
    let before = out.errors();
    let mut table = Table::of(&node, file, "a team", out)?;
    let _: Option<Permissions> = table.read("permissions", out);
    let budget: TaskBudget = table.read("budget", out).unwrap_or_default();
    if budget.usd.is_some_and(|usd| !usd.is_finite() || usd <= 0.0) || budget.tokens == Some(0) {
        out.push(file.error(node.at, "a budget must be more than nothing"));
    }
    if let Some(node) = table.get("guards") {
        guards::read_layer(node, true, file, out);
    }
    let hooks = table.get("hooks").map(|node| hooks::read(node, Author::Agent, file, out)).unwrap_or_default();
    table.finish("a team", out);
    let layer = Layer { level: Level::Team, file: file.clone(), settings: settings(&node, Level::Team, file) };
    (out.errors() == before).then_some((layer, hooks))
}

/// What `teamster.yaml` says.
pub(crate) fn project(node: &Node, file: &SourceFile) -> Layer {
    Layer { level: Level::Project, file: file.clone(), settings: settings(node, Level::Project, file) }
}

/// What a pipeline says.
pub(crate) fn task(node: &Node, file: &SourceFile) -> Layer {
    let mut layer = Layer { level: Level::Task, file: file.clone(), settings: settings(node, Level::Task, file) };
    let sections = ["permissions.", "budget.", "guards."];
    layer.settings.retain(|setting| sections.iter().any(|section| setting.key.starts_with(section)));
    layer
}

/// Reads `guards:` of a pipeline.
pub(crate) fn task_guards(node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    guards::read_layer(node, true, file, out);
}

fn parse(file: &SourceFile, out: &mut Diagnostics) -> Option<Node> {
    match Node::parse(file) {
        Ok(Node { kind: Kind::Null, at }) => Some(Node { kind: Kind::Map(Vec::new()), at }),
        Ok(node) => Some(node),
        Err(error) => {
            out.extend(error);
            None
        }
    }
}

/// All values of a file that are policy, each in its place.
fn settings(root: &Node, level: Level, file: &SourceFile) -> Vec<Setting> {
    let mut found = Vec::new();
    let mut add = |key: String, value: Value, at: Place| {
        if direction(&key).is_some() {
            let (file, line) = (file.name.to_string(), Some(at.line));
            found.push(Setting { key, value, layer: level, file, line, at: Some(at) });
        }
    };
    for (section, node) in fields(root) {
        match section {
            "permissions" => {
                for (key, node) in fields(node) {
                    match (&node.kind, key) {
                        (Kind::List(rules), "allow" | "ask" | "deny") => {
                            for rule in rules {
                                add(format!("permissions.{key}"), rule.to_json(), rule.at);
                            }
                        }
                        _ => add(format!("permissions.{key}"), node.to_json(), node.at),
                    }
                }
            }
            "limits" | "budget" | "budgets" | "rate_limits" | "guards" => {
                for (key, node) in fields(node) {
                    add(format!("{section}.{key}"), node.to_json(), node.at);
                }
            }
            "sandbox" => {
                let of_kind = |kind: &str| fields(node).find(|(key, _)| *key == kind).map(|(_, node)| node);
                let mode = of_kind("mode");
                for kind in KINDS {
                    let own = of_kind(kind);
                    let says_mode = own.is_some_and(|node| fields(node).any(|(key, _)| key == "mode"));
                    // What is said of all programs is said of each kind.
                    if let Some(mode) = mode.filter(|_| !says_mode) {
                        add(format!("sandbox.{kind}.mode"), mode.to_json(), mode.at);
                    }
                    for (key, node) in own.into_iter().flat_map(fields) {
                        add(format!("sandbox.{kind}.{key}"), node.to_json(), node.at);
                    }
                }
            }
            "mcp_servers" => {
                for (name, server) in fields(node).filter(|(name, _)| !name.contains('.')) {
                    let sandbox = fields(server).find(|(key, _)| *key == "sandbox").map(|(_, node)| node);
                    for (key, node) in sandbox.into_iter().flat_map(fields) {
                        add(format!("mcp_servers.{name}.sandbox.{key}"), node.to_json(), node.at);
                    }
                }
            }
            "hooks" => {
                for (event, groups) in fields(node) {
                    for group in items(groups) {
                        let hooks = fields(group).find(|(key, _)| *key == "hooks").map(|(_, node)| node);
                        for hook in hooks.into_iter().flat_map(items) {
                            add(format!("hooks.{event}"), Value::String(name(hook)), hook.at);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// What a hook is known by.
fn name(hook: &Node) -> String {
    let text = |wanted: &str| {
        fields(hook).find(|(key, _)| *key == wanted).and_then(|(_, node)| node.as_text().map(str::to_owned))
    };
    let handler = match (text("command"), text("url")) {
        (Some(command), _) => HookHandler::Command(command),
        (None, url) => HookHandler::Http { url: url.unwrap_or_default(), headers: BTreeMap::new() },
    };
    Hook { handler, timeout: Span::from_secs(1) }.name()
}

fn fields(node: &Node) -> impl Iterator<Item = (&str, &Node)> {
    let fields: &[(crate::document::Key, Node)] = match &node.kind {
        Kind::Map(fields) => fields,
        _ => &[],
    };
    fields.iter().filter(|(_, node)| node.kind != Kind::Null).map(|(key, node)| (key.text.as_str(), node))
}

fn items(node: &Node) -> impl Iterator<Item = &Node> {
    let items: &[Node] = match &node.kind {
        Kind::List(items) => items,
        _ => &[],
    };
    items.iter()
}
