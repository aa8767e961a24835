//! `batch:` of an agent step: its request goes out with others, for half the price.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// The longest wait: a batch is answered within a day, and one that was not has room for other tries.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// `batch: { max_wait: 6h }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batching {
    /// How long the step waits for its answer before the model is asked directly, all tries together. At most 7 days.
    pub max_wait: Span,
}

impl Batching {
    /// What is wrong with it, if anything.
    pub(crate) fn check(self) -> Result<(), String> {
        if self.max_wait.get() > LONGEST {
            return Err(format!("`max_wait` is {}, and at most {}", self.max_wait, Span::clamped(LONGEST)));
        }
        Ok(())
    }
}
