//! How a process ends: first it drains, then it stops.

use tokio_util::sync::CancellationToken;

/// The two steps of an end. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shutdown {
    /// Nothing has ended yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begin no new work; hand over what runs at its next checkpoint. Asked a
    /// second time, stop at once.
    pub fn request(&self) {
        if self.drain.is_cancelled() {
            self.stop.cancel();
        }
        self.drain.cancel();
    }

    /// Stop at once.
    pub fn stop_now(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether everything must stop at once.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until draining begins.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until everything must stop at once.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }
}
