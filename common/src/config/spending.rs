//! What all tasks together may use: budgets of money and tokens, and limits of
//! rates and of calls at once. The stores count (`crate::store::meter`).

use serde::{Deserialize, Serialize};

use crate::id::PipelineName;
use crate::journal::WhenSpent;
use crate::span::Span;

/// An entry of `budgets:`. Without `pipeline` and `label` it counts all model calls of the installation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SharedBudget {
    /// Only tasks of this pipeline.
    pub pipeline: Option<PipelineName>,
    /// Tasks by the value of this label, each value for itself.
    pub label: Option<String>,
    /// Only this value of the label. An entry that names a value counts instead of those that name none.
    pub value: Option<String>,
    /// Dollars.
    pub usd: Option<f64>,
    /// Tokens, in and out.
    pub tokens: Option<u64>,
    /// What was used is forgotten at each full multiple of this in UTC (`1d`: at midnight). Without it, never.
    pub every: Option<Span>,
    /// What happens when it is spent.
    pub then: WhenSpent,
}

/// What the name of a meter begins with that counts for an entry of `budgets:`. Behind it stand the entry's name, after
/// a slash the value of its label if each counts for itself, and the unit.
pub const BUDGET_METER: &str = "budget ";

/// The entry of `budgets:` that a meter counts for, of those that there are.
pub fn budget_of_meter<'b>(meter: &str, budgets: impl IntoIterator<Item = &'b String>) -> Option<&'b str> {
    let rest = meter.strip_prefix(BUDGET_METER)?;
    let fits = |name: &&String| rest.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with([' ', '/']));
    // The longest: one name may begin like another.
    budgets.into_iter().filter(fits).max_by_key(|name| name.len()).map(String::as_str)
}

/// An entry of `rate_limits:`: for models, for tools, or for the steps that name it under `uses`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Model calls by this provider.
    pub provider: Option<String>,
    /// Calls of the model with this name in `models:`.
    pub model: Option<String>,
    /// Tool calls that fit one of these rules.
    pub tools: Vec<String>,
    /// Calls in a window.
    pub requests: Option<u64>,
    /// Tokens of model calls in a window, in and out.
    pub tokens: Option<u64>,
    /// The window: it turns at each full multiple of this in UTC. Default 1 minute.
    pub every: Span,
    /// Calls at once.
    pub at_once: Option<u64>,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            provider: None,
            model: None,
            tools: Vec::new(),
            requests: None,
            tokens: None,
            every: Span::from_secs(60),
            at_once: None,
        }
    }
}

impl SharedBudget {
    /// What is wrong with it, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if self.usd.is_some_and(|usd| !usd.is_finite() || usd <= 0.0) || self.tokens == Some(0) {
            Some("a budget must be more than nothing")
        } else if self.usd.is_none() && self.tokens.is_none() {
            Some("a budget needs `usd` or `tokens`")
        } else if self.value.is_some() && self.label.is_none() {
            Some("`value` is the value of a `label`; name that too")
        } else if self.every.is_some_and(|every| every.get().as_secs() < 60) {
            Some("`every` must be at least 1m")
        } else {
            None
        }
    }
}

impl RateLimit {
    /// What is wrong with it, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let of_models = self.provider.is_some() || self.model.is_some();
        if self.requests.is_none() && self.tokens.is_none() && self.at_once.is_none() {
            Some("a rate limit needs `requests`, `tokens` or `at_once`")
        } else if [self.requests, self.tokens, self.at_once].contains(&Some(0)) {
            Some("a limit of nothing lets nothing through: use at least 1")
        } else if of_models && !self.tools.is_empty() {
            Some("a rate limit is for models or for tools; write two")
        } else if self.tokens.is_some() && !self.tools.is_empty() {
            Some("`tokens` are those of model calls; tools have `requests` and `at_once`")
        } else if self.every.get().as_secs() < 1 {
            Some("`every` must be at least 1s")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_counts_for_the_budget_that_it_is_named_after() {
        let names = ["month", "month end", "tenants"].map(str::to_owned);
        for (meter, budget) in [
            ("budget month usd", Some("month")),
            ("budget month end tokens", Some("month end")),
            ("budget tenants/acme inc usd", Some("tenants")),
            ("budget monthly usd", None),
            ("rate month requests", None),
        ] {
            assert_eq!(budget_of_meter(meter, &names), budget, "{meter}");
        }
    }
}
