//! Batches: what became of each row.

use anyhow::{Context, Result, ensure};
use common::id::{BatchId, TaskId};
use common::journal::{Event, ModelCall, RequestHead, Usage};
use common::span::Span;
use common::store::{BatchRowState, BatchStatus, Keep, Next, OpenBatch, RejectedRow, StoreError, Submission};
use common::task::StateName;

use super::Place;
use super::bench::{Bench, key, pipeline, step, valid};

fn batch(name: &str) -> BatchId {
    valid(BatchId::new(name))
}

async fn open(bench: &Bench, name: &str) -> Result<BatchId> {
    bench.store.open_batch(OpenBatch { id: batch(name), pipeline: pipeline("p") }).await?;
    Ok(batch(name))
}

async fn status(bench: &Bench, id: &BatchId) -> Result<BatchStatus> {
    bench.store.batch(id).await?.context("the batch is there")
}

/// A row of a batch with a key of its own.
fn row(bench: &Bench, id: &BatchId, line: u64, name: &str) -> Submission {
    bench.task_with(|s| {
        s.batch = Some(id.clone());
        s.key = Some(key(name));
        s.line = Some(line);
    })
}

/// Progress by state, and each row leads to its task.
pub async fn rows_lead_to_tasks(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let id = open(&bench, "b").await?;
    let rows = (2..=4).map(|line| row(&bench, &id, line, &format!("k{line}"))).collect();
    let receipts = bench.store.submit(rows).await?;
    let now = status(&bench, &id).await?;
    ensure!(!now.closed && now.tasks == [(StateName::Ready, 3)].into() && now.created_at == bench.now());
    bench.succeed(&mut bench.take_one().await?).await?;
    bench.die(&mut bench.take_one().await?).await?;
    bench.store.close_batch(&id).await?;
    let now = status(&bench, &id).await?;
    ensure!(now.closed);
    let expected = [(StateName::Ready, 1), (StateName::Succeeded, 1), (StateName::Dead, 1)];
    ensure!(now.tasks == expected.into(), "{:?}", now.tasks);
    let rows = bench.store.batch_rows(&id, 0, 10).await?;
    for (row, receipt) in rows.iter().zip(&receipts) {
        ensure!(matches!(&row.state, BatchRowState::Task(head) if head.id == receipt.id), "{row:?}");
    }
    ensure!(rows.iter().map(|row| row.line).eq(2..=4));
    bench.verify().await
}

/// The same batch again, as after a lost answer: the same rows, no duplicates.
pub async fn a_batch_posted_again_makes_no_second_task(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for _ in 0..2 {
        let id = open(&bench, "b").await?;
        let rows = (2..=3).map(|line| row(&bench, &id, line, &format!("k{line}"))).collect();
        bench.store.submit(rows).await?;
        let bad = RejectedRow { line: 4, reason: "no e-mail".to_owned() };
        bench.store.reject_rows(&id, vec![bad]).await?;
    }
    let now = status(&bench, &batch("b")).await?;
    ensure!(now.tasks == [(StateName::Ready, 2)].into() && now.duplicates == 0 && now.rejected == 1, "{now:?}");
    ensure!(bench.all(<_>::default()).await?.len() == 2);
    bench.verify().await
}

/// Rows whose task existed before count as tasks, and as duplicates; their tasks are followed.
pub async fn duplicates_are_told(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let first = open(&bench, "first").await?;
    bench.store.submit(vec![row(&bench, &first, 2, "k")]).await?;
    let second = open(&bench, "second").await?;
    let rows = vec![row(&bench, &second, 2, "k"), row(&bench, &second, 3, "new"), row(&bench, &second, 4, "new")];
    bench.store.submit(rows).await?;
    let now = status(&bench, &second).await?;
    ensure!(now.duplicates == 2 && now.tasks == [(StateName::Ready, 2)].into(), "{now:?}");
    bench.succeed(&mut bench.take_one().await?).await?;
    let now = status(&bench, &second).await?;
    ensure!(now.tasks == [(StateName::Ready, 1), (StateName::Succeeded, 1)].into(), "{now:?}");
    let states: Vec<_> = bench.store.batch_rows(&second, 0, 10).await?.into_iter().map(|row| row.state).collect();
    ensure!(states.iter().all(|state| matches!(state, BatchRowState::Task(_))));
    bench.verify().await
}

/// Rows that made no task: all counted, the first hundred named.
pub async fn rejected_rows_are_told(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let id = open(&bench, "b").await?;
    let rows = (1..=150).map(|line| RejectedRow { line, reason: format!("bad line {line}") }).collect();
    bench.store.reject_rows(&id, rows).await?;
    let now = status(&bench, &id).await?;
    ensure!(now.rejected == 150 && now.rejections.len() == 100);
    ensure!(now.rejections[0] == RejectedRow { line: 1, reason: "bad line 1".to_owned() });
    let rows = bench.store.batch_rows(&id, 149, 10).await?;
    ensure!(rows.len() == 1 && matches!(&rows[0].state, BatchRowState::Rejected(why) if why == "bad line 150"));
    Ok(())
}

/// In order of their lines, whatever the order in which they came.
pub async fn rows_come_in_pages(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let id = open(&bench, "b").await?;
    for line in [5, 1, 4, 2, 3] {
        bench.store.submit(vec![row(&bench, &id, line, &format!("k{line}"))]).await?;
    }
    let lines = |rows: Vec<common::store::BatchRow>| rows.into_iter().map(|row| row.line).collect::<Vec<_>>();
    ensure!(lines(bench.store.batch_rows(&id, 0, 2).await?) == [1, 2]);
    ensure!(lines(bench.store.batch_rows(&id, 2, 2).await?) == [3, 4]);
    ensure!(lines(bench.store.batch_rows(&id, 4, 2).await?) == [5]);
    ensure!(bench.store.batch_rows(&id, 5, 2).await?.is_empty());
    Ok(())
}

