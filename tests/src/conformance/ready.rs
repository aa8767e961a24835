//! The doorbell.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::timeout;

use super::Place;
use super::bench::{Bench, queue};

/// A bell that must ring does so within a second; the rest is for a slow machine.
const SOON: Duration = Duration::from_secs(10);

/// What is ready already need not be waited for.
pub async fn rings_for_what_is_there(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.submitted().await?;
    timeout(SOON, bench.store.ready(&[queue("other"), queue("q")])).await?;
    Ok(())
}

/// Whoever waits is woken by a submit.
pub async fn rings_for_a_submit(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let store = Arc::clone(&bench.store);
    let waiter = tokio::spawn(async move { store.ready(&[queue("q")]).await });
    bench.submitted().await?;
    timeout(SOON, waiter).await??;
    Ok(())
}

/// Whatever process it came from.
pub async fn rings_for_another_process(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let store = bench.another().await?;
    let waiter = tokio::spawn(async move { store.ready(&[queue("q")]).await });
    bench.submitted().await?;
    timeout(SOON, waiter).await??;
    Ok(())
}

/// A paused queue is silent until it is resumed.
pub async fn rings_when_a_queue_resumes(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.store.pause(queue("q"), true).await?;
    bench.submitted().await?;
    let store = Arc::clone(&bench.store);
    let waiter = tokio::spawn(async move { store.ready(&[queue("q")]).await });
    bench.store.pause(queue("q"), false).await?;
    timeout(SOON, waiter).await??;
    ensure!(bench.take(1).await?.len() == 1);
    Ok(())
}

/// It may ring for nothing, but not all the time: who waits for nothing must not spin.
pub async fn stays_silent_for_other_queues(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.submitted().await?;
    let mut rings = 0;
    let silence = timeout(Duration::from_millis(300), async {
        loop {
            bench.store.ready(&[queue("other")]).await;
            rings += 1;
        }
    });
    ensure!(silence.await.is_err());
    ensure!(rings <= 3, "{rings} rings for nothing");
    Ok(())
}

/// Waiting can be given up at any time, and loses nothing.
pub async fn can_be_dropped_at_any_time(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut rings = 0;
    for micros in [0, 1, 100, 1_000, 5_000] {
        // It may ring for nothing, as when a connection that listens has just come about; then it is given up next time.
        while timeout(Duration::from_micros(micros), bench.store.ready(&[queue("q")])).await.is_ok() {
            rings += 1;
            ensure!(rings <= 3, "{rings} rings for nothing");
        }
    }
    bench.submitted().await?;
    timeout(SOON, bench.store.ready(&[queue("q")])).await?;
    ensure!(bench.take(1).await?.len() == 1);
    Ok(())
}
