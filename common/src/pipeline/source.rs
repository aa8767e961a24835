//! A pipeline's file, read into the form that runs.
//!
//! All problems of a file are collected, not only the first. What depends on
//! the installation (models, webhooks, names of `env`) is not judged here:
//! [`Reading::links`] lists it, so that a stored definition reads the same
//! everywhere.

mod repeat;
mod step;
mod text;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::text::Mention;
use super::agent;
use super::model::{Agent, Budget, Callees, Concurrency, Pipeline, Schema};
use super::template::Template;
use crate::config::policy::{self, Layer};
use crate::config::{Hooks, Permissions};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
use crate::document::{Node, Table, place_within};
use crate::id::{Digest, PipelineName, QueueName};
use crate::retry::RetryPolicy;
use crate::span::Span;

/// The most steps of a pipeline.
pub(crate) const STEP_LIMIT: usize = 1_000;
/// The priority of tasks where nothing is said.
const PRIORITY: u8 = 4;
/// How long workers may hold a task where nothing is said.
const TIMEOUT: Span = Span::from_secs(3_600);

/// The files that pipelines refer to, as they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Agents by the name of their file, without the ending.
    pub(crate) agents: BTreeMap<String, SourceFile>,
    /// Schemas by the path that pipelines write.
    pub(crate) schemas: BTreeMap<String, SourceFile>,
    /// Teams by the name of their file, without the ending.
    pub(crate) teams: BTreeMap<String, SourceFile>,
}

/// A pipeline's file, read.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) pipeline: Pipeline,
    /// The files that it refers to.
    pub(crate) used: Files,
    /// What the installation must have for it.
    pub(crate) links: Vec<Link>,
}

/// A name that the installation must know.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) to: LinkTo,
    pub(crate) name: String,
    pub(crate) file: SourceFile,
    pub(crate) at: Place,
}

/// What a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinkTo {
    /// A name under `env:`.
    Env,
    /// A name under `models:`.
    Model,
    /// Some model: an agent that names none.
    AnyModel,
    /// A name under `webhooks:`.
    Webhook,
    /// A name under `mcp_servers:`.
    McpServer,
    /// A tool.
    Tool,
    /// A pipeline.
    Pipeline,
    /// A name under `rate_limits:`.
    RateLimit,
    /// A name under `guards:`.
    Guard,
    /// A model whose provider has batches; without a name, that of agents that name none.
    BatchModel,
}

/// What the readers of the parts share.
struct Reader<'a> {
    file: &'a SourceFile,
    files: &'a Files,
    out: &'a mut Diagnostics,
    agents: BTreeMap<String, Agent>,
    used: Files,
    links: Vec<Link>,
    mentions: Vec<Mention>,
}

/// Reads a pipeline. Every problem goes to `out`; with an error among them there is no reading.
pub(crate) fn read(file: &SourceFile, files: &Files, digest: &Digest, out: &mut Diagnostics) -> Option<Reading> {
    let node = match Node::parse(file) {
        Ok(node) => node,
        Err(error) => {
            out.extend(error);
            return None;
        }
    };
    let before = out.errors();
    let own = policy::task(&node, file);
    let table = Table::of(&node, file, "a pipeline", out)?;
    let mut reader = Reader {
        file,
        files,
        out,
        agents: BTreeMap::new(),
        used: Files::default(),
        links: Vec::new(),
        mentions: Vec::new(),
    };
    let pipeline = reader.pipeline(table, digest);
    let Reader { out, used, links, .. } = reader;
    let mut pipeline = pipeline.filter(|_| out.errors() == before)?;
    if !own.settings().is_empty() {
        pipeline.policy.push(own);
    }
    Some(Reading { pipeline, used, links })
}

impl<'a> Reader<'a> {
    fn pipeline(&mut self, mut table: Table<'a>, digest: &Digest) -> Option<Pipeline> {
        let name = table.need("name", "a pipeline", self.out).and_then(|node| node.read(self.file, self.out));
        let description = table.read_or("description", String::new(), self.out);
        let queue = table.read("queue", self.out).unwrap_or_else(QueueName::default_queue);
        let priority = table.get("priority").and_then(|node| self.number(node, 0..=9)).unwrap_or(PRIORITY);
        let triggers = table.get("on").map(|node| self.triggers(node)).unwrap_or_default();
        let input = table.get("input").and_then(|node| self.schema(node, "input"));
        let retry = table.get("retry").and_then(|node| self.retry(node)).unwrap_or_default();
        let timeout = table.read_or("timeout", TIMEOUT, self.out);
        let budget = table.get("budget").and_then(|node| self.budget(node)).unwrap_or_default();
        let team = table.get("team").and_then(|node| self.team(node));
        let _: Option<Permissions> = table.read("permissions", self.out);
        if let Some(node) = table.get("guards") {
            policy::task_guards(node, self.file, self.out);
        }
        let concurrency =
            table.get("concurrency").and_then(|node| self.concurrency(node, "concurrency", text::Context::Labels));
        let labels = table.get("labels").map(|node| self.labels(node)).unwrap_or_default();
        let steps = match table.need("steps", "a pipeline", self.out) {
            Some(node) => self.steps(node),
            None => Vec::new(),
        };
        let output = table.entry("output").and_then(|(_, node)| self.template(node, "output", text::Context::Output));
        table.finish("a pipeline", self.out);
        self.check_graph(&steps);
        self.check_mentions(&steps, input.as_ref());
        let (team, hooks) = team.unzip();
        let policy: Vec<Layer> = team.into_iter().collect();
        let budget = policy.iter().fold(budget, Budget::under);
        let name: PipelineName = name?;
        for link in self.links.iter().filter(|link| link.to == LinkTo::Pipeline && link.name == name.as_str()) {
            let error = self.file.error(link.at, format!("the pipeline {name} runs itself"));
            self.out.push(error.with_help("use `foreach` for a list, or another pipeline"));
        }
        Some(Pipeline {
            name,
            digest: digest.clone(),
            description,
            queue,
            priority,
            triggers,
            input,
            retry,
            timeout,
            budget,
            concurrency,
            labels,
            steps: steps.into_iter().map(|placed| placed.step).collect(),
            output,
            agents: std::mem::take(&mut self.agents),
            policy,
            hooks: hooks.unwrap_or_default(),
        })
    }

