//! What may go wrong in a history, and what is broken on purpose.

use std::time::Duration;

/// What is broken on purpose, to see that the checks can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// The fence: a stale writer gets the token of whoever holds the lease.
    Fence,
    /// Idempotency: submits go out without their keys.
    Keys,
    /// The person: says that a call did not happen, whatever did.
    Person,
    /// The broker's counting: it says that hints wait where there are none.
    Count,
}

/// How bad the weather is, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// A call in so many meets with a fault.
    pub(super) one_in: u64,
    /// Until when.
    pub(super) clears: Duration,
    /// How long a lease lasts: the measure of what is late.
    pub(super) lease: Duration,
    pub(super) sabotage: Sabotage,
}

impl Weather {
    /// How late a request may be: after so long in clear weather, none is on its way any more.
    pub(super) fn latest(&self) -> Duration {
        self.lease * 3
    }
}
