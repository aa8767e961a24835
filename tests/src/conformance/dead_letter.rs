//! Dead letters and their replay.

use anyhow::{Result, ensure};
use common::id::StepId;
use common::journal::Run;
use common::store::{Filter, Next, SignalError, Signalled, Submission};
use common::task::{DeadReason, Signal, State, StateName};
use serde_json::json;

use super::Place;
use super::bench::{Bench, die, finished, key, step, valid};

fn replay(reset: &[&str]) -> Signal {
    let reset = reset.iter().map(|name| valid(StepId::new(*name))).collect();
    Signal::Replay {
        by: "ann".to_owned(),
        reset,
        input: Some(json!({"n": 2})),
        sealed: common::journal::SealedValues::default(),
    }
}

/// It keeps its reason, its failure, the step, and its whole journal.
pub async fn a_failed_task_is_a_dead_letter(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    bench.append(&mut held, vec![finished("a")], die()).await?;
    let letter = bench.head(held.task).await?;
    let State::Dead { reason, error, step: failed, .. } = &letter.state else { anyhow::bail!("{:?}", letter.state) };
    ensure!(*reason == DeadReason::Failed && error.message == "it broke" && *failed == Some(step("s")));
    ensure!(bench.kinds(held.task).await? == ["submitted", "leased", "step_finished", "died"]);
    let filter = Filter { states: vec![StateName::Dead], ..Filter::default() };
    ensure!(bench.all(filter).await? == [letter]);
    ensure!(bench.take(1).await?.is_empty());
    bench.verify().await
}

/// A replay sends it on its way again, with what it has.
pub async fn replay_makes_it_ready(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    bench.append(&mut held, vec![finished("a"), finished("b")], die()).await?;
    ensure!(bench.store.signal(held.task, replay(&["b"])).await? == Signalled::Applied(StateName::Ready));
    let mut again = bench.take_one().await?;
    ensure!(again.task == held.task);
    let run = Run::fold(again.task, &bench.journal(again.task).await?)?;
    ensure!(*run.input == json!({"n": 2}));
    ensure!(run.step(&step("a")).is_some_and(common::journal::StepRun::is_done));
    ensure!(run.step(&step("b")).is_some_and(|b| !b.is_done() && b.generation == 1));
    bench.succeed(&mut again).await?;
    bench.verify().await
}

/// So is one that was cancelled.
pub async fn a_cancelled_task_is_replayed(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    bench.append(&mut held, Vec::new(), Next::Cancel { by: "x".to_owned(), reason: "y".to_owned() }).await?;
    ensure!(bench.store.signal(held.task, replay(&[])).await? == Signalled::Applied(StateName::Ready));
    bench.verify().await
}

/// Only what is dead or cancelled can be replayed.
pub async fn what_lives_is_not_replayed(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let ready = bench.submitted().await?;
    let mut held = bench.claimed(ready).await?;
    let other = bench.submitted().await?;
    for task in [ready, other] {
        let refused = bench.store.signal(task, replay(&[])).await;
        ensure!(matches!(refused, Err(SignalError::Refused(_))), "{refused:?}");
    }
    bench.succeed(&mut held).await?;
    let refused = bench.store.signal(ready, replay(&[])).await;
    ensure!(matches!(refused, Err(SignalError::Refused(_))), "{refused:?}");
    bench.verify().await
}

/// A dead letter can be dropped, with its key; nothing else can.
pub async fn a_dropped_one_is_gone(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let submission = bench.task_with(|task| task.key = Some(key("once")));
    let id = bench.submit(submission.clone()).await?.id;
    ensure!(!bench.store.forget(id).await?, "it is not dead");
    let mut held = bench.claimed(id).await?;
    ensure!(!bench.store.forget(id).await?, "it is running");
    bench.die(&mut held).await?;
    ensure!(bench.store.forget(id).await?);
    ensure!(!bench.store.forget(id).await?, "it is gone");
    ensure!(bench.store.head(id).await?.is_none() && bench.journal(id).await?.is_empty());
    let again = bench.submit(Submission::new(bench.id(), submission.task().clone())).await?;
    ensure!(again.created && again.id != id);
    bench.verify().await
}
