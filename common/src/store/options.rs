//! What every store is opened with: its clock, its limits, what it keeps of
//! finished tasks, and who hears of tasks that become ready.

use std::sync::Arc;

use super::Doorbell;
use super::blob::BlobOptions;
use super::witness::Witness;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::entropy::Entropy;
use crate::journal::SealKey;
use crate::span::Span;

/// What every store is opened with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Leases and timers are judged by it.
    pub clock: StoreClock,
    /// Where lease tokens come from.
    pub entropy: Arc<dyn Entropy>,
    /// What is kept of finished tasks.
    pub retention: Retention,
    /// What is refused.
    pub limits: Limits,
    /// What is done with large values.
    pub blobs: BlobOptions,
    /// What the journals that this process writes are sealed with.
    pub seal: Option<Arc<SealKey>>,
    /// Who passes hints on where there is a broker. With it, a store also keeps
    /// each hint until [`super::Store::sent`] says that the broker has it.
    pub doorbell: Option<Arc<dyn Doorbell>>,
    /// Who hears of what was written.
    pub witness: Option<Arc<dyn Witness>>,
}

impl StoreOptions {
    /// The store's own clock, no broker, and the defaults for everything else.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self {
            clock: StoreClock::Own,
            entropy,
            retention: Retention::default(),
            limits: Limits::default(),
            blobs: BlobOptions::default(),
            seal: None,
            doorbell: None,
            witness: None,
        }
    }
}

/// Whose time a store goes by.
#[derive(Debug, Clone)]
pub enum StoreClock {
    /// Its own: the server's, or the machine's for an embedded store.
    Own,
    /// This one: tests and simulation move time by hand.
    Given(Arc<dyn Clock>),
}

impl StoreClock {
    /// The time now, for a store whose own clock is the machine's.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Own => SystemClock.now(),
            Self::Given(clock) => clock.now(),
        }
    }
}

/// The limits of a store. What goes beyond is refused with a clear error (I7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Submissions in one call. Default 10,000.
    pub submissions: usize,
    /// The input of one task, in bytes of JSON. Default 1 MiB.
    pub input_bytes: usize,
    /// The journal of one task, in bytes, and any value of it; large values count as the references to them.
    /// Default 64 MiB.
    pub journal_bytes: u64,
    /// The large values of one journal that are loaded together, in bytes of JSON. Default 256 MiB.
    pub values_bytes: u64,
    /// Tasks that are ready or scheduled in one queue. Default 10 million.
    pub queue_depth: u64,
    /// Leases in a row without an event of their holder, after which a task is poison. Default 3.
    pub barren_attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            submissions: 10_000,
            input_bytes: 1 << 20,
            journal_bytes: 64 << 20,
            values_bytes: 256 << 20,
            queue_depth: 10_000_000,
            barren_attempts: 3,
        }
    }
}

/// What is kept of tasks that are done. The idempotency key goes with its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// For succeeded and cancelled tasks.
    pub finished: Keep,
    /// For dead letters.
    pub dead: Keep,
}

/// How many, how long and how much; `None` is no bound. The oldest go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// At most so many tasks. Default 1 million.
    pub count: Option<u64>,
    /// At most for so long. Default 30 days.
    pub age: Option<Span>,
    /// At most so many bytes of journal. Default 8 GiB.
    pub bytes: Option<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { count: Some(1_000_000), age: Some(Span::from_secs(30 * 24 * 3_600)), bytes: Some(8 << 30) }
    }
}
