//! What must be settled before a call is made: the budgets of the task and of
//! its steps, which are kept here since nobody else spends of them, and what
//! only the store can say (see [`crate::quota`]).

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{CallRecord, Conversation, Event, Run, WhenSpent};
use common::pipeline::model::{Budget, Step};
use common::store::meter::LEVELS;
use common::task::WaitOn;

use super::{Action, ActionKey, Deciding, Way};
use crate::quota::charge::unpriced;
use crate::quota::estimate::{Worst, limit_micros, used_micros, worst};

/// The name of the task's own budget in the journal.
const TASK: &str = "task";

/// A budget that one task keeps by itself.
struct Own {
    name: String,
    limit: Budget,
    used: Worst,
}

/// One unit of it.
#[derive(Clone, Copy)]
struct Measure {
    unit: &'static str,
    used: u64,
    limit: u64,
}

impl Deciding<'_> {
    /// Notes how far budgets are used; whether there was something new to note.
    pub(super) fn note_budgets(&mut self) {
        let steps = self.given.pipeline.steps.iter().filter(|step| !step.budget.is_endless());
        let keys: Vec<StepKey> = steps.map(|step| StepKey::of(step.id.clone())).collect();
        let budgets = std::iter::once(self.of_task()).chain(keys.iter().map(|key| self.of_step(key)));
        let news: Vec<Event> = budgets
            .flatten()
            .flat_map(|own| {
                own.measures().into_iter().filter_map(move |measure| measure.news(&own.name)).collect::<Vec<_>>()
            })
            .filter(|event| !is_noted(self.run, event))
            .collect();
        self.decision.events.extend(news);
    }

    /// Whether the next model call of a step fits its budgets, whatever it and all that are under way may use.
    pub(super) fn affords(&mut self, step: &Step, key: &StepKey, conversation: &Conversation) -> bool {
        let wanted = self.worst(key, conversation);
        for own in [self.of_step(&StepKey::of(step.id.clone())), self.of_task()].into_iter().flatten() {
            let is_of_task = own.name == TASK;
            if own.limit.usd.is_some() && wanted.micros.is_none() {
                self.decision.fail_step(key, unpriced(&conversation.head.alias));
                return false;
            }
            let flying = self.flying((!is_of_task).then_some(key));
            let add = |a: Worst, b: Worst| Worst {
                tokens: a.tokens.saturating_add(b.tokens),
                micros: Some(a.micros.unwrap_or(0).saturating_add(b.micros.unwrap_or(0))),
            };
            let alone = own.over(add(own.used, wanted));
            if let Some(measure) = alone {
                self.spent(key, &own, measure, wanted);
                return false;
            }
            if own.over(add(add(own.used, wanted), flying)).is_some() {
                // What is under way will say what it has really used.
                return false;
            }
        }
        true
    }

    /// A budget does not leave room for another call.
    fn spent(&mut self, key: &StepKey, own: &Own, measure: Measure, wanted: Worst) {
        if own.limit.then == WhenSpent::Fail {
            let message = format!(
                "the budget of the {} has no room for another model call: {} of {} used, and the call may use {} \
                 (raise `budget`, or lower `limits.max_tokens`)",
                own.name,
                measure.show(measure.used),
                measure.show(measure.limit),
                measure.show(if measure.unit == "usd" { wanted.micros.unwrap_or(0) } else { wanted.tokens }),
            );
            return self.decision.fail_step(key, Failure::new(FailureClass::Budget, message));
        }
        let event = Event::BudgetNoted {
            budget: format!("{} {}", own.name, measure.unit),
            percent: 100,
            used: measure.used,
            limit: measure.limit,
        };
        if !is_noted(self.run, &event) {
            let again = self.decision.events.contains(&event);
            if !again {
                self.decision.record(event);
            }
            return;
        }
        self.wait(WaitOn::Budget { step: Some(key.clone()) }, None);
    }

    /// Whether a call may be made as far as the store has a say in it; asks, or waits.
    pub(super) fn cleared(&mut self, step: &StepKey, call: Option<&CallRecord>) -> bool {
        let key = ActionKey { step: step.clone(), call: call.map(|call| call.call.clone()) };
        if !self.given.asks_quotas || self.given.grants.contains_key(&key) {
            return true;
        }
        if self.is_held_back(step) {
            return false;
        }
        if !self.given.in_flight.contains(&key) {
            let way = if call.is_none() { self.way(step) } else { Way::Direct };
            self.act(Action::Reserve { step: step.clone(), call: call.cloned(), way });
        }
        false
    }

    /// Whether a step waits because its last call was held back.
    pub(super) fn is_held_back(&mut self, step: &StepKey) -> bool {
        let Some(held) = self.run.held(Some(step)).filter(|held| self.given.now < held.until) else { return false };
        let step = Some(step.clone());
        let on = if held.why.is_for_budget() { WaitOn::Budget { step } } else { WaitOn::RateLimit { step } };
        self.wait(on, Some(held.until));
        true
    }

    fn worst(&self, key: &StepKey, conversation: &Conversation) -> Worst {
        let (models, head, now) = (self.given.models, &conversation.head, self.given.now);
        let waits = self.run.step(key).is_some_and(|known| known.waiting_entry().is_some());
        let in_batch = waits || self.way(key) != Way::Direct;
        worst(conversation, if in_batch { models.price_in_batch(head, now) } else { models.price(head, now) })
    }

    /// What model calls that are under way, are being started, or wait in a model batch may use: of one step's family, or
    /// of all.
    fn flying(&self, of: Option<&StepKey>) -> Worst {
        let starting = self.decision.actions.iter().map(Action::key);
        let keys = self.given.in_flight.iter().cloned().chain(starting).filter(|key| key.call.is_none());
        let waiting = self.run.steps.iter().filter(|(_, known)| known.waiting_entry().is_some());
        let keys = keys.map(|key| key.step).chain(waiting.map(|(key, _)| key.clone()));
        let mut sum = Worst { tokens: 0, micros: Some(0) };
        for key in keys.filter(|key| of.is_none_or(|of| of.step == key.step)) {
            let Some(conversation) = self.run.step(&key).and_then(|known| known.conversation.as_ref()) else {
                continue;
            };
            let worst = self.worst(&key, conversation);
            sum.tokens = sum.tokens.saturating_add(worst.tokens);
            sum.micros = sum.micros.zip(worst.micros).map(|(a, b)| a.saturating_add(b));
        }
        sum
    }

    fn of_task(&self) -> Option<Own> {
        let usage = self.run.head.usage;
        self.own(TASK.to_owned(), self.given.pipeline.budget, usage.tokens(), used_micros(&usage))
    }

    fn of_step(&self, key: &StepKey) -> Option<Own> {
        let budget = self.given.pipeline.step(&key.step)?.budget;
        let family = self.run.steps.iter().filter(|(other, _)| other.step == key.step);
        let (mut tokens, mut micros) = (0, 0);
        for conversation in family.filter_map(|(_, known)| known.conversation.as_ref()) {
            let usage = conversation.usage();
            tokens += usage.tokens();
            micros += used_micros(&usage);
        }
        self.own(format!("step {}", key.step), budget, tokens, micros)
    }

    fn own(&self, name: String, budget: Budget, tokens: u64, micros: u64) -> Option<Own> {
        if budget.is_endless() {
            return None;
        }
        let raised = self.run.raised;
        let limit = Budget {
            usd: budget.usd.map(|usd| usd + raised.usd),
            tokens: budget.tokens.map(|tokens| tokens.saturating_add(raised.tokens)),
            then: budget.then,
        };
        Some(Own { name, limit, used: Worst { tokens, micros: Some(micros) } })
    }
}

