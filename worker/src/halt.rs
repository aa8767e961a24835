//! The emergency stop, as a worker sees it: which halts are in force.
//!
//! The store is asked often enough that no new call starts 2 s after a halt,
//! whatever process began it. What was seen last counts while the store cannot be
//! asked, and before it was asked for the first time everything is halted.

use std::sync::Arc;
use std::time::Duration;

use common::clock::Timestamp;
use common::id::PipelineName;
use common::store::{Halt, Store, StoreError};
use common::task::{Wait, WaitOn};
use tokio::sync::watch;

/// How often the store is asked.
const LOOK: Duration = Duration::from_millis(250);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// After so long, a task that waits for the end of a halt looks for itself, should nobody have told it.
const LOOK_AFTER: Duration = Duration::from_secs(3_600);

/// See the module.
#[derive(Debug)]
pub struct Halts {
    /// Those in force; nothing before the store was asked.
    seen: watch::Sender<Option<Arc<[Halt]>>>,
}

impl Default for Halts {
    fn default() -> Self {
        Self { seen: watch::Sender::new(None) }
    }
}

impl Halts {
    /// Asks the store, again and again. Does not end.
    pub async fn watch(&self, store: &dyn Store) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look(store).await {
                tracing::debug!(%error, "the store cannot be asked for halts; those seen last count");
            }
        }
    }

    /// Asks the store once.
    ///
    /// # Errors
    /// Of the store.
    pub async fn look(&self, store: &dyn Store) -> Result<(), StoreError> {
        let late = |_| StoreError::Unavailable("it did not say in time which halts are in force".to_owned());
        let halts = tokio::time::timeout(PATIENCE, store.halts()).await.map_err(late)??;
        let in_force: Arc<[Halt]> = halts.into_iter().filter(Halt::is_in_force).collect();
        self.seen.send_if_modified(|seen| {
            let changed = seen.as_deref() != Some(&*in_force);
            if changed {
                for halt in in_force.iter() {
                    let pipeline = halt.pipeline.as_ref().map(PipelineName::as_str);
                    tracing::warn!(pipeline, by = halt.by, reason = halt.reason, "halted: no new calls");
                }
                *seen = Some(in_force);
            }
            changed
        });
        Ok(())
    }

    /// Whether the store was asked.
    pub fn are_known(&self) -> bool {
        self.seen.borrow().is_some()
    }

    /// Whether no call may start for a pipeline.
    pub fn cover(&self, pipeline: &PipelineName) -> bool {
        self.seen.borrow().as_ref().is_none_or(|halts| halts.iter().any(|halt| halt.covers(pipeline)))
    }

    /// The same as the store has it now; if it cannot be asked, as it was seen last.
    pub async fn cover_now(&self, pipeline: &PipelineName, store: &dyn Store) -> bool {
        if let Err(error) = self.look(store).await {
            tracing::debug!(%error, "the store cannot be asked for halts; those seen last count");
        }
        self.cover(pipeline)
    }

    /// Whether the fleet as a whole is halted, as far as is known.
    pub fn cover_all(&self) -> bool {
        self.seen.borrow().as_ref().is_some_and(covers_all)
    }

    /// Returns as soon as the fleet as a whole is not known to be halted. Cancel-safe.
    pub async fn until_lifted(&self) {
        let mut seen = self.seen.subscribe();
        // It fails only when the sender is gone, and that is here.
        let _ = seen.wait_for(|halts| !halts.as_ref().is_some_and(covers_all)).await;
    }
}

fn covers_all(halts: &Arc<[Halt]>) -> bool {
    halts.iter().any(|halt| halt.pipeline.is_none())
}

/// What a task waits for that a halt covers.
pub fn wait(now: Timestamp) -> Wait {
    Wait { on: vec![WaitOn::Halt], until: Some(now.plus(LOOK_AFTER)) }
}
