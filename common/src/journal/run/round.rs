//! Steps that run again and again: what a new round does to them.

use std::sync::Arc;

use super::{Run, StepRun};
use crate::id::{StepId, StepKey};

impl Run {
    /// A step with `repeat` starts a round, and these steps of it start from nothing.
    pub(super) fn start_round(&mut self, step: &StepKey, round: u32, reset: &[StepId]) {
        for (_, known) in self.steps.iter_mut().filter(|(key, _)| reset.contains(&key.step)) {
            let before = known.outcome().or(known.before.as_ref()).cloned();
            *known = Arc::new(StepRun { generation: known.generation + 1, before, ..StepRun::default() });
        }
        if let Some(known) = self.steps.get_mut(step) {
            Arc::make_mut(known).round = round;
        }
    }
}
