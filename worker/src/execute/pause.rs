//! Pauses that a provider asks for: by `retry-after`, or because its headers say
//! that nothing is left until a reset. One worker hears of it, and all heed it,
//! through a meter of the store. Decides nothing.

use common::clock::Timestamp;
use common::failure::FailureClass;
use common::journal::{HoldBack, WhenSpent};
use common::store::Meter;

use super::Executor;
use super::grant::MOMENT;
use crate::decide::Performed;

/// How often a pause of a moment is waited for in the task's slot.
const TRIES: u32 = 3;

impl Executor {
    /// Waits for a moment if all calls of a model are held back; if for longer, says so.
    pub(super) async fn past_pause(&self, calls: &Meter) -> Result<(), Performed> {
        let mut tries = 0;
        loop {
            let readings = match self.store.meters(calls.name.as_str(), 1).await {
                Ok(readings) => readings,
                // The provider says so again if it must.
                Err(error) => {
                    tracing::warn!(meter = %calls.name, %error, "it is not known whether the provider asked for a pause");
                    return Ok(());
                }
            };
            let held = readings.into_iter().find(|reading| reading.meter == *calls);
            let Some(until) = held.and_then(|reading| reading.held_until) else { return Ok(()) };
            let wait = until.since(self.clock.now());
            if wait > MOMENT || tries == TRIES {
                let why = HoldBack::Breaker { of: calls.name.to_string(), class: FailureClass::RateLimited };
                return Err(Performed::HeldBack { why, then: WhenSpent::Park, until: Some(until) });
            }
            tokio::time::sleep(wait).await;
            tries += 1;
        }
    }

    /// Nobody makes a call of a meter before a time.
    pub(super) async fn hold_back(&self, calls: &Meter, until: Timestamp) {
        tracing::info!(meter = %calls.name, %until, "held back: the provider takes no more before");
        if let Err(error) = self.store.hold_back(calls, until).await {
            tracing::warn!(meter = %calls.name, %error, "others are not told that the provider asked for a pause");
        }
    }
}
