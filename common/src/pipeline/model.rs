//! A pipeline as it runs: checked, with everything that it refers to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::batching::Batching;
use super::template::{Expression, Template};
use crate::config::policy::Layer;
use crate::config::{Fallback, Hooks, PermissionMode};
use crate::id::{Digest, PipelineName, QueueName, StepId, StepKey};
use crate::journal::{Compaction, Effect, Run, WhenSpent};
use crate::retry::RetryPolicy;
pub use crate::schema::{Schema, SchemaIssue};
use crate::span::Span;

/// A checked pipeline. Its steps form a DAG; every name in it resolves.
#[derive(Debug)]
pub struct Pipeline {
    /// Its name.
    pub name: PipelineName,
    /// The digest of the definition that it was made from.
    pub digest: Digest,
    /// For people.
    pub description: String,
    /// Where its tasks queue.
    pub queue: QueueName,
    /// 0 (last) to 9 (first).
    pub priority: u8,
    /// What submits tasks by itself.
    pub triggers: Vec<Trigger>,
    /// The JSON Schema of the input.
    pub input: Option<Schema>,
    /// The retry policy of steps that have none of their own.
    pub retry: RetryPolicy,
    /// How long workers may hold the task in all; waiting does not count.
    pub timeout: Span,
    /// What the task may spend, with its children.
    pub budget: Budget,
    /// Of how many tasks at once this may be one.
    pub concurrency: Option<Concurrency>,
    /// Labels of its tasks, rendered from the input at submit.
    pub labels: BTreeMap<String, Template>,
    /// The steps, in the order of the file.
    pub steps: Vec<Step>,
    /// The task's output; without it, the output of the last step that succeeded.
    pub output: Option<Template>,
    /// The agents that its steps name.
    pub agents: BTreeMap<String, Agent>,
    /// What its team and it itself say of policy, under what the installation says.
    pub policy: Vec<Layer>,
    /// The hooks of its team.
    pub hooks: Hooks,
}

impl Budget {
    /// This one under that of a team.
    pub(crate) fn under(self, team: &Layer) -> Self {
        let most = |key: &str| team.settings().iter().find(|setting| setting.key == key).map(|setting| &setting.value);
        let usd = most("budget.usd").and_then(Value::as_f64);
        let tokens = most("budget.tokens").and_then(Value::as_u64);
        Self {
            usd: self.usd.into_iter().chain(usd).reduce(f64::min),
            tokens: self.tokens.into_iter().chain(tokens).min(),
            ..self
        }
    }
}

/// What a task may spend on model calls. No bound where nothing is given.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Dollars.
    pub usd: Option<f64>,
    /// Tokens, in and out.
    pub tokens: Option<u64>,
    /// What happens when it is spent.
    pub then: WhenSpent,
}

impl Budget {
    /// Whether nothing is bounded.
    pub const fn is_endless(&self) -> bool {
        self.usd.is_none() && self.tokens.is_none()
    }
}

/// `concurrency:`. A task has its place from its first step to its end, also while it waits for something; a step
/// while anything of it is under way.
#[derive(Debug)]
pub struct Concurrency {
    /// Tasks of the pipeline with the same key share places; of a step, steps. Rendered from `input`, or as all
    /// templates of the step.
    pub key: Template,
    /// How many of them may be under way at once, 1 to 10,000. Default 1.
    pub max: u32,
}

