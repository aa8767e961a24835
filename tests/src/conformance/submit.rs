//! Accepting tasks: idempotent, all or none, durable.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::{GroupKey, TaskId};
use common::journal::Event;
use common::store::{Next, Signalled, StoreError, Submission};
use common::task::{Parent, Signal, StateName};
use serde_json::json;

use super::bench::{Bench, LEASE, finished, key, pipeline, step, valid};
use super::{Held, Place};

/// What was accepted can be read: the head, and a journal of one event that holds all that was submitted.
pub async fn accepted_is_readable(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let submission = bench.task_with(|s| {
        s.input = json!({"z": 1, "a": [null, "ü", 1.5]});
        s.labels.insert("team".to_owned(), "blue".to_owned());
        s.priority = 7;
    });
    let receipt = bench.submit(submission.clone()).await?;
    ensure!(receipt.created && receipt.id == submission.id() && receipt.state == StateName::Ready);
    let journal = bench.journal(receipt.id).await?;
    ensure!(journal.len() == 1 && journal[0].seq == 1 && journal[0].at == bench.now());
    let Event::Submitted(task) = &journal[0].event else { anyhow::bail!("the first event is not submitted") };
    ensure!(**task == *submission.task());
    let texts = [&task.input, &submission.task().input].map(ToString::to_string);
    ensure!(texts[0] == texts[1], "the order of keys is kept");
    ensure!(bench.store.head(bench.id()).await?.is_none(), "an unknown task has no head");
    ensure!(bench.journal(bench.id()).await?.is_empty(), "an unknown task has no journal");
    ensure!(bench.store.submit(Vec::new()).await?.is_empty());
    bench.verify().await
}

/// A second submission with the key of the first makes no task (I6).
pub async fn the_same_key_is_the_same_task(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let first = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    let mut held = bench.claimed(first.id).await?;
    let again = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    ensure!(again.id == first.id && !again.created && again.state == StateName::Running);
    bench.succeed(&mut held).await?;
    let again = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    ensure!(again.id == first.id && !again.created && again.state == StateName::Succeeded);
    ensure!(bench.all(<_>::default()).await?.len() == 1);
    bench.verify().await
}

/// Of fifty equal keys at once, from two stores, one makes the task (I6).
pub async fn fifty_equal_keys_at_once_make_one_task(place: Place) -> Result<()> {
    let bench = Arc::new(Bench::open(place).await?);
    let other = bench.another().await?;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..50 {
        let store = if n % 2 == 0 { Arc::clone(&bench.store) } else { Arc::clone(&other) };
        let submission = bench.task_with(|s| s.key = Some(key("k")));
        calls.spawn(async move { store.submit(vec![submission]).await });
    }
    let mut ids = HashSet::new();
    let mut created = 0;
    while let Some(answer) = calls.join_next().await {
        for receipt in answer?? {
            ids.insert(receipt.id);
            created += usize::from(receipt.created);
        }
    }
    ensure!(ids.len() == 1 && created == 1, "{} ids, {created} created", ids.len());
    ensure!(bench.all(<_>::default()).await?.len() == 1);
    bench.verify().await
}

/// The rule holds within one call too.
pub async fn equal_keys_in_one_call_make_one_task(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let submissions: Vec<Submission> =
        ["a", "b", "a", "a"].iter().map(|k| bench.task_with(|s| s.key = Some(key(k)))).collect();
    let receipts = bench.store.submit(submissions).await?;
    let created: Vec<bool> = receipts.iter().map(|r| r.created).collect();
    ensure!(created == [true, true, false, false]);
    ensure!(receipts[2].id == receipts[0].id && receipts[3].id == receipts[0].id);
    ensure!(receipts[1].id != receipts[0].id);
    bench.verify().await
}

/// Two pipelines may use the same key.
pub async fn keys_belong_to_their_pipeline(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    let other = bench
        .submit(bench.task_with(|s| {
            s.key = Some(key("k"));
            s.pipeline = pipeline("p2");
        }))
        .await?;
    ensure!(other.created);
    bench.verify().await
}

/// A call whose answer was lost can be repeated, also without keys: the ids are the same.
pub async fn a_repeated_call_makes_no_second_task(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let submissions = vec![bench.task(), bench.task()];
    let first = bench.store.submit(submissions.clone()).await?;
    let again = bench.store.submit(submissions).await?;
    ensure!(first.iter().all(|r| r.created) && again.iter().all(|r| !r.created));
    ensure!(first.iter().map(|r| r.id).eq(again.iter().map(|r| r.id)));
    ensure!(bench.all(<_>::default()).await?.len() == 2);
    bench.verify().await
}

/// One impossible submission refuses the call, and nothing of it stays.
pub async fn a_refused_call_leaves_nothing(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let old = bench.submit(bench.task_with(|s| s.supersede = Some(group("g")))).await?;
    let good = bench.task_with(|s| s.supersede = Some(group("g")));
    let unknown = bench.id();
    let bad = bench.task_with(|s| s.parent = Some(Parent { task: unknown, step: step("s"), depth: 1 }));
    let refused = bench.store.submit(vec![good.clone(), bad]).await;
    ensure!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    ensure!(bench.store.head(good.id()).await?.is_none());
    ensure!(bench.state(old.id).await? == StateName::Ready, "nothing was superseded");
    bench.verify().await
}

