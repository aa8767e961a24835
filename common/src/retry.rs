//! When to try again, and how long to wait before: pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureClass};
use crate::span::Span;

/// How often a step is tried; of an agent step, each of its model calls. A pipeline's policy is that of each of its steps
/// that names none: there is one layer of retries, so that none multiply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Tries in all, the first included: 1 to 100.
    pub attempts: u32,
    /// The wait between tries.
    pub backoff: Backoff,
    /// After which failures; others end the step at once.
    pub on: Vec<RetryOn>,
}

/// The wait between tries: `initial * factor^n`, at most `max`, with jitter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Before the second try.
    pub initial: Span,
    /// How much longer each further wait is: 1 to 10.
    pub factor: f64,
    /// The longest wait.
    pub max: Span,
    /// How the wait is spread.
    pub jitter: Jitter,
}

/// How a wait is spread, so that many tasks do not come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Anywhere between nothing and the whole wait.
    Full,
    /// Between half of the wait and all of it.
    Equal,
    /// Not at all.
    None,
}

/// A class of failures, or the group of those that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RetryOn {
    /// Every class of which [`FailureClass::is_transient`] is true.
    Transient,
    /// Every class.
    Any,
    /// This class.
    Class(FailureClass),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, backoff: Backoff::default(), on: vec![RetryOn::Transient] }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Span::from_secs(2), factor: 2.0, max: Span::from_secs(300), jitter: Jitter::Full }
    }
}

impl TryFrom<String> for RetryOn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "transient" => Ok(Self::Transient),
            "any" => Ok(Self::Any),
            name => {
                FailureClass::ALL.into_iter().find(|class| class.as_str() == name).map(Self::Class).ok_or_else(|| {
                    let all: Vec<_> = FailureClass::ALL.iter().map(|class| class.as_str()).collect();
                    format!("{name:?} is not a failure class; use transient, any, or one of {}", all.join(", "))
                })
            }
        }
    }
}

impl From<RetryOn> for String {
    fn from(on: RetryOn) -> Self {
        match on {
            RetryOn::Transient => "transient".to_owned(),
            RetryOn::Any => "any".to_owned(),
            RetryOn::Class(class) => class.to_string(),
        }
    }
}

impl RetryPolicy {
    /// One try and no more.
    pub fn never() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// What is wrong with the numbers, if anything.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=100).contains(&self.attempts) {
            return Err(format!("retry.attempts is {}, and must be 1 to 100", self.attempts));
        }
        if !(1.0..=10.0).contains(&self.backoff.factor) {
            return Err(format!("retry.backoff.factor is {}, and must be 1 to 10", self.backoff.factor));
        }
        Ok(())
    }

    /// How long to wait after so many failed tries, the one that failed like
    /// this included; `None`: no further try. `unit` is random in `[0, 1)`.
    /// Never shorter than the other side asked for.
    pub fn next_try(&self, failed_tries: u32, failure: &Failure, unit: f64) -> Option<Duration> {
        let covered = self.on.iter().any(|on| match on {
            RetryOn::Any => true,
            RetryOn::Transient => failure.class.is_transient(),
            RetryOn::Class(class) => *class == failure.class,
        });
        if !covered || failed_tries >= self.attempts {
            return None;
        }
        let asked = Duration::from_millis(failure.retry_after_ms.unwrap_or(0)).min(Span::from_secs(86_400).get());
        Some(self.backoff.wait(failed_tries, unit).max(asked))
    }
}

impl Backoff {
    /// The wait after so many failed tries, from 1.
    pub fn wait(&self, failed_tries: u32, unit: f64) -> Duration {
        let exponent = i32::try_from(failed_tries.saturating_sub(1)).unwrap_or(i32::MAX);
        let max = self.max.get().as_secs_f64();
        let whole = (self.initial.get().as_secs_f64() * self.factor.powi(exponent)).min(max);
        let spread = match self.jitter {
            Jitter::Full => whole * unit,
            Jitter::Equal => whole * (0.5 + unit / 2.0),
            Jitter::None => whole,
        };
        Duration::try_from_secs_f64(spread.min(max)).unwrap_or(self.max.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overloaded() -> Failure {
        Failure::new(FailureClass::Overloaded, "529")
    }

    #[test]
    fn waits_grow_up_to_their_maximum() {
        let backoff = Backoff { jitter: Jitter::None, ..Backoff::default() };
        let waits: Vec<u64> = [1, 2, 3, 9, 2_000_000_000].map(|n| backoff.wait(n, 0.5).as_secs()).to_vec();
        assert_eq!(waits, [2, 4, 8, 300, 300]);
    }

    #[test]
    fn what_the_other_side_asked_for_is_the_least() {
        let failure = overloaded().with_retry_after(Duration::from_secs(30));
        assert_eq!(RetryPolicy::default().next_try(1, &failure, 0.0), Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_wrong_request_is_not_repeated_and_tries_come_to_an_end() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.next_try(1, &Failure::new(FailureClass::InvalidRequest, "400"), 0.5), None);
        assert!(policy.next_try(3, &overloaded(), 0.5).is_some());
        assert_eq!(policy.next_try(4, &overloaded(), 0.5), None);
    }
}
