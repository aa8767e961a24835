//! The time of the store: the server's, which scripts read for themselves when a
//! lease is judged, and which this process estimates from answers for the times
//! that events carry; or one that tests move by hand.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::store::StoreClock;

/// See the module.
#[derive(Debug)]
pub(super) struct ServerClock {
    given: StoreClock,
    /// How far the server's clock is before this machine's, in milliseconds, at the newest answer.
    ahead: AtomicI64,
}

impl ServerClock {
    pub(super) fn new(given: StoreClock) -> Self {
        Self { given, ahead: AtomicI64::new(0) }
    }

    /// The time now.
    pub(super) fn now(&self) -> Timestamp {
        match &self.given {
            StoreClock::Given(clock) => clock.now(),
            StoreClock::Own => {
                let own = SystemClock.now().as_millis();
                Timestamp::from_millis(own.saturating_add(self.ahead.load(Ordering::Relaxed)))
            }
        }
    }

    /// What a script gets: the time, or nothing, and then it asks its server.
    pub(super) fn argument(&self) -> String {
        match &self.given {
            StoreClock::Given(clock) => super::record::millis(clock.now()).to_string(),
            StoreClock::Own => String::new(),
        }
    }

    /// The server has just answered, and its time was this.
    pub(super) fn heard(&self, server: Timestamp) {
        if matches!(self.given, StoreClock::Own) {
            self.ahead.store(server.as_millis().saturating_sub(SystemClock.now().as_millis()), Ordering::Relaxed);
        }
    }

    /// How far the server's clock is before this machine's, in milliseconds.
    pub(super) fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }
}
