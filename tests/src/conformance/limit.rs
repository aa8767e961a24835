//! Limits: what goes beyond is refused with a clear error, and changes nothing (I7).

use anyhow::{Result, ensure};
use common::store::{AppendError, Next, SignalError, StoreError};
use common::task::{Signal, StateName};
use serde_json::json;

use super::Place;
use super::bench::{Bench, die, finished, queue};

fn refused<T>(answer: &Result<T, StoreError>, word: &str) -> bool {
    matches!(answer, Err(StoreError::Refused(why)) if why.contains(word))
}

/// The number of tasks in a call.
pub async fn too_many_submissions(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.submissions = 3).await?;
    let four = (0..4).map(|_| bench.task()).collect();
    ensure!(refused(&bench.store.submit(four).await, "limits.submissions"));
    ensure!(bench.all(<_>::default()).await?.is_empty());
    let three = (0..3).map(|_| bench.task()).collect();
    ensure!(bench.store.submit(three).await?.len() == 3);
    Ok(())
}

/// The size of an input: at the limit it is accepted, a byte beyond it is not.
pub async fn too_large_an_input(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.input_bytes = 1_000).await?;
    let fits = bench.task_with(|s| s.input = json!("x".repeat(998)));
    let large = bench.task_with(|s| s.input = json!("x".repeat(999)));
    ensure!(refused(&bench.store.submit(vec![bench.task(), large]).await, "limits.input"));
    ensure!(bench.all(<_>::default()).await?.is_empty());
    bench.submit(fits).await?;
    Ok(())
}

/// The depth of a queue: ready and scheduled tasks. What runs or is done makes room.
pub async fn a_full_queue(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.queue_depth = 3).await?;
    bench.submitted().await?;
    let later = bench.now().plus(std::time::Duration::from_secs(60));
    bench.submit(bench.task_with(|s| s.run_at = Some(later))).await?;
    ensure!(refused(&bench.store.submit(vec![bench.task(), bench.task()]).await, "limits.queue_depth"));
    bench.submitted().await?;
    ensure!(refused(&bench.store.submit(vec![bench.task()]).await, "limits.queue_depth"));
    bench.submit(bench.task_with(|s| s.queue = queue("other"))).await?;
    bench.take_one().await?;
    bench.submitted().await?;
    bench.verify().await
}

/// The size of a journal: a task that has reached it can still be ended.
pub async fn a_full_journal(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.journal_bytes = 4_000).await?;
    let mut held = bench.taken().await?;
    let mut written = 0;
    let full = loop {
        match bench.append(&mut held, vec![finished(&format!("step_{written}"))], Next::Continue).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        ensure!(written < 1_000, "there is no limit");
    };
    ensure!(matches!(full, AppendError::JournalFull { limit: 4_000, .. }), "{full:?}");
    ensure!(written > 10);
    ensure!(bench.journal(held.task).await?.len() == 2 + written);
    bench.append(&mut held, Vec::new(), die()).await?;
    ensure!(bench.state(held.task).await? == StateName::Dead);
    bench.verify().await
}

/// What a person sends into a journal.
pub async fn too_large_a_signal(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.input_bytes = 1_000).await?;
    let mut held = bench.taken().await?;
    bench.die(&mut held).await?;
    let input = Some(json!("x".repeat(100_000)));
    let answer = bench
        .store
        .signal(
            held.task,
            Signal::Replay {
                by: "x".to_owned(),
                reset: Vec::new(),
                input,
                sealed: common::journal::SealedValues::default(),
            },
        )
        .await;
    ensure!(matches!(answer, Err(SignalError::Store(StoreError::Refused(_)))), "{answer:?}");
    ensure!(bench.state(held.task).await? == StateName::Dead);
    Ok(())
}
