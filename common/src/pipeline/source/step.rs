//! `steps:`: each one with exactly one kind.

use std::collections::BTreeMap;

use super::text::Context;
use super::{LinkTo, Reader, STEP_LIMIT, repeated};
use crate::config::Fallback;
use crate::diagnostic::Place;
use crate::document::{Kind, Node, Table, closest};
use crate::id::{StepId, StepKey};
use crate::journal::{Compaction, Effect};
use crate::pipeline::batching::Batching;
use crate::pipeline::graph;
use crate::pipeline::model::{
    AgentLimits, AgentStep, ApprovalStep, Foreach, HttpStep, PipelineStep, RunStep, SleepStep, Step, StepKind, ToolStep,
};

const KINDS: [&str; 8] = ["agent", "tool", "http", "run", "set", "approval", "sleep", "pipeline"];
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];

/// A step with the places that later checks need.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) step: Step,
    /// Its position in the file.
    pub(super) index: usize,
    pub(super) at: Place,
    pub(super) needs_at: Vec<Place>,
}

/// Where in the file a step is, for the parts of it.
pub(super) struct Here {
    pub(super) context: Context,
    pub(super) key: String,
}

impl Here {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.key)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn steps(&mut self, node: &'a Node) -> Vec<Placed> {
        let Kind::List(items) = &node.kind else {
            self.error(node.at, format!("`steps` must be a list, not {}", node.what()));
            return Vec::new();
        };
        if items.is_empty() || items.len() > STEP_LIMIT {
            self.error(node.at, format!("a pipeline has 1 to {STEP_LIMIT} steps, and this one has {}", items.len()));
            return Vec::new();
        }
        let mut steps: Vec<Placed> = Vec::with_capacity(items.len());
        for item in items {
            let outside = |placed: &&Placed| placed.step.within.is_none();
            let before = steps.iter().rev().find(outside).map(|placed| placed.step.id.clone());
            let more = self.step_or_group(item, steps.len(), before);
            steps.extend(more);
        }
        if steps.len() > STEP_LIMIT {
            self.error(node.at, format!("a pipeline has at most {STEP_LIMIT} steps, those of groups included"));
        }
        steps
    }

    /// One step. `repeated`: it belongs to a group.
    pub(super) fn step(
        &mut self,
        node: &'a Node,
        index: usize,
        before: Option<StepId>,
        repeated: bool,
    ) -> Option<(Placed, Option<&'a Node>)> {
        let mut table = Table::of(node, self.file, "a step", self.out)?;
        let id_node = table.need("id", "a step", self.out);
        let id: Option<StepId> = id_node.and_then(|node| node.read(self.file, self.out));
        let name = id.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
        let (needs, needs_at) = match table.get("needs") {
            Some(node) => self.needs(node),
            None => (before.into_iter().collect(), Vec::new()),
        };
        let repeat = table.get("repeat");
        let round = repeated || repeat.is_some();
        let plain = Here { context: Context::Step { index, item: false, round }, key: format!("steps.{name}") };
        let condition = table.get("if").and_then(|node| self.expression(node, &plain.key("if"), plain.context));
        let items = table.get("foreach").map(|node| self.expression(node, &plain.key("foreach"), plain.context));
        let parallel_node = table.get("max_parallel");
        let max_parallel = parallel_node.and_then(|node| self.number(node, 1..=100)).unwrap_or(4);
        if let (Some(node), None) = (parallel_node, &items) {
            self.error(node.at, "`max_parallel` is for a step with `foreach`");
        }
        let here = Here { context: Context::Step { index, item: items.is_some(), round }, ..plain };
        let on_error = table.read("on_error", self.out).unwrap_or_default();
        let retry = table.get("retry").and_then(|node| self.retry(node));
        let timeout = table.read("timeout", self.out);
        let output = table.get("output").and_then(|node| self.schema(node, &here.key("output")));
        let budget = table.get("budget").and_then(|node| self.budget(node)).unwrap_or_default();
        let concurrency =
            table.get("concurrency").and_then(|node| self.concurrency(node, &here.key("concurrency"), here.context));
        let uses = table.get("uses").map(|node| self.linked(node, LinkTo::RateLimit)).unwrap_or_default();
        let kind = self.kind(&mut table, &here);
        table.finish("a step", self.out);
        let foreach = match items {
            Some(items) => Some(Foreach { items: items?, max_parallel }),
            None => None,
        };
        let (id, kind) = (id?, kind?);
        let step = Step {
            id,
            needs,
            condition,
            foreach,
            on_error,
            retry,
            timeout,
            output,
            budget,
            concurrency,
            uses,
            kind,
            within: None,
        };
        Some((Placed { step, index, at: id_node.map_or(node.at, |node| node.at), needs_at }, repeat))
    }

    pub(super) fn needs(&mut self, node: &Node) -> (Vec<StepId>, Vec<Place>) {
        let one = std::slice::from_ref(node);
        let nodes = if let Kind::List(items) = &node.kind { items.as_slice() } else { one };
        nodes.iter().filter_map(|node| Some((node.read(self.file, self.out)?, node.at))).unzip()
    }

    /// Names of the installation, one or a list.
    fn linked(&mut self, node: &Node, to: LinkTo) -> Vec<String> {
        let one = std::slice::from_ref(node);
        let nodes = if let Kind::List(items) = &node.kind { items.as_slice() } else { one };
        let mut names = Vec::new();
        for node in nodes {
            let Some(name) = node.read::<String>(self.file, self.out) else { continue };
            self.link(to, &name, node.at);
            names.push(name);
        }
        names
    }

    /// The one kind that a step has.
    fn kind(&mut self, table: &mut Table<'a>, here: &Here) -> Option<StepKind> {
        let found: Vec<_> =
            KINDS.into_iter().filter_map(|kind| table.entry(kind).map(|(key, n)| (kind, key, n))).collect();
        let (kind, node) = match found.as_slice() {
            [(kind, _, node)] => (*kind, *node),
            [] => {
                self.error(table.at, format!("a step needs one of the keys {}", KINDS.join(", ")));
                return None;
            }
            [_, (second, key, _), ..] => {
                let message = format!("a step has exactly one kind, and this one has `{}` and `{second}`", found[0].0);
                self.error(key.at, message);
                return None;
            }
        };
        match kind {
            "agent" => self.agent_step(node, table, here).map(StepKind::Agent),
            "tool" => self.tool_step(node, table, here).map(StepKind::Tool),
            "http" => self.http_step(node, here).map(StepKind::Http),
            "run" => self.run_step(node, here).map(StepKind::Run),
            "set" => self.template(node, &here.key("set"), here.context).map(StepKind::Set),
            "approval" => self.approval_step(node, here).map(StepKind::Approval),
            "sleep" => self.sleep_step(node, here).map(StepKind::Sleep),
            _ => self.pipeline_step(node, table, here).map(StepKind::Pipeline),
        }
    }

    fn agent_step(&mut self, node: &Node, table: &mut Table<'a>, here: &Here) -> Option<AgentStep> {
        let name: Option<String> = node.read(self.file, self.out);
        if let Some(name) = &name {
            self.agent(name, node.at);
        }
        let prompt = table.need("prompt", "an agent step", self.out);
        let prompt = prompt.and_then(|node| self.text_template(node, &here.key("prompt"), here.context));
        let model_node = table.get("model");
        let model = model_node.and_then(|node| self.text_template(node, &here.key("model"), here.context));
        match model_node.and_then(|node| Some((node, node.as_text()?))) {
            Some((node, name)) if !name.contains("{{") => self.link(LinkTo::Model, name, node.at),
            _ => self.link(LinkTo::AnyModel, "", node.at),
        }
        let fallback = table.get("fallback").and_then(|node| self.fallback(node));
        let session = table.get("session");
        let session = session.and_then(|node| self.text_template(node, &here.key("session"), here.context));
        let compaction = table.get("compaction").and_then(|node| self.compaction(node));
        let batch_node = table.get("batch");
        let batch = batch_node.and_then(|node| self.batching(node));
        if let (Some(node), Some(name)) = (batch_node, &name) {
            self.check_batched(node, name, model_node, session.is_some());
        }
        let limits = match table.get("limits") {
            Some(node) => self.agent_limits(node),
            None => AgentLimits::default(),
        };
        let guards = table.get("guards").map(|node| self.linked(node, LinkTo::Guard)).unwrap_or_default();
        Some(AgentStep { agent: name?, prompt: prompt?, model, fallback, session, guards, batch, compaction, limits })
    }

    fn compaction(&mut self, node: &Node) -> Option<Compaction> {
        let compaction: Compaction = node.read(self.file, self.out)?;
        if let Err(why) = compaction.check() {
            self.error(node.at, why);
        }
        Some(compaction)
    }

    fn batching(&mut self, node: &Node) -> Option<Batching> {
        let batching: Batching = node.read(self.file, self.out)?;
        if let Err(why) = batching.check() {
            self.error(node.at, why);
        }
        Some(batching)
    }

    /// What goes out in a batch is a single question: there is nobody to call tools, and no conversation to go on with.
    fn check_batched(&mut self, node: &Node, name: &str, model: Option<&Node>, session: bool) {
        if session {
            self.error(node.at, "`batch` is for a single question: it does not go with `session`");
        }
        let Some(agent) = self.agents.get(name) else { return };
        let named = agent.tools.iter().chain(&agent.mcp_servers).flatten().next();
        if let Some(tool) = named {
            let message = format!("`batch` is for a single question, and the agent {name} has tools ({tool})");
            let error = self.file.error(node.at, message);
            self.out.push(error.with_help("give the step an agent with `tools: []`, or leave `batch` out"));
        }
        let asked = match model {
            Some(node) => node.as_text().filter(|text| !text.contains("{{")).map(str::to_owned),
            None => Some(agent.model.clone().unwrap_or_default()),
        };
        if let Some(model) = asked {
            self.link(LinkTo::BatchModel, &model, node.at);
        }
    }

    /// Models that are asked when another one does not answer.
    fn fallback(&mut self, node: &Node) -> Option<Fallback> {
        let fallback: Fallback = node.read(self.file, self.out)?;
        if let Err(why) = fallback.check() {
            self.error(node.at, why);
        }
        for model in &fallback.models {
            self.link(LinkTo::Model, model, node.at);
        }
        Some(fallback)
    }

    fn agent_limits(&mut self, node: &Node) -> AgentLimits {
        let limits: AgentLimits = node.read(self.file, self.out).unwrap_or_default();
        let zero = [limits.turns, limits.repetition, limits.errors, limits.monologue].contains(&0)
            || limits.max_tokens == 0
            || limits.tokens == Some(0);
        if zero || limits.usd.is_some_and(|usd| !usd.is_finite() || usd <= 0.0) {
            self.error(node.at, "a limit of nothing lets the agent do nothing: use at least 1");
        }
        if limits.depth as usize > StepKey::MAX_DEPTH {
            self.error(node.at, format!("`depth` is at most {}", StepKey::MAX_DEPTH));
        }
        limits
    }

    fn tool_step(&mut self, node: &Node, table: &mut Table<'a>, here: &Here) -> Option<ToolStep> {
        let tool: Option<String> = node.read(self.file, self.out);
        if let Some(tool) = &tool {
            self.link(LinkTo::Tool, tool, node.at);
        }
        let empty = Node { at: node.at, kind: Kind::Map(Vec::new()) };
        let with = table.get("with").unwrap_or(&empty);
        let arguments = self.template(with, &here.key("with"), here.context);
        let effect = table.read("effect", self.out);
        Some(ToolStep { tool: tool?, arguments: arguments?, effect })
    }

    fn http_step(&mut self, node: &'a Node, here: &Here) -> Option<HttpStep> {
        let mut table = Table::of(node, self.file, "`http`", self.out)?;
        let method_node = table.get("method");
        let method: String = method_node.and_then(|n| n.read(self.file, self.out)).unwrap_or_else(|| "GET".to_owned());
        if let Some(node) = method_node
            && !METHODS.contains(&method.as_str())
        {
            self.error(node.at, format!("{method:?} is no method; use {}", METHODS.join(", ")));
        }
        let url = table.need("url", "`http`", self.out);
        let url = url.and_then(|node| self.text_template(node, &here.key("http.url"), here.context));
        let headers = table.get("headers").map(|node| self.named(node, here, "http.headers")).unwrap_or_default();
        let json = table.entry("json").and_then(|(_, node)| self.template(node, &here.key("http.json"), here.context));
        let effect = table.read("effect", self.out);
        table.finish("`http`", self.out);
        let default = if matches!(method.as_str(), "GET" | "HEAD") { Effect::Read } else { Effect::Once };
        Some(HttpStep { method, url: url?, headers, json, effect: effect.unwrap_or(default) })
    }

    /// A mapping of names to templates.
    fn named(
        &mut self,
        node: &'a Node,
        here: &Here,
        key: &str,
    ) -> BTreeMap<String, crate::pipeline::template::Template> {
        let Some(table) = Table::of(node, self.file, &format!("`{key}`"), self.out) else { return BTreeMap::new() };
        self.templates(&table, &here.key(key), here.context)
    }

    fn run_step(&mut self, node: &'a Node, here: &Here) -> Option<RunStep> {
        let mut table = Table::of(node, self.file, "`run`", self.out)?;
        let command = table.need("command", "`run`", self.out).and_then(|node| match &node.kind {
            Kind::List(items) if !items.is_empty() => items
                .iter()
                .map(|item| self.text_template(item, &here.key("run.command"), here.context))
                .collect::<Option<Vec<_>>>(),
            _ => {
                let error = self.file.error(node.at, "`command` must be a list: the program, then its arguments");
                self.out.push(error.with_help("no shell is involved; for one, write [sh, -c, \"…\"]"));
                None
            }
        });
        let stdin =
            table.entry("stdin").and_then(|(_, node)| self.template(node, &here.key("run.stdin"), here.context));
        let env = table.get("env").map(|node| self.named(node, here, "run.env")).unwrap_or_default();
        let effect = table.read("effect", self.out).unwrap_or(Effect::Once);
        table.finish("`run`", self.out);
        Some(RunStep { command: command?, stdin, env, effect })
    }

    fn approval_step(&mut self, node: &'a Node, here: &Here) -> Option<ApprovalStep> {
        let mut table = Table::of(node, self.file, "`approval`", self.out)?;
        let title = table.need("title", "`approval`", self.out);
        let title = title.and_then(|node| self.text_template(node, &here.key("approval.title"), here.context));
        let show = table.get("show").and_then(|node| self.expression(node, &here.key("approval.show"), here.context));
        let expires = table.read("expires", self.out);
        let expiry_node = table.get("on_expiry");
        let on_expiry = expiry_node.and_then(|node| node.read(self.file, self.out)).unwrap_or_default();
        if let (Some(node), None) = (expiry_node, expires) {
            self.out.push(self.file.warning(node.at, "`on_expiry` means nothing without `expires`"));
        }
        let approvers: Vec<String> = table.read_or("approvers", Vec::new(), self.out);
        let votes_node = table.get("votes");
        let votes = votes_node.and_then(|node| self.number(node, 1..=10)).unwrap_or(1);
        if let Some(node) = votes_node
            && !approvers.is_empty()
            && votes as usize > approvers.len()
        {
            self.error(node.at, format!("{votes} people must approve, and only {} may", approvers.len()));
        }
        table.finish("`approval`", self.out);
        Some(ApprovalStep { title: title?, show, expires, on_expiry, approvers, votes })
    }

    fn sleep_step(&mut self, node: &'a Node, here: &Here) -> Option<SleepStep> {
        if node.as_text().is_some() {
            return node.read(self.file, self.out).map(SleepStep::For);
        }
        let mut table = Table::of(node, self.file, "`sleep`", self.out)?;
        let until = table.need("until", "`sleep`", self.out);
        let until = until.and_then(|node| self.text_template(node, &here.key("sleep.until"), here.context));
        table.finish("`sleep`", self.out);
        until.map(SleepStep::Until)
    }

    fn pipeline_step(&mut self, node: &Node, table: &mut Table<'a>, here: &Here) -> Option<PipelineStep> {
        let pipeline: Option<crate::id::PipelineName> = node.read(self.file, self.out);
        if let Some(pipeline) = &pipeline {
            self.link(LinkTo::Pipeline, pipeline.as_str(), node.at);
        }
        let empty = Node { at: node.at, kind: Kind::Map(Vec::new()) };
        let input = self.template(table.get("input").unwrap_or(&empty), &here.key("input"), here.context);
        Some(PipelineStep { pipeline: pipeline?, input: input? })
    }

    /// Ids are unique, needs exist, and there is no cycle.
    pub(super) fn check_graph(&mut self, steps: &[Placed]) {
        for id in repeated(steps.iter().map(|placed| &placed.step.id)) {
            let places: Vec<Place> = steps.iter().filter(|p| &p.step.id == id).map(|p| p.at).collect();
            let message = format!("there are several steps `{id}`: the first is in line {}", places[0].line);
            self.error(places[places.len() - 1], message);
        }
        let ids: Vec<&str> = steps.iter().map(|placed| placed.step.id.as_str()).collect();
        for placed in steps {
            for (need, at) in placed.step.needs.iter().zip(&placed.needs_at) {
                if let Some(needed) = steps.iter().find(|other| &other.step.id == need) {
                    self.check_need(placed, needed, *at);
                    continue;
                }
                let error =
                    self.file.error(*at, format!("`{}` needs the step `{need}`, which is not there", placed.step.id));
                self.out.push(match closest(need.as_str(), &ids) {
                    Some(name) => error.with_help(format!("did you mean `{name}`?")),
                    None => error.with_help(format!("the steps are {}", ids.join(", "))),
                });
            }
        }
        let graph = graph::Graph::of(steps.iter().map(|placed| &placed.step));
        if let Some(cycle) = graph.cycle() {
            let at = steps
                .iter()
                .find(|p| Some(&p.step.id) == cycle.first())
                .map(|p| p.needs_at.first().copied().unwrap_or(p.at));
            let names: Vec<&str> = cycle.iter().map(StepId::as_str).collect();
            let message = format!("the steps need each other in a circle: {}", names.join(" → "));
            self.out.push(self.file.error(at, message));
        }
    }
}