/// A step.
#[derive(Debug)]
pub struct Step {
    /// Its id.
    pub id: StepId,
    /// The steps that must be done before: by default the one before it in the file.
    pub needs: Vec<StepId>,
    /// Run only if this holds. With a condition, a skipped or failed need does not decide for it.
    pub condition: Option<Expression>,
    /// Run once for each item of this list; `item` and `index` are names in the step's templates.
    pub foreach: Option<Foreach>,
    /// What a failure does to the task.
    pub on_error: OnError,
    /// How often it is tried; `None`: as the pipeline says.
    pub retry: Option<RetryPolicy>,
    /// How long one try may take, an agent step as a whole.
    pub timeout: Option<Span>,
    /// What its output must fit.
    pub output: Option<Schema>,
    /// What it may spend, with its subagents.
    pub budget: Budget,
    /// How many of it, or of its items, may be under way at once, of all tasks of the pipeline.
    pub concurrency: Option<Concurrency>,
    /// The names under `rate_limits:` that its calls count for, beside those that are about its model or tools.
    pub uses: Vec<String>,
    /// What it does.
    pub kind: StepKind,
    /// The step with `repeat` that it belongs to.
    pub within: Option<StepId>,
}

/// A fan-out over the items of a list.
#[derive(Debug)]
pub struct Foreach {
    /// The list.
    pub items: Expression,
    /// How many items run at once: 1 to 100, by default 4.
    pub max_parallel: u32,
}

/// What a failed step does to its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The task fails.
    #[default]
    Fail,
    /// Later steps see `steps.ID.error`.
    Continue,
}

/// What a step does.
#[derive(Debug)]
pub enum StepKind {
    /// Runs an agent.
    Agent(AgentStep),
    /// Calls one tool.
    Tool(ToolStep),
    /// Makes one HTTP request.
    Http(HttpStep),
    /// Runs a program: JSON on stdin, JSON on stdout.
    Run(RunStep),
    /// Computes a value.
    Set(Template),
    /// Asks a person.
    Approval(ApprovalStep),
    /// Waits.
    Sleep(SleepStep),
    /// Runs another pipeline as a child task.
    Pipeline(PipelineStep),
    /// Runs steps of the pipeline again and again.
    Repeat(RepeatStep),
}

impl StepKind {
    /// The key that names the kind in a file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Tool(_) => "tool",
            Self::Http(_) => "http",
            Self::Run(_) => "run",
            Self::Set(_) => "set",
            Self::Approval(_) => "approval",
            Self::Sleep(_) => "sleep",
            Self::Pipeline(_) => "pipeline",
            Self::Repeat(_) => "repeat",
        }
    }
}

/// `agent: NAME` with `prompt:`.
#[derive(Debug)]
pub struct AgentStep {
    /// The agent's name: a key of [`Pipeline::agents`].
    pub agent: String,
    /// The first user message.
    pub prompt: Template,
    /// A model's name in `teamster.yaml`, or what computes it; `None`, or an empty text: as the agent says.
    pub model: Option<Template>,
    /// The models that are asked when that one is overloaded or declines; `None`: as `teamster.yaml` says of it.
    pub fallback: Option<Fallback>,
    /// The key of the conversation across tasks that it goes on with; `None`, or an empty text: it begins anew.
    pub session: Option<Template>,
    /// The names under `guards:` of checks of its prompt and output, beside those of its agent.
    pub guards: Vec<String>,
    /// Whether its request may wait to go out with others.
    pub batch: Option<Batching>,
    /// When its conversation is summarised; `None`: as `teamster.yaml` says.
    pub compaction: Option<Compaction>,
    /// When to stop.
    pub limits: AgentLimits,
}

/// The limits of one agent step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentLimits {
    /// Model calls. Default 40; an agent's `maxTurns` can lower it.
    pub turns: u32,
    /// Tool calls. Default 200.
    pub tool_calls: u32,
    /// Tokens, in and out. No bound by default.
    pub tokens: Option<u64>,
    /// Dollars. No bound by default.
    pub usd: Option<f64>,
    /// The same tool with the same arguments, or two such calls in turns: so often in a row is answered
    /// with a nudge, once more stops the step. Default 3.
    pub repetition: u32,
    /// Tool calls that fail: so many in a row are answered with a nudge, and the failure after that stops the step.
    /// Default 8.
    pub errors: u32,
    /// Turns in a row without a tool call that do not end the agent's work; more stop the step. Default 10.
    pub monologue: u32,
    /// The most tokens of one reply. Default 8,192.
    pub max_tokens: u32,
    /// How many levels of subagents there may be below the step's agent. Default 1: subagents call none.
    pub depth: u32,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            turns: 40,
            tool_calls: 200,
            tokens: None,
            usd: None,
            repetition: 3,
            errors: 8,
            monologue: 10,
            max_tokens: 8_192,
            depth: 1,
        }
    }
}

