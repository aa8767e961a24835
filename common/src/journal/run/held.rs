//! What stands in the way of a task or of one of its steps, and what it was
//! given to spend since it was submitted.

use super::{Run, StepRun};
use crate::clock::Timestamp;
use crate::id::StepKey;
use crate::journal::HoldBack;

/// A call has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Why.
    pub why: HoldBack,
    /// When it is tried again.
    pub until: Timestamp,
    /// How often it was held back since something of it was answered.
    pub times: u32,
}

/// What somebody gave a task to spend beyond its budget.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Raised {
    /// Dollars.
    pub usd: f64,
    /// Tokens.
    pub tokens: u64,
}

impl Run {
    /// What stands in the way of a step, or of the task as a whole.
    pub fn held(&self, step: Option<&StepKey>) -> Option<&Held> {
        match step {
            Some(step) => self.step(step)?.held.as_ref(),
            None => self.held.as_ref(),
        }
    }

    /// Something woke the task: what was held back is tried again.
    pub(super) fn retry_held(&mut self, now: Timestamp) {
        if let Some(held) = &mut self.held {
            held.until = held.until.min(now);
        }
        for step in self.steps.values_mut().filter(|step| step.held.is_some()) {
            let step: &mut StepRun = std::sync::Arc::make_mut(step);
            if let Some(held) = &mut step.held {
                held.until = held.until.min(now);
            }
        }
    }
}

impl Held {
    /// Once more, after what was known before.
    pub(super) fn again(before: Option<&Self>, why: &HoldBack, until: Timestamp) -> Self {
        Self { why: why.clone(), until, times: before.map_or(0, |before| before.times) + 1 }
    }
}
