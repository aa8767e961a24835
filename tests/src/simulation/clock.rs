//! Clocks of a simulated world: all follow tokio's paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use common::clock::{Clock, Timestamp};
use tokio::time::Instant;

/// When histories begin.
const EPOCH: i64 = 1_800_000_000_000;

/// A clock that may be wrong by so many milliseconds, always the same.
#[derive(Debug, Clone)]
pub(super) struct SimulatedClock {
    start: Instant,
    off: i64,
}

impl SimulatedClock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), off: 0 }
    }

    pub(super) fn off_by(&self, millis: i64) -> Self {
        Self { start: self.start, off: millis }
    }

    pub(super) fn elapsed(&self) -> std::time::Duration {
        self.start.elapsed()
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(EPOCH + passed + self.off)
    }
}

/// The clock of the store, whose threads do not see tokio's time: set before each call.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreTime(Arc<AtomicI64>);

impl StoreTime {
    pub(super) fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for StoreTime {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}
