//! Tasks that this version cannot read stop no other.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::TaskId;
use common::store::{Filter, StoreError};
use common::task::{DeadReason, Head, Parent, Signal, State, StateName};
use suite::conformance::bench::step;
use suite::servers::postgres;

use super::{bench, client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_journal_cannot_be_read_is_a_dead_letter_and_stops_no_other() -> Result<()> {
    let url = postgres::place();
    let bench = bench(&url).await?;
    let (bad, good) = (bench.submitted().await?, bench.submitted().await?);
    let sql = "UPDATE journal SET event = '{\"type\":\"from_the_future\"}' WHERE task = $1 AND seq = 1";
    client(&url).await?.execute(sql, &[&bad.as_uuid()]).await?;
    let claims = bench.take(5).await?;
    ensure!(claims.len() == 1 && claims[0].task == good);
    let head = bench.head(bad).await?;
    ensure!(matches!(head.state, State::Dead { reason: DeadReason::Unreadable, .. }), "{:?}", head.state);
    let read = bench.store.journal(bad, 0, 10).await;
    ensure!(matches!(&read, Err(StoreError::Damaged(why)) if why.contains(&bad.to_string())), "{read:?}");
    ensure!(bench.take(5).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_head_cannot_be_read_is_a_dead_letter_and_stops_no_other() -> Result<()> {
    let url = postgres::place();
    let bench = bench(&url).await?;
    let parent = bench.taken().await?;
    let family = Parent { task: parent.task, step: step("sub"), depth: 1 };
    let bad = bench.submit(bench.task_with(|s| s.parent = Some(family))).await?.id;
    let late = bench.task_with(|s| s.run_at = Some(bench.now().plus(Duration::from_secs(1))));
    let late = bench.submit(late).await?.id;
    let good = bench.submitted().await?;
    let db = client(&url).await?;
    db.execute("UPDATE tasks SET head = '{\"shape\": \"of the future\"}' WHERE id = $1", &[&bad.as_uuid()]).await?;
    db.execute("UPDATE tasks SET head = 'no JSON' WHERE id = $1", &[&late.as_uuid()]).await?;
    let claims = bench.take(5).await?;
    ensure!(claims.len() == 1 && claims[0].task == good);
    bench.clock.advance(Duration::from_secs(1));
    bench.store.due(10).await?;
    let filter = Filter { dead_reason: Some(DeadReason::Unreadable), ..Filter::default() };
    let found: HashSet<TaskId> = bench.all(filter).await?.into_iter().map(|head| head.id).collect();
    ensure!(found == HashSet::from([bad, late]), "{found:?}");
    let kept = db.query_one("SELECT head FROM tasks WHERE id = $1", &[&late.as_uuid()]).await?;
    ensure!(kept.get::<_, &str>(0) == "no JSON", "it is kept for a version that can read it");
    let queue = bench.store.queues().await?.remove(0);
    ensure!(queue.depth.get(&StateName::Dead) == Some(&2) && queue.depth.get(&StateName::Running) == Some(&2));
    // A version that can read it sends it on its way again.
    for task in [bad, late] {
        let head = serde_json::to_string(&Head::fold(task, &bench.journal(task).await?)?)?;
        db.execute("UPDATE tasks SET head = $2 WHERE id = $1", &[&task.as_uuid(), &head]).await?;
        ensure!(bench.state(task).await? == StateName::Dead);
        let replay = Signal::Replay { by: "ann".to_owned(), reset: Vec::new(), input: None };
        bench.store.signal(task, replay).await?;
        ensure!(bench.state(task).await? == StateName::Ready);
        ensure!(bench.kinds(task).await? == ["submitted", "died", "replayed"]);
    }
    bench.verify().await
}
