//! What was answered is there after a restart, and other processes see it.

use anyhow::{Result, ensure};
use common::store::{Next, Renewal};
use common::task::{Signal, StateName};

use super::Place;
use super::bench::{Bench, LEASE, finished, key, queue};

/// Tasks in every state, keys, kept signals, paused queues.
pub async fn everything_is_there_after_reopening(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let keyed = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    let (mut done, mut dead) = (bench.taken().await?, bench.taken().await?);
    bench.succeed(&mut done).await?;
    bench.die(&mut dead).await?;
    let mut held = bench.taken().await?;
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    bench.store.signal(held.task, Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() }).await?;
    bench.store.pause(queue("paused"), true).await?;
    let before = bench.all(<_>::default()).await?;
    let bench = bench.restart().await?;
    ensure!(bench.all(<_>::default()).await? == before);
    let again = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    ensure!(again.id == keyed.id && !again.created);
    ensure!(bench.store.queues().await?.iter().any(|q| q.name == queue("paused") && q.paused));
    let appended = bench.append(&mut held, Vec::new(), Next::Continue).await?;
    ensure!(appended.recorded.len() == 1, "the kept signal is there");
    bench.verify().await
}

/// A scheduler may restart while workers hold tasks: their leases go on as if nothing had been.
pub async fn a_lease_survives_a_restart(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    let append = bench.request_append(&held, vec![finished("a")], Next::Continue);
    let first = bench.store.append(append.clone()).await?;
    held.version += 1;
    let bench = bench.restart().await?;
    ensure!(bench.store.append(append).await? == first, "a repeated append is known after a restart too");
    ensure!(matches!(bench.renew(&held).await?, Renewal::Renewed { .. }));
    bench.clock.advance(LEASE);
    ensure!(bench.store.due(10).await?.expired == 1);
    bench.verify().await
}

/// What one process was answered, another reads.
pub async fn two_handles_see_the_same(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    let task = bench.submitted().await?;
    ensure!(other.head(task).await?.is_some());
    let claims = other.take(bench.request(1)).await?;
    ensure!(claims.len() == 1);
    ensure!(bench.state(task).await? == StateName::Running);
    let mut held = (&claims[0]).into();
    bench.succeed(&mut held).await?;
    ensure!(other.head(task).await? == Some(bench.head(task).await?));
    bench.verify().await
}
