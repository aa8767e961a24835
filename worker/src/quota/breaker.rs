//! Breakers: which providers and tools are left alone for a while, so that tasks
//! wait instead of burning their tries. One worker's view; what a provider says
//! of all calls together is kept in the store where there is a rate limit for it.
//! Pure but for the lock: the time comes in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};

/// Failures in a row that open a breaker.
const FAILURES: u32 = 5;
/// For how long it is open first; each time it opens again, twice as long.
const FIRST: Duration = Duration::from_secs(5);
/// The longest that it is open.
const LONGEST: Duration = Duration::from_secs(300);
/// For how long an account that cannot pay is left alone.
const SPENT: Duration = Duration::from_secs(300);
/// The longest pause that a `retry-after` is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// How long a trial may take before another one is made.
const TRIAL: Duration = Duration::from_secs(60);
/// Names that are kept; tools of strange servers must not fill the memory.
const MOST: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Breakers {
    known: Mutex<BTreeMap<String, Breaker>>,
    open: AtomicBool,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Breaker {
    /// In a row.
    failures: u32,
    /// How often it has opened in a row.
    opened: u32,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum State {
    #[default]
    Closed,
    /// Nothing starts before; then one call tries.
    Open { until: Timestamp, class: FailureClass },
}

/// Why something is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Until when.
    pub until: Timestamp,
    /// The class of what went wrong.
    pub class: FailureClass,
}

impl Breakers {
    /// Whether any was opened and has not been closed by a success.
    pub fn any_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether a call may start. After a pause it is one call that tries; the others wait for what becomes of it.
    pub fn admit(&self, name: &str, now: Timestamp) -> Result<(), Left> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_mut(name).map_or(Ok(()), |breaker| breaker.admit(now))
    }

    /// Takes in what came of a call.
    pub fn note(&self, name: &str, failure: Option<&Failure>, now: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match failure.filter(|failure| counts(failure)) {
            None => drop(known.remove(name)),
            Some(failure) => {
                if known.len() >= MOST && !known.contains_key(name) {
                    return;
                }
                let breaker = known.entry(name.to_owned()).or_default();
                let before = breaker.state.clone();
                breaker.fail(failure, now);
                if let (State::Open { until, class }, true) = (&breaker.state, breaker.state != before) {
                    tracing::warn!(name, %until, %class, "left alone for a while: {}", failure.message);
                }
            }
        }
        let open = known.values().any(|breaker| breaker.state != State::Closed);
        self.open.store(open, Ordering::Relaxed);
    }
}

impl Breaker {
    fn admit(&mut self, now: Timestamp) -> Result<(), Left> {
        match &mut self.state {
            State::Closed => Ok(()),
            State::Open { until, class } if *until > now => Err(Left { until: *until, class: *class }),
            State::Open { until, .. } => {
                *until = now.plus(TRIAL);
                Ok(())
            }
        }
    }

    fn fail(&mut self, failure: &Failure, now: Timestamp) {
        self.failures += 1;
        let class = failure.class;
        let asked = failure.retry_after_ms.map(|ms| Duration::from_millis(ms).min(LONGEST_PAUSE));
        let pause = match (class, asked) {
            (FailureClass::Billing, _) => Some(SPENT),
            // The other side says itself when it can be asked again: that is no fault of it.
            (FailureClass::RateLimited | FailureClass::Overloaded, Some(asked)) => Some(asked),
            _ if self.failures >= FAILURES => {
                let pause = FIRST.saturating_mul(1 << self.opened.min(10)).min(LONGEST);
                self.opened += 1;
                Some(pause.max(asked.unwrap_or_default()))
            }
            _ => None,
        };
        if let Some(pause) = pause {
            self.state = State::Open { until: now.plus(pause), class };
        }
    }
}

/// Whether a failure says something of the other side and not of the request.
fn counts(failure: &Failure) -> bool {
    failure.class.is_transient() || failure.class == FailureClass::Billing
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn failed(class: FailureClass) -> Failure {
        Failure::new(class, "no")
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_call_tries() {
        let breakers = Breakers::default();
        for _ in 0..FAILURES {
            assert!(breakers.admit("a", at(0)).is_ok() && !breakers.any_open());
            breakers.note("a", Some(&failed(FailureClass::Unavailable)), at(0));
        }
        let left = breakers.admit("a", at(1)).unwrap_err();
        assert_eq!((left.until, left.class), (at(5), FailureClass::Unavailable));
        assert!(breakers.admit("b", at(1)).is_ok(), "another one");
        assert!(breakers.any_open());
        assert!(breakers.admit("a", at(5)).is_ok(), "one tries");
        assert!(breakers.admit("a", at(5)).is_err(), "and no other");
        breakers.note("a", Some(&failed(FailureClass::Unavailable)), at(6));
        assert_eq!(breakers.admit("a", at(6)).unwrap_err().until, at(16), "twice as long");
        assert!(breakers.admit("a", at(16)).is_ok());
        breakers.note("a", None, at(17));
        assert!(breakers.admit("a", at(17)).is_ok() && !breakers.any_open());
    }

    #[test]
    fn what_the_other_side_says_counts_at_once() {
        let breakers = Breakers::default();
        breakers.note("a", Some(&failed(FailureClass::RateLimited).with_retry_after(Duration::from_secs(30))), at(0));
        assert_eq!(breakers.admit("a", at(1)).unwrap_err(), Left { until: at(30), class: FailureClass::RateLimited });
        breakers.note("b", Some(&failed(FailureClass::Billing)), at(0));
        assert_eq!(breakers.admit("b", at(1)).unwrap_err().class, FailureClass::Billing);
    }

    #[test]
    fn a_wrong_request_says_nothing_of_the_other_side() {
        let breakers = Breakers::default();
        for _ in 0..2 * FAILURES {
            breakers.note("a", Some(&failed(FailureClass::InvalidRequest)), at(0));
        }
        assert!(breakers.admit("a", at(0)).is_ok());
    }

    #[test]
    fn a_trial_of_which_nothing_is_heard_is_made_again() {
        let breakers = Breakers::default();
        breakers.note("a", Some(&failed(FailureClass::Billing)), at(0));
        assert!(breakers.admit("a", at(300)).is_ok());
        assert!(breakers.admit("a", at(359)).is_err());
        assert!(breakers.admit("a", at(360)).is_ok());
    }
}
