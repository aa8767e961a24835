//! Blocking work off the runtime, with a deadline and a way to stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::failure::{Failure, FailureClass};

use super::{ToolAnswer, ToolError};

/// Whether the work is still wanted. Loops ask it at every turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted(Arc<AtomicBool>);

/// Work that nobody waits for any more.
#[derive(Debug)]
pub(crate) struct Unwanted;

impl Wanted {
    /// `Err` when the work should stop.
    pub(crate) fn check(&self) -> Result<(), Unwanted> {
        if self.0.load(Ordering::Relaxed) { Err(Unwanted) } else { Ok(()) }
    }
}

/// Tells the work to stop when the future that waits for it is dropped.
struct StopOnDrop(Wanted);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread for blocking work, at most for `timeout`.
/// The work must ask [`Wanted`] often enough to stop soon after it was given up.
///
/// # Errors
/// `timeout`, as [`ToolError::Lost`]: the work may have been at its very last step.
pub(crate) async fn run<F>(timeout: Duration, work: F) -> Result<ToolAnswer, ToolError>
where
    F: FnOnce(&Wanted) -> Result<ToolAnswer, Unwanted> + Send + 'static,
{
    let wanted = Wanted::default();
    let stop = StopOnDrop(wanted.clone());
    let thread = tokio::task::spawn_blocking(move || work(&wanted));
    let answer = tokio::time::timeout(timeout, thread).await;
    drop(stop);
    match answer {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(Unwanted))) | Err(_) => Err(ToolError::Lost(Failure::new(
            FailureClass::Timeout,
            format!("the tool took longer than its {} s; narrow down what it is to do", timeout.as_secs_f64()),
        ))),
        Ok(Err(join)) => {
            Err(ToolError::Lost(Failure::new(FailureClass::Internal, format!("the tool broke down: {join}"))))
        }
    }
}