/// `tool: NAME` with `with:`.
#[derive(Debug)]
pub struct ToolStep {
    /// The tool: a built-in, `mcp__SERVER__TOOL`, or one of `tools:` in `teamster.yaml`.
    pub tool: String,
    /// Its arguments.
    pub arguments: Template,
    /// What repeating it may do; `None`: as the installation classes the tool.
    pub effect: Option<Effect>,
}

/// `http:`.
#[derive(Debug)]
pub struct HttpStep {
    /// GET, POST, PUT, PATCH, DELETE or HEAD.
    pub method: String,
    /// Where to.
    pub url: Template,
    /// Headers; they are not journaled, so that they may hold secrets from `env`.
    pub headers: BTreeMap<String, Template>,
    /// The body, sent as JSON.
    pub json: Option<Template>,
    /// What repeating it may do: GET and HEAD are `read`, all else is `once`, where nothing is said.
    pub effect: Effect,
}

/// `run:`.
#[derive(Debug)]
pub struct RunStep {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<Template>,
    /// What it reads on stdin, as JSON; without it `{"input": …, "steps": …}`.
    pub stdin: Option<Template>,
    /// Environment variables beside `PATH`, `HOME`, `LANG` and `TMPDIR`.
    pub env: BTreeMap<String, Template>,
    /// What repeating it may do. By default `once`.
    pub effect: Effect,
}

/// `approval:`.
#[derive(Debug)]
pub struct ApprovalStep {
    /// One line for the list.
    pub title: Template,
    /// What is to be decided on.
    pub show: Option<Expression>,
    /// When the question lapses.
    pub expires: Option<Span>,
    /// What happens then.
    pub on_expiry: OnExpiry,
    /// Who may decide; empty: anybody.
    pub approvers: Vec<String>,
    /// How many people must approve, 1 to 10. Default 1.
    pub votes: u32,
}

/// What happens when nobody decided in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// As if a person had said no.
    #[default]
    Reject,
    /// As if a person had said yes.
    Approve,
    /// The step fails.
    Fail,
}

/// `sleep:`.
#[derive(Debug)]
pub enum SleepStep {
    /// `sleep: 10m`
    For(Span),
    /// `sleep: { until: … }`: a time in RFC 3339.
    Until(Template),
}

/// `repeat:` with `steps:`, or on any other step, which then is its only one.
#[derive(Debug)]
pub struct RepeatStep {
    /// When a round was the last one. Templates see `round`, and what the steps came to in it.
    pub until: Expression,
    /// The most rounds, 1 to 100.
    pub max: u32,
    /// Its steps, in the order of the file: each [`Step::within`] it.
    pub steps: Vec<StepId>,
}

/// `pipeline: NAME` with `input:`.
#[derive(Debug)]
pub struct PipelineStep {
    /// The pipeline that is run, by the definition that is current when the child is submitted.
    pub pipeline: PipelineName,
    /// Its input.
    pub input: Template,
}

/// What submits tasks by itself.
#[derive(Debug)]
pub enum Trigger {
    /// A webhook.
    Webhook(WebhookTrigger),
    /// A clock.
    Schedule(ScheduleTrigger),
}