impl Own {
    fn measures(&self) -> Vec<Measure> {
        let usd = self.limit.usd.map(|usd| ("usd", self.used.micros.unwrap_or(0), limit_micros(usd)));
        let tokens = self.limit.tokens.map(|limit| ("tokens", self.used.tokens, limit));
        usd.into_iter().chain(tokens).map(|(unit, used, limit)| Measure { unit, used, limit }).collect()
    }

    /// What does not leave room for so much in all.
    fn over(&self, all: Worst) -> Option<Measure> {
        let whole = |unit| if unit == "usd" { all.micros.unwrap_or(0) } else { all.tokens };
        self.measures().into_iter().find(|measure| whole(measure.unit) > measure.limit)
    }
}

impl Measure {
    /// The highest level that is passed, as an event.
    fn news(self, name: &str) -> Option<Event> {
        let passed = |level: &&u8| u128::from(self.used) * 100 >= u128::from(self.limit) * u128::from(**level);
        let percent = *LEVELS.iter().rev().find(passed)?;
        let budget = format!("{name} {}", self.unit);
        Some(Event::BudgetNoted { budget, percent, used: self.used, limit: self.limit })
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn show(self, amount: u64) -> String {
        if self.unit == "usd" { format!("${:.4}", amount as f64 / 1e6) } else { format!("{amount} tokens") }
    }
}

fn is_noted(run: &Run, event: &Event) -> bool {
    let Event::BudgetNoted { budget, percent, .. } = event else { return false };
    run.noted.get(budget).is_some_and(|noted| noted >= percent)
}
