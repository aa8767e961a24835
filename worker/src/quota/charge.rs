//! What a call counts for: pure. Names the meters, in one place, so that all
//! workers mean the same by them.

use std::path::Path;

use common::config::{BUDGET_METER, SharedBudget};
use common::failure::{Failure, FailureClass};
use common::id::{MeterName, StepId, StepKey};
use common::journal::{Allowance, HoldBack, Run, WhenSpent};
use common::pipeline::model::Pipeline;
use common::span::Span;
use common::store::{Charge, Meter, Window};
use serde_json::Value;

use super::estimate::{Worst, limit_micros};
use super::{Quotas, Rate, shares_budget};
use crate::tools::rule::{Reading, Subject};

/// The window of calls that are counted only to be held back.
const MINUTE: Span = Span::from_secs(60);
/// For how long what a family of tasks has spent is remembered after its last call.
const FAMILY: Span = Span::from_secs(30 * 24 * 3_600);
/// The longest part of a meter's name that users choose, in bytes; longer ones are told apart by a digest.
const LONGEST_PART: usize = 100;

/// A call, as quotas see it.
#[derive(Debug, Clone, Copy)]
pub enum Demand<'a> {
    /// Of a model.
    Model {
        /// The provider's name.
        provider: &'a str,
        /// The model's name in `teamster.yaml`.
        alias: &'a str,
        /// What it may use at most.
        worst: Worst,
    },
    /// Of a tool, an `http` or `run` step.
    Tool {
        /// Its name.
        name: &'a str,
        /// What it is called with.
        arguments: &'a Value,
        /// Against which rules take paths.
        workspace: &'a Path,
    },
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Millionths of a dollar.
    Micros,
    /// Tokens.
    Tokens,
    /// Calls.
    Requests,
    /// Calls at once.
    Places,
}

/// What is charged for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quota {
    /// A budget, by its name and the unit.
    Budget(String),
    /// A rate limit, by its name and the unit.
    RateLimit(String),
}

impl Quota {
    /// What the journal says if it is refused.
    pub fn held_back(&self, used: u64, limit: u64) -> HoldBack {
        match self {
            Self::Budget(name) => HoldBack::Budget { budget: name.clone(), used, limit },
            Self::RateLimit(name) => HoldBack::RateLimit { rate_limit: name.clone(), used, limit },
        }
    }
}

/// A charge, with what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// What is asked of the store.
    pub charge: Charge,
    /// What is counted.
    pub unit: Unit,
    /// What it is for.
    pub of: Quota,
    /// What happens then.
    pub then: WhenSpent,
}

impl Quotas {
    /// What a call of a step counts for.
    ///
    /// # Errors
    /// `Configuration`, if a budget in dollars cannot be kept since nobody knows the price.
    pub fn charges(
        &self,
        run: &Run,
        pipeline: &Pipeline,
        step: &StepKey,
        demand: Demand<'_>,
    ) -> Result<Vec<Counted>, Failure> {
        let uses = pipeline.step(&step.step).map(|step| step.uses.as_slice()).unwrap_or_default();
        let mut counted = Vec::new();
        for rate in self.rates.iter().filter(|rate| rate.is_about(demand, uses)) {
            rate.count(demand, &mut counted)?;
        }
        if let Demand::Model { alias, worst, .. } = demand {
            let mut spending = Vec::new();
            for (name, budget) in &self.budgets {
                spending.extend(self.shared(name, budget, run));
            }
            spending.extend(family(run, pipeline));
            for bound in spending {
                bound.count(alias, worst, &mut counted)?;
            }
        }
        Ok(counted)
    }

    /// A budget of many tasks, if it counts for this one.
    fn shared(&self, name: &str, budget: &SharedBudget, run: &Run) -> Option<Bound> {
        if budget.pipeline.as_ref().is_some_and(|pipeline| *pipeline != run.head.pipeline) {
            return None;
        }
        let mut of = name.to_owned();
        if let Some(label) = &budget.label {
            let value = run.head.labels.get(label)?;
            let named =
                |other: &SharedBudget| other.label.as_ref() == Some(label) && other.value.as_ref() == Some(value);
            match &budget.value {
                Some(wanted) if wanted != value => return None,
                None if self.budgets.iter().any(|(_, other)| named(other)) => return None,
                _ => of = format!("{name}/{}", part(value)),
            }
        }
        Some(Bound {
            prefix: BUDGET_METER,
            name: of,
            window: budget.every.map_or(Window::Total, Window::Every),
            usd: budget.usd,
            tokens: budget.tokens,
            then: budget.then,
        })
    }
}

impl Rate {
    fn is_about(&self, demand: Demand<'_>, uses: &[String]) -> bool {
        if uses.contains(&self.name) {
            return true;
        }
        match demand {
            Demand::Model { provider, alias, .. } => {
                let fits = |limit: &Option<String>, name: &str| limit.as_ref().is_none_or(|limit| limit == name);
                let is_for_models = self.limit.provider.is_some() || self.limit.model.is_some();
                is_for_models && fits(&self.limit.provider, provider) && fits(&self.limit.model, alias)
            }
            Demand::Tool { name, arguments, workspace } => {
                let subject = Subject { tool: name, arguments, workspace: Some(workspace) };
                self.tools.iter().any(|rule| rule.fits(subject, Reading::Takes))
            }
        }
    }