/// What was not opened cannot be filled; an id is not used for two pipelines.
pub async fn an_unknown_batch_is_refused(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let id = batch("none");
    ensure!(bench.store.batch(&id).await?.is_none());
    ensure!(bench.store.batch_rows(&id, 0, 10).await?.is_empty());
    ensure!(matches!(bench.store.close_batch(&id).await, Err(StoreError::Refused(_))));
    ensure!(matches!(bench.store.reject_rows(&id, Vec::new()).await, Err(StoreError::Refused(_))));
    let refused = bench.store.submit(vec![row(&bench, &id, 1, "k")]).await;
    ensure!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    open(&bench, "b").await?;
    let other = OpenBatch { id: batch("b"), pipeline: pipeline("other") };
    ensure!(matches!(bench.store.open_batch(other).await, Err(StoreError::Refused(_))));
    Ok(())
}

/// A batch outlives its tasks: it says that they were there, and how they ended.
pub async fn removed_rows_are_told(place: Place) -> Result<()> {
    let keep = Keep { count: Some(0), age: None, bytes: None };
    let bench = Bench::tuned(place, |options| options.retention.finished = keep).await?;
    let id = open(&bench, "b").await?;
    let rows = vec![row(&bench, &id, 1, "a"), row(&bench, &id, 2, "b")];
    let removed: TaskId = bench.store.submit(rows).await?[0].id;
    bench.succeed(&mut bench.claimed(removed).await?).await?;
    ensure!(bench.store.due(10).await?.removed == 1);
    let rows = bench.store.batch_rows(&id, 0, 10).await?;
    ensure!(rows[0].state == BatchRowState::Removed(removed), "{rows:?}");
    ensure!(matches!(rows[1].state, BatchRowState::Task(_)));
    let now = status(&bench, &id).await?;
    ensure!(now.tasks == [(StateName::Ready, 1), (StateName::Succeeded, 1)].into(), "{now:?}");
    bench.verify().await
}

/// A batch goes when it is closed, none of its tasks is kept any more, and its time is over.
pub async fn a_batch_that_is_over_goes(place: Place) -> Result<()> {
    let keep = Keep { count: Some(0), age: Some(Span::from_secs(60)), bytes: None };
    let bench = Bench::tuned(place, |options| options.retention.finished = keep).await?;
    let (id, lasting) = (open(&bench, "b").await?, open(&bench, "lasting").await?);
    bench.store.submit(vec![row(&bench, &id, 1, "a"), row(&bench, &lasting, 1, "b")]).await?;
    bench.store.reject_rows(&id, (2..=8).map(|line| RejectedRow { line, reason: "bad".to_owned() }).collect()).await?;
    bench.store.close_batch(&id).await?;
    bench.store.close_batch(&lasting).await?;
    bench.succeed(&mut bench.take_one().await?).await?;
    bench.store.due(10).await?;
    ensure!(bench.store.batch(&id).await?.is_some(), "its time is not over");
    bench.clock.advance(std::time::Duration::from_secs(60));
    for _ in 0..12 {
        bench.store.due(1).await?;
    }
    ensure!(bench.store.batch(&id).await?.is_none() && bench.store.batch_rows(&id, 0, 10).await?.is_empty());
    ensure!(bench.store.batch(&lasting).await?.is_some(), "its task lives");
    bench.verify().await
}

/// Rows of batches go also while retention has more than enough to do with tasks.
pub async fn a_batch_goes_however_many_tasks_have_to(place: Place) -> Result<()> {
    let keep = Keep { count: None, age: Some(Span::from_secs(60)), bytes: None };
    let bench = Bench::tuned(place, |options| options.retention.finished = keep).await?;
    let id = open(&bench, "b").await?;
    bench.store.reject_rows(&id, (1..=3).map(|line| RejectedRow { line, reason: "bad".to_owned() }).collect()).await?;
    bench.store.close_batch(&id).await?;
    for _ in 0..20 {
        let mut held = bench.taken().await?;
        bench.succeed(&mut held).await?;
    }
    bench.clock.advance(std::time::Duration::from_secs(60));
    for _ in 0..8 {
        ensure!(bench.store.due(1).await?.removed == 1);
    }
    ensure!(bench.store.batch(&id).await?.is_none());
    bench.verify().await
}

/// What its tasks have cost so far.
pub async fn the_cost_is_summed(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let id = open(&bench, "b").await?;
    bench.store.submit(vec![row(&bench, &id, 1, "a"), row(&bench, &id, 2, "b")]).await?;
    let shared = RequestHead {
        alias: "m".to_owned(),
        provider: "p".to_owned(),
        model: "m".to_owned(),
        max_tokens: 10,
        system: String::new(),
        tools: Vec::new(),
        ..RequestHead::default()
    };
    let reply = ModelCall {
        content: Vec::new(),
        stop_reason: "end_turn".to_owned(),
        model: "m".to_owned(),
        response_id: "r".to_owned(),
        usage: Usage { cost_usd: 0.25, ..Usage::default() },
        duration_ms: 1,
    };
    for _ in 0..2 {
        let mut held = bench.take_one().await?;
        let events = vec![
            Event::AgentStarted { step: step("a"), head: Box::new(shared.clone()), prompt: "hello".to_owned() },
            Event::TurnFinished { step: step("a"), call: Box::new(reply.clone()), entry: None },
        ];
        bench.append(&mut held, events, Next::Continue).await?;
        bench.succeed(&mut held).await?;
    }
    let cost = status(&bench, &id).await?.cost_usd;
    ensure!((cost - 0.5).abs() < 1e-9, "{cost}");
    bench.verify().await
}
