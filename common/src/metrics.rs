//! What is counted: every Prometheus metric of scheduler and worker, with its name,
//! help and labels. Nothing else in the program names one.
//!
//! Facts of tasks are counted where they are written ([`Witness`]), so that the
//! counts of all processes add up to what stands in the journals; what a journal
//! does not hold (operations of the store, requests that failed) is counted by the
//! decorators around the traits. Labels are what an operator configures, or small
//! closed sets; what a stranger or a model may invent goes through [`Bounded`].

mod bounded;
mod exposition;
mod family;
mod store;

use std::time::Duration;

use prometheus::{Histogram, IntCounter, Registry};

pub use self::bounded::Bounded;
pub use self::exposition::CONTENT_TYPE;
use self::family::{Counters, Durations, Family, Gauges, Sums};
pub use self::store::Observed;
use crate::store::witness::{Fact, Witness};
use crate::task::Outcome;

/// From a millisecond to half an hour: tasks, steps, waits, calls.
const SECONDS: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1_800.0];
/// From a tenth of a millisecond to ten seconds: operations of the store.
const OPERATION: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0];

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    names: std::collections::BTreeSet<String>,
    tasks_submitted: Counters<1>,
    tasks_finished: Counters<2>,
    task_duration: Durations<2>,
    queue_wait: Durations<1>,
    leases_lost: IntCounter,
    tasks_parked: Counters<1>,
    steps_finished: Counters<1>,
    step_duration: Histogram,
    step_retries: Counters<1>,
    model_requests: Counters<3>,
    model_request_duration: Durations<2>,
    model_tokens: Counters<2>,
    model_cost: Sums<1>,
    tool_calls: Counters<2>,
    tool_call_duration: Durations<1>,
    calls_held_back: Counters<1>,
    approvals_requested: IntCounter,
    approvals_decided: Counters<1>,
    guards_tripped: IntCounter,
    store_operation: Durations<1>,
    store_errors: Counters<2>,
    lease_renewals: Counters<1>,
    webhook_requests: Counters<2>,
    queue_depth: Gauges<2>,
    queue_paused: Gauges<1>,
    queue_oldest_ready: Gauges<1>,
    budget_used: Gauges<1>,
    worker_slots: Gauges<1>,
    models: Bounded,
    tools: Bounded,
    /// Whoever submits may name a queue.
    queues: Bounded,
}

