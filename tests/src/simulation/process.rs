//! Processes: each has its own chance, lives until it crashes, and does nothing after that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::chance::Chance;

/// A process, from its start to its crash.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) chance: Chance,
    /// Whether it may crash.
    mortal: bool,
    dead: AtomicBool,
    died: Notify,
}

impl Process {
    pub(super) fn start(seed: u64, name: &str, mortal: bool) -> Arc<Self> {
        let chance = Chance::of(seed, name);
        Arc::new(Self { chance, mortal, dead: AtomicBool::new(false), died: Notify::new() })
    }

    /// Returns when it crashes.
    pub(super) async fn died(&self) {
        self.died.notified().await;
    }

    /// From now on it does nothing.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(super) fn is_mortal(&self) -> bool {
        self.mortal
    }

    pub(super) async fn crash<T>(&self) -> T {
        self.kill();
        self.died.notify_one();
        std::future::pending().await
    }

    pub(super) async fn still_alive(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}