    fn error(&mut self, at: Place, message: impl Into<String>) {
        self.out.push(self.file.error(at, message));
    }

    fn link(&mut self, to: LinkTo, name: &str, at: Place) {
        self.links.push(Link { to, name: name.to_owned(), file: self.file.clone(), at });
    }

    /// A whole number within bounds.
    fn number<T>(&mut self, node: &Node, bounds: std::ops::RangeInclusive<T>) -> Option<T>
    where
        T: DeserializeOwned + PartialOrd + std::fmt::Display,
    {
        let number: T = node.read(self.file, self.out)?;
        if bounds.contains(&number) {
            return Some(number);
        }
        self.error(node.at, format!("{number} is not from {} to {}", bounds.start(), bounds.end()));
        None
    }

    fn retry(&mut self, node: &Node) -> Option<RetryPolicy> {
        let policy: RetryPolicy = node.read(self.file, self.out)?;
        match policy.check() {
            Ok(()) => Some(policy),
            Err(message) => {
                self.error(node.at, message);
                None
            }
        }
    }

    fn budget(&mut self, node: &Node) -> Option<Budget> {
        let budget: Budget = node.read(self.file, self.out)?;
        if budget.usd.is_some_and(|usd| !usd.is_finite() || usd <= 0.0) || budget.tokens == Some(0) {
            self.error(node.at, "a budget must be more than nothing");
            return None;
        }
        Some(budget)
    }

    /// The team whose policy holds for the pipeline.
    fn team(&mut self, node: &Node) -> Option<(Layer, Hooks)> {
        let name: String = node.read(self.file, self.out)?;
        let Some(file) = self.files.teams.get(&name) else {
            let known: Vec<&str> = self.files.teams.keys().map(String::as_str).collect();
            let error = self.file.error(node.at, format!("there is no team {name}"));
            self.out.push(match crate::document::closest(&name, &known) {
                Some(name) => error.with_help(format!("did you mean `{name}`?")),
                None => error.with_help(format!("write teams/{name}.yaml")),
            });
            return None;
        };
        self.used.teams.insert(name, file.clone());
        policy::team(file, self.out)
    }

    fn concurrency(&mut self, node: &'a Node, key: &str, context: text::Context) -> Option<Concurrency> {
        let name = format!("{key}.key");
        let mut table = Table::of(node, self.file, "`concurrency`", self.out)?;
        let key = table.need("key", "`concurrency`", self.out);
        let key = key.and_then(|node| self.text_template(node, &name, context));
        let max = table.get("max").and_then(|node| self.number(node, 1..=10_000)).unwrap_or(1);
        table.finish("`concurrency`", self.out);
        Some(Concurrency { key: key?, max })
    }

    fn labels(&mut self, node: &'a Node) -> BTreeMap<String, Template> {
        let Some(labels) = Table::of(node, self.file, "`labels`", self.out) else { return BTreeMap::new() };
        self.templates(&labels, "labels", text::Context::Labels)
    }

    /// A template for each key.
    fn templates(&mut self, table: &Table<'a>, key: &str, context: text::Context) -> BTreeMap<String, Template> {
        let mut templates = BTreeMap::new();
        for (name, node) in table.rows() {
            if let Some(template) = self.template(node, &format!("{key}.{}", name.text), context) {
                templates.insert(name.text.clone(), template);
            }
        }
        templates
    }

