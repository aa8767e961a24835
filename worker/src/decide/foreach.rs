//! Steps that fan out: one run for each item of a list, collected in order.

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{Event, StepOutcome, StepRun};
use common::pipeline::model::{Foreach, OnError, Step};
use serde_json::{Value, json};

use super::Deciding;

impl Deciding<'_> {
    pub(super) fn fan_out(&mut self, step: &Step, foreach: &Foreach, key: &StepKey) {
        let run = self.run;
        let Some(items) = run.step(key).and_then(|known| known.items.as_ref()) else {
            return match self.items(foreach) {
                Ok(items) => self.decision.record(Event::Expanded { step: key.clone(), items }),
                Err(error) => self.decision.fail_step(key, error),
            };
        };
        let keys: Vec<StepKey> = (0..items.len())
            .filter_map(|index| Some(StepKey::item(step.id.clone(), u32::try_from(index).ok()?)))
            .collect();
        let outcome = |key: &StepKey| run.step(key).and_then(StepRun::outcome);
        if keys.iter().all(|key| outcome(key).is_some()) {
            return self.collect(step, key, &keys);
        }
        let failed = keys.iter().any(|key| matches!(outcome(key), Some(StepOutcome::Failed { .. })));
        let may_start = !(failed && step.on_error == OnError::Fail);
        let started =
            |key: &&StepKey| run.step(key).is_some() || self.given.in_flight.iter().any(|flying| &flying.step == *key);
        let (under_way, fresh): (Vec<&StepKey>, Vec<&StepKey>) =
            keys.iter().filter(|key| outcome(key).is_none()).partition(started);
        let room = (foreach.max_parallel as usize).saturating_sub(under_way.len());
        if under_way.is_empty() && !may_start {
            return self.collect(step, key, &keys);
        }
        for item in under_way {
            self.unit(step, item);
        }
        if may_start {
            for item in fresh.into_iter().take(room) {
                self.unit(step, item);
            }
        }
    }

    fn items(&mut self, foreach: &Foreach) -> Result<Vec<Value>, Failure> {
        let limit = self.given.limits.foreach_items;
        match foreach.items.eval(self.scope())? {
            Value::Array(items) if items.len() <= limit => Ok(items),
            Value::Array(items) => Err(Failure::new(
                FailureClass::Limit,
                format!("foreach has {} items, and at most {limit} are allowed (limits.foreach_items)", items.len()),
            )),
            other => {
                Err(Failure::new(FailureClass::Template, format!("foreach needs a list, and got {}", kind(&other))))
            }
        }
    }

    /// All items are done, or one failed and the others are not to be started.
    fn collect(&mut self, step: &Step, key: &StepKey, keys: &[StepKey]) {
        let mut outputs = Vec::with_capacity(keys.len());
        let mut failures = Vec::new();
        for key in keys {
            match self.run.step(key).and_then(StepRun::outcome) {
                Some(StepOutcome::Succeeded { output }) => outputs.push(output.clone()),
                Some(StepOutcome::Failed { error }) => {
                    outputs.push(Value::Null);
                    failures.push((key, error));
                }
                Some(StepOutcome::Skipped) | None => outputs.push(Value::Null),
            }
        }
        match failures.first() {
            Some((first, error)) if step.on_error == OnError::Fail => {
                let list: Vec<Value> =
                    failures.iter().take(100).map(|(key, error)| json!({"step": key, "error": error})).collect();
                let failure = Failure::new(
                    error.class,
                    format!("{} of {} items failed; {first}: {}", failures.len(), keys.len(), error.message),
                );
                self.decision.fail_step(key, failure.with_detail(Value::Array(list)));
            }
            // With `on_error: continue`, an item that failed is null in the list.
            _ => self.decision.finish_step(key, StepOutcome::Succeeded { output: Value::Array(outputs) }),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
