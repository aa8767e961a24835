//! Counting the processes of a program, where the kernel does not bound them.

use std::time::Duration;

use sandbox::Watch;
use tokio::time::MissedTickBehavior;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// Looks until the program was killed because it had too many, or nobody waits for it any more.
pub(super) async fn keep(watch: Watch) {
    // Kills what has left the group too when the program is over.
    let mut watch = KillOnDrop(Some(watch));
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(mut taken) = watch.0.take() else { return };
        let Ok((taken, killed)) = tokio::task::spawn_blocking(move || {
            let killed = taken.tick();
            (taken, killed)
        })
        .await
        else {
            return;
        };
        watch.0 = Some(taken);
        if killed {
            tracing::warn!("a program was killed: it had more processes than it may (sandbox processes)");
        }
    }
}

#[derive(Debug)]
struct KillOnDrop(Option<Watch>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(mut watch) = self.0.take() {
            // It reads files of /proc: a thread may do that while nobody waits.
            let _ = std::thread::Builder::new().name("watch".to_owned()).spawn(move || watch.kill());
        }
    }
}
