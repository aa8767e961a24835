//! Places of steps with `concurrency`: one is needed for whatever a step does
//! outside of the journal. What only writes, or only waits, needs none; the
//! shell gives it back when nothing of the step is under way (`crate::execute`).

use std::collections::BTreeMap;

use common::id::StepKey;
use common::pipeline::model::Step;
use common::task::WaitOn;

use super::{Action, Deciding};

/// A place that a step has, or asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlace {
    /// The key under which it is shared.
    pub key: String,
    /// Whether it was given.
    pub held: bool,
}

/// What a part of a decision began with.
pub(super) struct Mark {
    events: usize,
    actions: usize,
    waits: usize,
    until: Option<common::clock::Timestamp>,
}

impl Deciding<'_> {
    pub(super) fn mark(&self) -> Mark {
        let (events, actions, waits) = (self.decision.events.len(), self.decision.actions.len(), self.waits.len());
        Mark { events, actions, waits, until: self.until }
    }

    /// Takes back what a step was to do since the mark if it has no place for that, and asks for one, or waits.
    pub(super) fn heed_places(&mut self, step: &Step, key: &StepKey, mark: &Mark) {
        let Some(concurrency) = &step.concurrency else { return };
        let acts = self.decision.actions.len() > mark.actions;
        if !acts || self.given.places.get(key).is_some_and(|place| place.held) {
            return;
        }
        self.decision.events.truncate(mark.events);
        self.decision.actions.truncate(mark.actions);
        self.waits.truncate(mark.waits);
        self.until = mark.until;
        if let Some(held) = self.run.held(Some(key)).filter(|held| self.given.now < held.until) {
            return self.wait(WaitOn::RateLimit { step: Some(key.clone()) }, Some(held.until));
        }
        let scope = self.scope_of(key);
        let shared = match concurrency.key.render_text(&scope) {
            Ok(shared) => shared,
            Err(error) => return self.decision.fail_step(key, error),
        };
        // Items of one task wait for each other here, without asking anybody.
        if self.taken(step, &shared) < concurrency.max as usize {
            self.act(Action::TakePlace { step: key.clone(), key: shared });
        }
    }

    /// How many places under a key items of a step have, ask for, or are about to ask for.
    fn taken(&self, step: &Step, shared: &str) -> usize {
        let known = self.given.places.iter().filter(|(key, place)| key.step == step.id && place.key == shared);
        let about = self.decision.actions.iter().filter(
            |action| matches!(action, Action::TakePlace { step: of, key } if of.step == step.id && key == shared),
        );
        known.count() + about.count()
    }
}

/// The places of a task, by its steps and items.
pub type StepPlaces = BTreeMap<StepKey, StepPlace>;
