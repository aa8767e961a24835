//! How signals end a process: the first SIGTERM or SIGINT drains it, the second
//! stops it at once.

use common::shutdown::Shutdown;
use tokio::signal::unix::{SignalKind, signal};

/// Passes signals on to a shutdown until it stops.
pub(crate) fn watch(shutdown: &Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        while !shutdown.is_stopping() {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = shutdown.stopping() => return,
            };
            if shutdown.is_draining() {
                tracing::warn!(signal = name, "stopping at once");
            } else {
                tracing::info!(signal = name, "draining; the same signal again stops at once");
            }
            shutdown.request();
        }
    });
    Ok(())
}

/// Stops at once when stdin closes: a process that another one started does not outlive it.
pub(crate) fn stop_with_stdin(shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    // A thread of its own: a blocking read of stdin cannot be given up.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.stop_now();
    });
}