fn group(name: &str) -> GroupKey {
    valid(GroupKey::new(name))
}

async fn superseding(bench: &Bench, name: &str) -> Result<TaskId> {
    Ok(bench.submit(bench.task_with(|s| s.supersede = Some(group(name)))).await?.id)
}

/// The older unfinished tasks of a group are cancelled, others are not.
pub async fn supersede_cancels_the_older_of_the_group(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let done = superseding(&bench, "g").await?;
    bench.succeed(&mut bench.claimed(done).await?).await?;
    let older = superseding(&bench, "g").await?;
    let other = superseding(&bench, "h").await?;
    let plain = bench.submitted().await?;
    let newer = superseding(&bench, "g").await?;
    ensure!(bench.state(done).await? == StateName::Succeeded);
    ensure!(bench.state(older).await? == StateName::Cancelled);
    for task in [other, plain, newer] {
        ensure!(bench.state(task).await? == StateName::Ready);
    }
    bench.verify().await
}

/// A running one is asked to stop, and does so at its next append.
pub async fn supersede_asks_a_running_one(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let older = superseding(&bench, "g").await?;
    let mut held: Held = bench.claimed(older).await?;
    superseding(&bench, "g").await?;
    ensure!(bench.state(older).await? == StateName::Running);
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    ensure!(bench.kinds(older).await?.last() == Some(&"cancel_requested"));
    bench.verify().await
}

/// One that was asked to stop belongs to its group until it has ended: handed back instead, by its holder or by the end
/// of its lease, it is cancelled by the next of the group.
pub async fn one_that_was_asked_stays_in_its_group_until_it_ended(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let older = superseding(&bench, "g").await?;
    let mut held = bench.claimed(older).await?;
    let middle = superseding(&bench, "g").await?;
    let mut other = bench.claimed(middle).await?;
    superseding(&bench, "g").await?;
    // The requests are used up; what is handed back is ready.
    for held in [&mut held, &mut other] {
        bench.append(held, Vec::new(), Next::Continue).await?;
        ensure!(bench.kinds(held.task).await?.last() == Some(&"cancel_requested"));
    }
    bench.append(&mut held, Vec::new(), Next::Release { reason: "drain".to_owned() }).await?;
    bench.clock.advance(LEASE);
    ensure!(bench.store.due(10).await?.expired == 1);
    for task in [older, middle] {
        ensure!(bench.state(task).await? == StateName::Ready);
    }
    let newest = superseding(&bench, "g").await?;
    for task in [older, middle] {
        ensure!(bench.state(task).await? == StateName::Cancelled);
    }
    ensure!(bench.state(newest).await? == StateName::Ready);
    bench.verify().await
}

/// One that was cancelled or had failed, and is sent on its way again, belongs to its group again. A replay itself
/// supersedes nothing, and is not superseded by what is there.
pub async fn a_replayed_one_belongs_to_its_group_again(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let failed = superseding(&bench, "g").await?;
    bench.die(&mut bench.claimed(failed).await?).await?;
    let superseded = superseding(&bench, "g").await?;
    bench.clock.advance(Duration::from_secs(1));
    let newer = superseding(&bench, "g").await?;
    ensure!(bench.state(superseded).await? == StateName::Cancelled);
    for task in [failed, superseded] {
        let replay = Signal::Replay {
            by: "ann".to_owned(),
            reset: Vec::new(),
            input: None,
            sealed: common::journal::SealedValues::default(),
        };
        ensure!(bench.store.signal(task, replay).await? == Signalled::Applied(StateName::Ready));
    }
    ensure!(bench.store.due(10).await?.expired == 0, "a sweep changes nothing");
    for task in [failed, superseded, newer] {
        ensure!(bench.state(task).await? == StateName::Ready);
    }
    bench.clock.advance(Duration::from_secs(1));
    let newest = superseding(&bench, "g").await?;
    for task in [failed, superseded, newer] {
        ensure!(bench.state(task).await? == StateName::Cancelled);
    }
    ensure!(bench.state(newest).await? == StateName::Ready);
    bench.verify().await
}

/// Within one call the last of a group is the newest.
pub async fn supersede_within_one_call_leaves_the_newest(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let submissions: Vec<_> = (0..3).map(|_| bench.task_with(|s| s.supersede = Some(group("g")))).collect();
    let receipts = bench.store.submit(submissions).await?;
    let states: Vec<_> = receipts.iter().map(|r| r.state).collect();
    ensure!(states == [StateName::Cancelled, StateName::Cancelled, StateName::Ready], "{states:?}");
    ensure!(bench.state(receipts[0].id).await? == StateName::Cancelled);
    ensure!(bench.state(receipts[2].id).await? == StateName::Ready);
    bench.verify().await
}

/// What makes no task supersedes none.
pub async fn a_repeated_key_supersedes_nothing(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let submission = bench.task_with(|s| {
        s.key = Some(key("k"));
        s.supersede = Some(group("g"));
    });
    bench.submit(submission.clone()).await?;
    let newest = superseding(&bench, "g").await?;
    bench.submit(Submission::new(bench.id(), submission.task().clone())).await?;
    ensure!(bench.state(newest).await? == StateName::Ready);
    bench.verify().await
}