    /// A schema: the path of a file, or the schema itself.
    fn schema(&mut self, node: &Node, key: &str) -> Option<Schema> {
        let Some(path) = node.as_text() else {
            if !matches!(node.kind, crate::document::Kind::Map(_) | crate::document::Kind::Bool(_)) {
                self.error(node.at, format!("a schema is a mapping or the path of a file, not {}", node.what()));
                return None;
            }
            let origin = format!("{}:{} ({key})", self.file.name, node.at.line);
            return match Schema::new(origin, node.to_json()) {
                Ok(schema) => Some(schema),
                Err(issue) => {
                    self.error(node.at, format!("the JSON Schema is not valid: {issue}"));
                    None
                }
            };
        };
        let plain = path.strip_prefix("./").unwrap_or(path);
        if plain.starts_with('/') || plain.split(['/', '\\']).any(|part| part == "..") || plain.contains(':') {
            self.error(node.at, format!("the schema file {path} must be below the project's directory"));
            return None;
        }
        let Some(file) = self.files.schemas.get(plain) else {
            let known: Vec<&str> = self.files.schemas.keys().map(String::as_str).collect();
            let error = self.file.error(node.at, format!("there is no schema file {path}"));
            self.out.push(match crate::document::closest(plain, &known) {
                Some(name) => error.with_help(format!("did you mean `{name}`?")),
                None => error.with_help("schemas are files schemas/NAME.json in the project's directory"),
            });
            return None;
        };
        let schema = read_schema(file, plain, self.out)?;
        self.used.schemas.insert(plain.to_owned(), file.clone());
        Some(schema)
    }

    /// Takes an agent in that a step names.
    fn agent(&mut self, name: &str, at: Place) {
        self.callee(name, self.file, at);
    }

    /// Takes an agent in that a file names, with all that it may call itself.
    fn callee(&mut self, name: &str, named_in: &SourceFile, at: Place) {
        if self.agents.contains_key(name) {
            return;
        }
        let Some(file) = self.files.agents.get(name) else {
            let known: Vec<&str> = self.files.agents.keys().map(String::as_str).collect();
            let error = named_in.error(at, format!("there is no agent {name}"));
            self.out.push(match crate::document::closest(name, &known) {
                Some(name) => error.with_help(format!("did you mean `{name}`?")),
                None => error.with_help(format!("write agents/{name}.md")),
            });
            return;
        };
        let Some(read) = agent::read(file, name, self.out) else { return };
        let link = |to, name: &str, at| Link { to, name: name.to_owned(), file: file.clone(), at };
        let top = Place { line: 1, column: 1 };
        if let Some(model) = &read.agent.model {
            self.links.push(link(LinkTo::Model, model, read.model_at.unwrap_or(top)));
        }
        for server in read.agent.mcp_servers.iter().flatten() {
            self.links.push(link(LinkTo::McpServer, server, read.servers_at.unwrap_or(top)));
        }
        for guard in &read.agent.guards {
            self.links.push(link(LinkTo::Guard, guard, read.guards_at.unwrap_or(top)));
        }
        self.used.agents.insert(name.to_owned(), file.clone());
        let callees: Vec<String> = match &read.agent.calls {
            Callees::Named(names) => names.clone(),
            calls => {
                let all = self.files.agents.keys().map(String::as_str);
                calls.of(all, name).into_iter().map(str::to_owned).collect()
            }
        };
        self.agents.insert(name.to_owned(), read.agent);
        for callee in callees {
            self.callee(&callee, file, read.tools_at.unwrap_or(top));
        }
    }
}

/// A schema file, read.
fn read_schema(file: &SourceFile, path: &str, out: &mut Diagnostics) -> Option<Schema> {
    let value: Value = match serde_json::from_str(&file.text) {
        Ok(value) => value,
        Err(error) => {
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
            let place = Place { line: number(error.line()), column: number(error.column()) };
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            out.push(file.error(place, format!("the file is not JSON: {message}")));
            return None;
        }
    };
    match Schema::new(path, value) {
        Ok(schema) => Some(schema),
        Err(issue) => {
            // The place: the last key of the pointer, if it can be found.
            let key = issue.pointer.rsplit('/').next().unwrap_or_default().to_owned();
            let start = Place { line: 1, column: 1 };
            let quoted = format!("\"{key}\"");
            let place = if key.is_empty() { start } else { place_within(file, start, &quoted, 0, quoted.len()) };
            out.push(file.error(place, format!("the JSON Schema is not valid: {issue}")));
            None
        }
    }
}

/// The files of a bundle as they are written; see [`super::bundle`].
impl Files {
    pub(crate) fn texts(files: &BTreeMap<String, SourceFile>) -> BTreeMap<String, FileText> {
        let text = |file: &SourceFile| FileText { file: file.name.to_string(), text: file.text.to_string() };
        files.iter().map(|(name, file)| (name.clone(), text(file))).collect()
    }

    pub(crate) fn of_texts(texts: BTreeMap<String, FileText>) -> BTreeMap<String, SourceFile> {
        texts.into_iter().map(|(name, file)| (name, SourceFile::new(&file.file, &file.text))).collect()
    }
}

/// A file in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileText {
    pub(crate) file: String,
    pub(crate) text: String,
}

/// The names in a list that stand there more than once.
fn repeated<'t, T: Ord>(items: impl Iterator<Item = &'t T>) -> Vec<&'t T> {
    let mut seen = BTreeSet::new();
    items.filter(|item| !seen.insert(*item)).collect()
}

#[cfg(test)]
mod tests;
