//! Tasks that a store cannot read, for the stores whose rows a test can change behind their back: what cannot be read
//! goes where a person finds it, and stops no other.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use common::id::TaskId;
use common::store::{Filter, StoreError};
use common::task::{DeadReason, Head, Parent, Signal, State, StateName};

use super::Bench;
use super::bench::step;

/// The rows of a store.
#[async_trait]
pub trait Rows: Send + Sync {
    /// Puts something else in place of a task's first event.
    async fn write_event(&self, task: TaskId, text: &str) -> Result<()>;
    /// Puts something else in place of a task's head.
    async fn write_head(&self, task: TaskId, text: &str) -> Result<()>;
    /// A task's head as it is kept.
    async fn head(&self, task: TaskId) -> Result<String>;
}

/// A journal of another version.
pub async fn a_journal(bench: &Bench, rows: &dyn Rows) -> Result<()> {
    let (bad, good) = (bench.submitted().await?, bench.submitted().await?);
    rows.write_event(bad, r#"{"type":"from_the_future"}"#).await?;
    let claims = bench.take(5).await?;
    ensure!(claims.len() == 1 && claims[0].task == good);
    let head = bench.head(bad).await?;
    ensure!(matches!(head.state, State::Dead { reason: DeadReason::Unreadable, .. }), "{:?}", head.state);
    let read = bench.store.journal(bad, 0, 10).await;
    ensure!(matches!(&read, Err(StoreError::Damaged(why)) if why.contains(&bad.to_string())), "{read:?}");
    ensure!(bench.take(5).await?.is_empty());
    Ok(())
}

/// A head of another version, of a task that is ready, and one that is no head at all, of a task that becomes due.
pub async fn a_head(bench: &Bench, rows: &dyn Rows) -> Result<()> {
    let parent = bench.taken().await?;
    let family = Parent { task: parent.task, step: step("sub"), depth: 1 };
    let bad = bench.submit(bench.task_with(|s| s.parent = Some(family))).await?.id;
    let late = bench.task_with(|s| s.run_at = Some(bench.now().plus(Duration::from_secs(1))));
    let late = bench.submit(late).await?.id;
    let good = bench.submitted().await?;
    rows.write_head(bad, r#"{"shape": "of the future"}"#).await?;
    rows.write_head(late, "no JSON").await?;
    let claims = bench.take(5).await?;
    ensure!(claims.len() == 1 && claims[0].task == good);
    bench.clock.advance(Duration::from_secs(1));
    bench.store.due(10).await?;
    let filter = Filter { dead_reason: Some(DeadReason::Unreadable), ..Filter::default() };
    let found: HashSet<TaskId> = bench.all(filter).await?.into_iter().map(|head| head.id).collect();
    ensure!(found == HashSet::from([bad, late]), "{found:?}");
    ensure!(rows.head(late).await? == "no JSON", "it is kept for a version that can read it");
    let queue = bench.store.queues().await?.remove(0);
    ensure!(queue.depth.get(&StateName::Dead) == Some(&2) && queue.depth.get(&StateName::Running) == Some(&2));
    // A version that can read it sends it on its way again.
    for task in [bad, late] {
        let head = serde_json::to_string(&Head::fold(task, &bench.journal(task).await?)?)?;
        rows.write_head(task, &head).await?;
        ensure!(bench.state(task).await? == StateName::Dead);
        let replay = Signal::Replay {
            by: "ann".to_owned(),
            reset: Vec::new(),
            input: None,
            sealed: common::journal::SealedValues::default(),
        };
        bench.store.signal(task, replay).await?;
        ensure!(bench.state(task).await? == StateName::Ready);
        ensure!(bench.kinds(task).await? == ["submitted", "died", "replayed"]);
    }
    bench.verify().await
}
