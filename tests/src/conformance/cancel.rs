//! Cancelling.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::TaskId;
use common::store::{Next, SignalError, Signalled};
use common::task::{Signal, StateName, Wait, WaitOn};

use super::Place;
use super::bench::{Bench, LEASE, finished, step};

fn cancel() -> Signal {
    Signal::Cancel { by: "someone".to_owned(), reason: "enough".to_owned() }
}

async fn is_refused(bench: &Bench, task: TaskId) -> bool {
    matches!(bench.store.signal(task, cancel()).await, Err(SignalError::Refused(_)))
}

/// Ready, scheduled and waiting tasks stop at once, and their timers with them.
pub async fn a_task_at_rest_is_cancelled_at_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let at = bench.now().plus(Duration::from_secs(60));
    let ready = bench.submitted().await?;
    let scheduled = bench.submit(bench.task_with(|s| s.run_at = Some(at))).await?.id;
    let mut waiting = bench.taken().await?;
    let wait = Wait { on: vec![WaitOn::Timer { step: step("s") }], until: Some(at) };
    bench.append(&mut waiting, Vec::new(), Next::Park(wait)).await?;
    for task in [ready, scheduled, waiting.task] {
        ensure!(bench.store.signal(task, cancel()).await? == Signalled::Applied(StateName::Cancelled));
        ensure!(bench.state(task).await? == StateName::Cancelled);
    }
    bench.clock.advance(Duration::from_secs(60));
    ensure!(bench.store.due(10).await?.woken == 0);
    bench.verify().await
}

/// A running task is asked: its holder hears of it at its next append, and obeys.
pub async fn a_running_task_is_asked(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    ensure!(bench.store.signal(held.task, cancel()).await? == Signalled::Requested);
    ensure!(bench.state(held.task).await? == StateName::Running);
    let appended = bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    let kinds: Vec<_> = appended.recorded.iter().map(|r| r.event.kind()).collect();
    ensure!(kinds == ["step_finished", "cancel_requested"], "{kinds:?}");
    let next = Next::Cancel { by: "someone".to_owned(), reason: "enough".to_owned() };
    bench.append(&mut held, Vec::new(), next).await?;
    ensure!(bench.state(held.task).await? == StateName::Cancelled);
    bench.verify().await
}

/// What is cancelled is not taken.
pub async fn a_cancelled_task_is_not_taken(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let task = bench.submitted().await?;
    bench.store.signal(task, cancel()).await?;
    ensure!(bench.take(1).await?.is_empty());
    ensure!(bench.claimed(task).await.is_err());
    bench.verify().await
}

/// Done is done.
pub async fn done_is_not_cancelled(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (mut a, mut b) = (bench.taken().await?, bench.taken().await?);
    bench.succeed(&mut a).await?;
    bench.die(&mut b).await?;
    let c = bench.submitted().await?;
    bench.store.signal(c, cancel()).await?;
    for task in [a.task, b.task, c] {
        ensure!(is_refused(&bench, task).await);
    }
    bench.verify().await
}

/// Asking a holder again and again is asking once.
pub async fn cancel_asked_twice_is_kept_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    for _ in 0..5 {
        ensure!(bench.store.signal(held.task, cancel()).await? == Signalled::Requested);
    }
    let appended = bench.append(&mut held, Vec::new(), Next::Continue).await?;
    ensure!(appended.recorded.len() == 1, "{appended:?}");
    let appended = bench.append(&mut held, Vec::new(), Next::Continue).await?;
    ensure!(appended.recorded.is_empty(), "it is taken up once");
    bench.verify().await
}

/// There is no such task.
pub async fn an_unknown_task_is_not_found(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let id = bench.id();
    let answer = bench.store.signal(id, cancel()).await;
    ensure!(matches!(answer, Err(SignalError::NotFound(task)) if task == id), "{answer:?}");
    Ok(())
}

/// A holder that never comes back does not save its task from being cancelled.
pub async fn a_request_is_taken_up_when_the_lease_is_lost(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = bench.taken().await?;
    bench.store.signal(held.task, cancel()).await?;
    bench.clock.advance(LEASE);
    ensure!(bench.store.due(10).await?.expired == 1);
    ensure!(bench.state(held.task).await? == StateName::Cancelled);
    let mut released = bench.taken().await?;
    bench.store.signal(released.task, cancel()).await?;
    bench.append(&mut released, Vec::new(), Next::Release { reason: "drain".to_owned() }).await?;
    ensure!(bench.state(released.task).await? == StateName::Cancelled);
    bench.verify().await
}