    fn count(&self, demand: Demand<'_>, out: &mut Vec<Counted>) -> Result<(), Failure> {
        let every = Window::Every(self.limit.every);
        let tokens = match demand {
            Demand::Model { worst, .. } => self.limit.tokens.map(|limit| (limit, worst.tokens)),
            Demand::Tool { .. } => None,
        };
        let parts = [
            ("requests", Unit::Requests, every, self.limit.requests.map(|limit| (limit, 1))),
            ("tokens", Unit::Tokens, every, tokens),
            ("places", Unit::Places, Window::Places, self.limit.at_once.map(|limit| (limit, 1))),
        ];
        for (what, unit, window, bound) in parts {
            let Some((limit, amount)) = bound else { continue };
            let meter = meter(format!("rate {} {what}", self.name), window)?;
            // A call that alone may use more than a window has goes when the window is its own.
            let charge = Charge { meter, limit, amount: amount.min(limit) };
            let of = Quota::RateLimit(format!("{} {what}", self.name));
            out.push(Counted { charge, unit, of, then: WhenSpent::Park });
        }
        Ok(())
    }
}

/// Something that bounds money or tokens.
struct Bound {
    /// Before the name, in that of the meter.
    prefix: &'static str,
    name: String,
    window: Window,
    usd: Option<f64>,
    tokens: Option<u64>,
    then: WhenSpent,
}

impl Bound {
    fn count(&self, alias: &str, worst: Worst, out: &mut Vec<Counted>) -> Result<(), Failure> {
        let mut counted = |what: &str, unit, limit, amount| -> Result<(), Failure> {
            let of = format!("{} {what}", self.name);
            let charge = Charge { meter: meter(format!("{}{of}", self.prefix), self.window)?, limit, amount };
            out.push(Counted { charge, unit, of: Quota::Budget(of), then: self.then });
            Ok(())
        };
        if let Some(usd) = self.usd {
            counted("usd", Unit::Micros, limit_micros(usd), worst.micros.ok_or_else(|| unpriced(alias))?)?;
        }
        if let Some(tokens) = self.tokens {
            counted("tokens", Unit::Tokens, tokens, worst.tokens)?;
        }
        Ok(())
    }
}

/// The budgets that a task shares with its children and its ancestors.
fn family(run: &Run, pipeline: &Pipeline) -> Vec<Bound> {
    let mut allowances = run.submitted.allowances.clone();
    if shares_budget(pipeline) {
        allowances.push(own(run, pipeline));
    }
    let bound = |allowance: Allowance| Bound {
        prefix: "",
        name: format!("task {}", allowance.task),
        window: Window::Idle(FAMILY),
        usd: allowance.usd.map(|usd| usd + run.raised.usd),
        tokens: allowance.tokens.map(|tokens| tokens.saturating_add(run.raised.tokens)),
        then: allowance.then,
    };
    allowances.into_iter().map(bound).collect()
}

/// What a task's children are told of budgets: those of its ancestors, and its own.
pub fn allowances(run: &Run, pipeline: &Pipeline) -> Vec<Allowance> {
    let own = (!pipeline.budget.is_endless()).then(|| own(run, pipeline));
    run.submitted.allowances.iter().cloned().chain(own).collect()
}

fn own(run: &Run, pipeline: &Pipeline) -> Allowance {
    let budget = pipeline.budget;
    Allowance { task: run.head.id, usd: budget.usd, tokens: budget.tokens, then: budget.then }
}

/// The meter of the places of a pipeline's `concurrency`.
///
/// # Errors
/// `Internal`, if that is no name, which cannot be.
pub fn places(pipeline: &Pipeline, key: &str) -> Result<Meter, Failure> {
    meter(format!("concurrency {}/{}", pipeline.name, part(key)), Window::Places)
}

/// The meter of the places of a step's `concurrency`.
///
/// # Errors
/// `Internal`, if that is no name, which cannot be.
pub fn step_places(pipeline: &Pipeline, step: &StepId, key: &str) -> Result<Meter, Failure> {
    meter(format!("concurrency {}.{step}/{}", pipeline.name, part(key)), Window::Places)
}

/// The meter of the calls of a model, at which all workers hold them back when its provider takes no more.
///
/// # Errors
/// `Internal`, if that is no name, which cannot be.
pub fn calls(provider: &str, model: &str) -> Result<Meter, Failure> {
    meter(format!("model {}/{} calls", part(provider), part(model)), Window::Every(MINUTE))
}

/// Why a model without a price cannot be called under a budget in dollars.
pub fn unpriced(alias: &str) -> Failure {
    let message = format!(
        "no price is known for the model {alias}, so that no budget in dollars can be kept; set models.{alias}.price"
    );
    Failure::new(FailureClass::Configuration, message)
}

fn meter(name: String, window: Window) -> Result<Meter, Failure> {
    let name = MeterName::new(name).map_err(|error| Failure::new(FailureClass::Internal, error.to_string()))?;
    Ok(Meter { name, window })
}

/// What a user chose, as a part of a name: short and in one line.
fn part(text: &str) -> String {
    if text.len() <= LONGEST_PART && !text.contains(char::is_control) {
        return text.to_owned();
    }
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let start: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_PART / 8).collect();
    format!("{start}…{}", &digest[..16])
}
