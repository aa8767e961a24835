//! Steps that run again and again: one round after another, until a condition
//! holds. What a round did is in the journal as that of any step; its steps start
//! the next one from nothing, with idempotency keys of their own.

use common::failure::{Failure, FailureClass};
use common::id::{StepId, StepKey};
use common::journal::{Event, StepOutcome, StepRun};
use common::pipeline::model::{RepeatStep, Step};
use serde_json::{Value, json};

use super::Deciding;

impl Deciding<'_> {
    pub(super) fn repeat(&mut self, step: &Step, key: &StepKey, known: &StepRun, repeat: &RepeatStep) {
        if known.round == 0 {
            return self.start_round(key, 1, Vec::new());
        }
        let run = self.run;
        let member = |id: &StepId| run.step(&StepKey::of(id.clone())).and_then(StepRun::outcome);
        if repeat.steps.iter().any(|id| member(id).is_none()) {
            return;
        }
        let last = match repeat.steps.last().and_then(member) {
            Some(StepOutcome::Succeeded { output }) => output.clone(),
            _ => Value::Null,
        };
        match repeat.until.holds(&self.scope_of(key)) {
            Ok(true) => self.output(step, key, last),
            Ok(false) if known.round < repeat.max => self.start_round(key, known.round + 1, repeat.steps.clone()),
            Ok(false) => {
                let message =
                    format!("`until` did not hold after {} rounds, the most there may be (repeat.max)", repeat.max);
                let error = Failure::new(FailureClass::Limit, message);
                self.decision.fail_step(key, error.with_detail(json!({"rounds": known.round, "output": last})));
            }
            Err(error) => self.decision.fail_step(key, error),
        }
    }

    fn start_round(&mut self, key: &StepKey, round: u32, reset: Vec<StepId>) {
        self.decision.record(Event::RoundStarted { step: key.clone(), round, reset });
    }
}