impl Metrics {
    /// All at zero. `version` is that of the program.
    ///
    /// # Errors
    /// When two have the same name, or one is no name: a test excludes that.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let all = Family::new(&registry);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        let build: Gauges<1> =
            all.gauges("build_info", "Always 1; the version of the program is a label", ["version"])?;
        build.set([version], 1.0);
        Ok(Self {
            tasks_submitted: all.counters("tasks_submitted_total", "Tasks that were accepted", ["pipeline"])?,
            tasks_finished: all.counters(
                "tasks_finished_total",
                "Tasks that came to their end: succeeded, cancelled or dead",
                ["pipeline", "outcome"],
            )?,
            task_duration: all.durations(
                "task_duration_seconds",
                "From the submission of a task to its end",
                ["pipeline", "outcome"],
                &SECONDS,
            )?,
            queue_wait: all.durations(
                "queue_wait_seconds",
                "From the time that a task became ready to the time that a worker took it",
                ["queue"],
                &SECONDS,
            )?,
            leases_lost: all.counter("leases_lost_total", "Leases that ran out: a worker died, or was cut off")?,
            tasks_parked: all.counters(
                "tasks_parked_total",
                "Times that a task gave its slot back to wait, by what it waits for",
                ["waiting_on"],
            )?,
            steps_finished: all.counters("steps_finished_total", "Steps that are done", ["outcome"])?,
            step_duration: all.duration(
                "step_duration_seconds",
                "From the first event of a step to its end, waits and retries included",
                &SECONDS,
            )?,
            step_retries: all.counters(
                "step_retries_total",
                "Tries of steps that failed and are followed by another, by the class of the failure",
                ["class"],
            )?,
            model_requests: all.counters(
                "model_requests_total",
                "Requests to models: ok, or the class of the failure",
                ["provider", "model", "outcome"],
            )?,
            model_request_duration: all.durations(
                "model_request_duration_seconds",
                "From a request to a model to the end of its reply",
                ["provider", "model"],
                &SECONDS,
            )?,
            model_tokens: all.counters(
                "model_tokens_total",
                "Tokens of answered requests: input, output, cache_read, cache_write",
                ["model", "type"],
            )?,
            model_cost: all.sums("model_cost_usd_total", "Dollars that answered requests cost", ["model"])?,
            tool_calls: all.counters(
                "tool_calls_total",
                "Answered calls of tools, http and run steps: ok, tool_error, or the class of the failure",
                ["tool", "outcome"],
            )?,
            tool_call_duration: all.durations(
                "tool_call_duration_seconds",
                "From the start of a call to its answer",
                ["tool"],
                &SECONDS,
            )?,
            calls_held_back: all.counters(
                "calls_held_back_total",
                "Calls that had to wait for a budget, a rate_limit or a breaker",
                ["reason"],
            )?,
            approvals_requested: all.counter("approvals_requested_total", "Questions to people")?,
            approvals_decided: all.counters(
                "approvals_decided_total",
                "Questions to people that were approved or rejected, or that expired",
                ["decision"],
            )?,
            guards_tripped: all.counter("guards_tripped_total", "Times that a guard found something")?,
            store_operation: all.durations(
                "store_operation_duration_seconds",
                "Time of an operation of the store, failed ones included",
                ["operation"],
                &OPERATION,
            )?,
            store_errors: all.counters(
                "store_errors_total",
                "Operations of the store that failed: unavailable, damaged, refused",
                ["operation", "kind"],
            )?,
            lease_renewals: all.counters(
                "lease_renewals_total",
                "Renewals of leases that this process asked for: renewed, or lost",
                ["outcome"],
            )?,
            webhook_requests: all.counters(
                "webhook_requests_total",
                "Deliveries of webhooks: accepted, ignored, refused, failed",
                ["hook", "outcome"],
            )?,
            queue_depth: all.gauges(
                "queue_depth",
                "Unfinished and dead tasks of a queue by their state, as the store counts them",
                ["queue", "state"],
            )?,
            queue_paused: all.gauges("queue_paused", "1 while the queue is paused", ["queue"])?,
            queue_oldest_ready: all.gauges(
                "queue_oldest_ready_seconds",
                "How long the oldest ready task of a queue has been ready; 0 if none is",
                ["queue"],
            )?,
            budget_used: all.gauges(
                "budget_used_ratio",
                "Used and reserved part of a budget; of budgets by label, that of the value with the most",
                ["budget"],
            )?,
            worker_slots: all.gauges("worker_slots", "Slots of this worker: busy, free", ["state"])?,
            models: Bounded::default(),
            tools: Bounded::default(),
            queues: Bounded::default(),
            names: all.names(),
            registry,
        })
    }

    /// The names of all metrics, whether they have samples yet or not.
    pub fn names(&self) -> std::collections::BTreeSet<String> {
        self.names.clone()
    }

    /// A step is done that began so long ago.
    pub fn step_took(&self, took: Duration) {
        self.step_duration.observe(took.as_secs_f64());
    }

    /// A request to a model ended: well, or with the class of what went wrong.
    pub fn model_asked(&self, provider: &str, model: &str, outcome: &str, took: Duration) {
        let model = self.models.admit(model);
        self.model_requests.add([provider, &model, outcome], 1);
        self.model_request_duration.observe([provider, &model], took);
    }

    /// A delivery came in for a configured hook.
    pub fn webhook(&self, hook: &str, outcome: &str) {
        self.webhook_requests.add([hook, outcome], 1);
    }

    /// How many slots of the worker are busy, of so many.
    pub fn slots(&self, busy: usize, all: usize) {
        self.worker_slots.set(["busy"], family::float(busy as u64));
        self.worker_slots.set(["free"], family::float(all.saturating_sub(busy) as u64));
    }
}

impl Witness for Metrics {
    fn witness(&self, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::Finished { pipeline, outcome, took } => {
                    let outcome = match outcome {
                        Outcome::Succeeded => "succeeded",
                        Outcome::Cancelled => "cancelled",
                        Outcome::Dead => "dead",
                    };
                    self.tasks_finished.add([pipeline.as_str(), outcome], 1);
                    self.task_duration.observe([pipeline.as_str(), outcome], *took);
                }
                Fact::LeaseLost => self.leases_lost.inc(),
                Fact::Parked { on } => on.iter().for_each(|on| self.tasks_parked.add([on], 1)),
                Fact::StepFinished { outcome } => self.steps_finished.add([outcome], 1),
                Fact::StepRetrying { class } => self.step_retries.add([class.as_str()], 1),
                Fact::ModelAnswered { model, usage } => {
                    let model = self.models.admit(model);
                    for (kind, tokens) in [
                        ("input", usage.input_tokens),
                        ("output", usage.output_tokens),
                        ("cache_read", usage.cache_read_tokens),
                        ("cache_write", usage.cache_write_tokens),
                    ] {
                        self.model_tokens.add([&model, kind], tokens);
                    }
                    self.model_cost.add([&model], usage.cost_usd);
                }
                Fact::ToolAnswered { tool, failure, is_error, took } => {
                    // A model may ask for a tool that there is not: its words are no label.
                    let invented = failure.is_some();
                    let tool = if invented { self.tools.known(tool) } else { self.tools.admit(tool) };
                    let outcome = match failure {
                        Some(class) => class.as_str(),
                        None if *is_error => "tool_error",
                        None => "ok",
                    };
                    self.tool_calls.add([&tool, outcome], 1);
                    self.tool_call_duration.observe([&tool], *took);
                }
                Fact::HeldBack { by } => self.calls_held_back.add([by], 1),
                Fact::ApprovalRequested => self.approvals_requested.inc(),
                Fact::ApprovalDecided { decision } => self.approvals_decided.add([decision], 1),
                Fact::GuardTripped => self.guards_tripped.inc(),
            }
        }
    }
}
