//! Quotas: what a call counts for (budgets, rate limits, places), what it costs
//! in the worst case, and whether its provider or tool is to be left alone for a
//! while. Names meters and decides; only `crate::execute` asks the store.

pub mod breaker;
pub mod charge;
pub mod estimate;

use common::config::{Config, RateLimit, SharedBudget};
use common::failure::{Failure, FailureClass};
use common::id::ReservationId;
use common::journal::{Run, Usage};
use common::pipeline::model::{Pipeline, StepKind};
use common::store::Meter;
use serde_json::Value;

use self::breaker::Breakers;
use self::charge::{Counted, Demand, Unit};
use self::estimate::used_micros;
use crate::tools::rule::Rule;

/// The quotas of an installation.
#[derive(Debug)]
pub struct Quotas {
    budgets: Vec<(String, SharedBudget)>,
    rates: Vec<Rate>,
    /// Which providers and tools are left alone.
    pub breakers: Breakers,
}

#[derive(Debug)]
struct Rate {
    name: String,
    limit: RateLimit,
    tools: Vec<Rule>,
}

impl Quotas {
    /// From `budgets:` and `rate_limits:`.
    ///
    /// # Errors
    /// `Configuration`, with the rule that is none.
    pub fn from_config(config: &Config) -> Result<Self, Failure> {
        let budgets = config.budgets.iter().map(|(name, budget)| (name.clone(), budget.clone())).collect();
        let mut rates = Vec::with_capacity(config.rate_limits.len());
        for (name, limit) in &config.rate_limits {
            let tools = limit.tools.iter().map(|text| Rule::parse(text)).collect::<Result<Vec<_>, _>>();
            let tools = tools.map_err(|error| {
                Failure::new(FailureClass::Configuration, format!("rate_limits.{name}.tools: {error}"))
            })?;
            rates.push(Rate { name: name.clone(), limit: limit.clone(), tools });
        }
        Ok(Self { budgets, rates, breakers: Breakers::default() })
    }

    /// Whether calls of a task have anything to ask before they are made. Those of models always do: their provider
    /// may have asked all for a pause.
    pub fn concern(&self, run: &Run, pipeline: &Pipeline) -> bool {
        !pipeline.agents.is_empty()
            || !self.budgets.is_empty()
            || !self.rates.is_empty()
            || !run.submitted.allowances.is_empty()
            || shares_budget(pipeline)
            || self.breakers.any_open()
    }
}

/// That a call may be made: its worst case is reserved.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The reservation; none if there was nothing to reserve.
    pub id: Option<ReservationId>,
    /// What was reserved.
    pub counted: Vec<Counted>,
    /// Whether the call was begun.
    pub begun: bool,
    /// Whether it is settled by whoever gets the answer, later: the request goes out in a model batch.
    pub outlives: bool,
}

/// What a call has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Used {
    /// Nothing: it was not made.
    Nothing,
    /// One call, with so many tokens and dollars.
    Model(Usage),
    /// One call, and nobody knows more: all that was reserved.
    Unknown,
}

impl Grant {
    /// What is settled of what was reserved.
    pub fn spent(&self, used: Used) -> Vec<(Meter, u64)> {
        let of = |counted: &Counted| match (used, counted.unit) {
            (Used::Nothing, _) => Some(0),
            (Used::Model(usage), Unit::Micros) => Some(used_micros(&usage)),
            (Used::Model(usage), Unit::Tokens) => Some(usage.tokens()),
            (Used::Model(_), Unit::Requests | Unit::Places) | (Used::Unknown, _) => None,
        };
        self.counted.iter().filter_map(|counted| Some((counted.charge.meter.clone(), of(counted)?))).collect()
    }
}

/// What of the outside a call is about: what is left alone when it fails again and again.
pub fn subject(demand: Demand<'_>) -> Option<String> {
    let host = |arguments: &Value| Some(reqwest::Url::parse(arguments["url"].as_str()?).ok()?.host_str()?.to_owned());
    match demand {
        Demand::Model { provider, .. } => Some(of_provider(provider)),
        // Programs are many under one name.
        Demand::Tool { name: "run", .. } => None,
        Demand::Tool { name, arguments, .. } => Some(match host(arguments) {
            Some(host) => format!("{name} {host}"),
            None => name.to_owned(),
        }),
    }
}

/// What all calls of a provider's models are about.
pub fn of_provider(provider: &str) -> String {
    format!("provider {provider}")
}

/// Whether children spend of a pipeline's budget too, so that it must be counted in the store.
pub fn shares_budget(pipeline: &Pipeline) -> bool {
    !pipeline.budget.is_endless() && pipeline.steps.iter().any(|step| matches!(step.kind, StepKind::Pipeline(_)))
}