/// `on: [{ webhook: NAME, … }]`. Templates see `event` and `headers`.
#[derive(Debug)]
pub struct WebhookTrigger {
    /// A name under `webhooks:` in `teamster.yaml`.
    pub webhook: String,
    /// Only these events; empty for all. `pull_request.opened` or `pull_request`.
    pub events: Vec<String>,
    /// Only if this holds.
    pub condition: Option<Expression>,
    /// The task's input; without it, the event.
    pub input: Option<Template>,
    /// The idempotency key; without it, the sender's delivery id.
    pub key: Option<Template>,
    /// The group of which only the newest task is wanted.
    pub supersede: Option<Template>,
}

/// `on: [{ schedule: { cron, timezone, missed, input } }]`.
#[derive(Debug, Clone)]
pub struct ScheduleTrigger {
    /// Five fields, or six with seconds first.
    pub cron: String,
    /// An IANA name; by default UTC.
    pub timezone: String,
    /// What happens to ticks that passed while no scheduler ran.
    pub missed: Missed,
    /// The task's input; by default `{}`.
    pub input: Value,
}

/// What happens to missed ticks of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// None is made up for.
    #[default]
    Skip,
    /// One task for all of them.
    Once,
    /// One task each, at most 1,000.
    All,
}

/// An agent: a Markdown file in the format of Claude Code subagents.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// When to use it.
    pub description: String,
    /// The tools that it may use, as rules; `None`: every tool of the installation.
    pub tools: Option<Vec<String>>,
    /// Tools that it may not use, as rules; they beat `tools`.
    pub disallowed_tools: Vec<String>,
    /// A model's name in `teamster.yaml`; `None` or `inherit`: the default model.
    pub model: Option<String>,
    /// The most model calls.
    pub max_turns: Option<u32>,
    /// MCP servers of `teamster.yaml` that it uses; `None`: those that its tools name.
    pub mcp_servers: Option<Vec<String>>,
    /// `low`, `medium`, `high`, …: handed to the provider.
    pub effort: Option<String>,
    /// The agents that it may call.
    pub calls: Callees,
    /// How its calls are judged that no rule is about; `None`: as its caller's, or as the installation says.
    pub permission_mode: Option<PermissionMode>,
    /// Where text of strangers comes from: `webhook`, `web`, `files`, `tools`, or rules about tools. Their answers are
    /// marked, and after one a person is asked about calls that reach out or must not be repeated.
    pub taint: Vec<String>,
    /// The names under `guards:` of checks of what it reads and writes.
    pub guards: Vec<String>,
    /// Whether, called by another agent, it works while that one goes on.
    pub background: bool,
    /// Who is asked before and after what it does, beside those of the installation.
    pub hooks: Hooks,
    /// The system prompt.
    pub system: String,
    /// Fields of the file that are known but not honoured by this version.
    pub unsupported: Vec<String>,
}

/// Which agents an agent may call with the tool `Agent`: what its `tools` and `disallowedTools` say of that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Callees {
    /// None: `tools` does not name `Agent`.
    #[default]
    None,
    /// `Agent`: all of the project but itself.
    All {
        /// `Agent(NAME)` of `disallowedTools`.
        except: Vec<String>,
    },
    /// `Agent(NAME, NAME)`.
    Named(Vec<String>),
}

impl Callees {
    /// Those of `all` that `own` may call.
    pub fn of<'a>(&self, all: impl Iterator<Item = &'a str>, own: &str) -> Vec<&'a str> {
        all.filter(|name| match self {
            Self::None => false,
            Self::All { except } => *name != own && !except.iter().any(|other| other == name),
            Self::Named(names) => names.iter().any(|other| other == name),
        })
        .collect()
    }
}

impl Pipeline {
    /// The round that a step is in, of one that is repeated or repeats others.
    pub fn round(&self, run: &Run, id: &StepId) -> Option<u32> {
        let step = self.step(id)?;
        let of = match (&step.kind, &step.within) {
            (StepKind::Repeat(_), _) => id,
            (_, Some(within)) => within,
            _ => return None,
        };
        run.step(&StepKey::of(of.clone())).map(|known| known.round)
    }

    /// A step by its id.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| &step.id == id)
    }
}
