//! For how long a call is held back: pure.

use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{Event, HoldBack, Run, StepOutcome, WhenSpent};

/// The first wait for room that somebody else must make; each time twice as long.
const FIRST: Duration = Duration::from_secs(5);
/// The longest of these waits.
const LONGEST: Duration = Duration::from_secs(600);
/// The longest part of a wait that chance adds, so that not all who wait come at once.
const SPREAD: Duration = Duration::from_secs(30);

/// Why a call has to wait.
pub(super) struct Refused {
    pub why: HoldBack,
    pub then: WhenSpent,
    pub until: Option<Timestamp>,
}

/// What is written down of it.
pub(super) fn held_back(run: &Run, step: &StepKey, refused: Refused, now: Timestamp, unit: f64) -> Event {
    let Refused { why, then, until } = refused;
    if let (HoldBack::Budget { budget, used, limit }, WhenSpent::Fail) = (&why, then) {
        let message = format!(
            "the budget {budget} has no room for another model call: {used} of {limit} are used or reserved \
             (in dollars: millionths); raise it, or wait for its next window"
        );
        let error = Failure::new(FailureClass::Budget, message);
        return Event::StepFinished { step: step.clone(), outcome: StepOutcome::Failed { error } };
    }
    let times = run.held(Some(step)).map_or(0, |held| held.times);
    let until = next_try(&why, until, times, now, unit);
    Event::HeldBack { step: Some(step.clone()), why, until }
}

/// When it is tried again, after so many times before.
pub(crate) fn next_try(why: &HoldBack, until: Option<Timestamp>, times: u32, now: Timestamp, unit: f64) -> Timestamp {
    let patience = FIRST.saturating_mul(1 << times.min(7)).min(LONGEST);
    let base = match (why, until) {
        // Reservations give back more than was used, long before a day is over.
        (HoldBack::Budget { .. }, Some(until)) => until.min(now.plus(patience)),
        (_, Some(until)) => until,
        (_, None) => now.plus(patience),
    };
    // The longer it has waited, the more wait with it.
    let spread = patience.min(SPREAD).mul_f64(unit);
    base.max(now).plus(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn windows_are_waited_for_and_room_is_looked_for() {
        let rate = HoldBack::RateLimit { rate_limit: "r".to_owned(), used: 1, limit: 1 };
        let budget = HoldBack::Budget { budget: "b".to_owned(), used: 1, limit: 1 };
        assert_eq!(next_try(&rate, Some(at(60)), 0, at(10), 0.0), at(60));
        assert!(next_try(&rate, Some(at(60)), 9, at(10), 0.999) <= at(90));
        assert_eq!(next_try(&rate, None, 0, at(10), 0.0), at(15));
        assert_eq!(next_try(&rate, None, 3, at(10), 0.0), at(50));
        assert_eq!(next_try(&budget, Some(at(86_400)), 0, at(10), 0.0), at(15));
        assert_eq!(next_try(&budget, Some(at(86_400)), 30, at(10), 0.0), at(610));
        assert_eq!(next_try(&budget, Some(at(12)), 30, at(10), 0.0), at(12));
    }
}
