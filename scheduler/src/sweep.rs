//! Timers and the sweep: moves tasks on whose time has come, and mends what a
//! lost worker left. Any number of schedulers may do this at once.

use std::time::Duration;

use common::clock::Timestamp;
use common::store::{Due, Store, StoreError};

/// Tasks that are moved in one transaction.
const STEP: usize = 1_000;
/// Transactions of one tick: others want the writer too.
const STEPS: usize = 100;
/// The longest pause: another process may park a task with an earlier timer at any moment.
const LONGEST: Duration = Duration::from_millis(100);
/// The shortest pause.
const SHORTEST: Duration = Duration::from_millis(5);
/// The pause after an error.
pub(crate) const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Moves on everything that is due, and says what that was; `next` is that of
/// the last step.
pub async fn tick(store: &dyn Store) -> Result<Due, StoreError> {
    let mut sum = Due::default();
    for _ in 0..STEPS {
        let due = store.due(STEP).await?;
        sum.woken += due.woken;
        sum.expired += due.expired;
        sum.poisoned += due.poisoned;
        sum.removed += due.removed;
        sum.lapsed += due.lapsed;
        sum.next = due.next;
        if due.woken + due.expired + due.removed < STEP && due.lapsed < STEP {
            break;
        }
    }
    Ok(sum)
}

/// How long to wait until the next tick.
pub fn pause(next: Option<Timestamp>, now: Timestamp) -> Duration {
    next.map_or(LONGEST, |next| next.since(now).clamp(SHORTEST, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_at_the_next_timer_and_is_never_long() {
        let now = Timestamp::from_millis(1_000);
        let at = |millis| Some(Timestamp::from_millis(millis));
        assert_eq!(pause(None, now), LONGEST);
        assert_eq!(pause(at(1_020), now), Duration::from_millis(20));
        assert_eq!(pause(at(90_000), now), LONGEST);
        assert_eq!(pause(at(10), now), SHORTEST);
    }
}
