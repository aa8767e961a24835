//! Retention: what is done goes in time, by number, age and size; what lives stays.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::TaskId;
use common::journal::Event;
use common::span::Span;
use common::store::{Keep, Next, Retention, StoreOptions};
use common::task::{Parent, StateName};
use serde_json::json;

use super::Place;
use super::bench::{Bench, key, step};

const UNLIMITED: Keep = Keep { count: None, age: None, bytes: None };

fn keep(finished: Keep, dead: Keep) -> impl FnOnce(&mut StoreOptions) {
    move |options| options.retention = Retention { finished, dead }
}

async fn done(bench: &Bench) -> Result<TaskId> {
    bench.clock.advance(Duration::from_millis(10));
    let mut held = bench.taken().await?;
    bench.succeed(&mut held).await?;
    Ok(held.task)
}

async fn dead(bench: &Bench) -> Result<TaskId> {
    bench.clock.advance(Duration::from_millis(10));
    let mut held = bench.taken().await?;
    bench.die(&mut held).await?;
    Ok(held.task)
}

async fn are_kept(bench: &Bench, tasks: &[TaskId]) -> Result<Vec<bool>> {
    let mut kept = Vec::new();
    for task in tasks {
        let head = bench.store.head(*task).await?.is_some();
        ensure!(head != bench.journal(*task).await?.is_empty(), "a journal goes with its head");
        kept.push(head);
    }
    Ok(kept)
}

/// The oldest go first.
pub async fn the_oldest_go_by_count(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep(Keep { count: Some(2), ..UNLIMITED }, UNLIMITED)).await?;
    let tasks = [done(&bench).await?, done(&bench).await?, done(&bench).await?, done(&bench).await?];
    ensure!(bench.store.due(100).await?.removed == 2);
    ensure!(are_kept(&bench, &tasks).await? == [false, false, true, true]);
    ensure!(bench.store.due(100).await?.removed == 0);
    bench.verify().await
}

/// At their age, not a moment before; the sweep says when that is.
pub async fn they_go_by_age(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep(Keep { age: Some(Span::from_secs(1)), ..UNLIMITED }, UNLIMITED)).await?;
    let first = done(&bench).await?;
    let ends = bench.now().plus(Duration::from_secs(1));
    let second = done(&bench).await?;
    let due = bench.store.due(100).await?;
    ensure!(due.removed == 0 && due.next == Some(ends), "{due:?}");
    bench.clock.advance(Duration::from_millis(989));
    ensure!(bench.store.due(100).await?.removed == 0);
    bench.clock.advance(Duration::from_millis(1));
    ensure!(bench.store.due(100).await?.removed == 1);
    ensure!(are_kept(&bench, &[first, second]).await? == [false, true]);
    bench.verify().await
}

/// By the size of their journals.
pub async fn they_go_by_bytes(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep(Keep { bytes: Some(25_000), ..UNLIMITED }, UNLIMITED)).await?;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        bench.clock.advance(Duration::from_millis(10));
        let mut held = bench.taken().await?;
        bench.append(&mut held, Vec::new(), Next::Succeed { output: json!("x".repeat(10_000)) }).await?;
        tasks.push(held.task);
    }
    ensure!(bench.store.due(100).await?.removed == 2);
    ensure!(are_kept(&bench, &tasks).await? == [false, false, true, true]);
    bench.verify().await
}

/// Dead letters do not go with the others, and go by their own rule.
pub async fn dead_letters_have_their_own_rule(place: Place) -> Result<()> {
    let bench =
        Bench::tuned(place, keep(Keep { count: Some(0), ..UNLIMITED }, Keep { count: Some(1), ..UNLIMITED })).await?;
    let tasks = [dead(&bench).await?, done(&bench).await?, dead(&bench).await?];
    ensure!(bench.store.due(100).await?.removed == 2);
    ensure!(are_kept(&bench, &tasks).await? == [false, false, true]);
    bench.verify().await
}

/// The key of a removed task is free again.
pub async fn the_key_goes_with_its_task(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep(Keep { count: Some(0), ..UNLIMITED }, UNLIMITED)).await?;
    let first = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    bench.succeed(&mut bench.claimed(first.id).await?).await?;
    bench.store.due(100).await?;
    let again = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    ensure!(again.created && again.id != first.id);
    bench.verify().await
}

/// Whatever the rule says; and a replayed dead letter lives.
pub async fn what_lives_is_kept(place: Place) -> Result<()> {
    let nothing = Keep { count: Some(0), age: Some(Span::clamped(Duration::ZERO)), bytes: Some(0) };
    let bench = Bench::tuned(place, keep(nothing, UNLIMITED)).await?;
    let replayed = dead(&bench).await?;
    let replay = common::task::Signal::Replay {
        by: "x".to_owned(),
        reset: Vec::new(),
        input: None,
        sealed: common::journal::SealedValues::default(),
    };
    bench.store.signal(replayed, replay).await?;
    let later = bench.now().plus(Duration::from_secs(3600));
    let scheduled = bench.submit(bench.task_with(|s| s.run_at = Some(later))).await?.id;
    let running = bench.claimed(bench.submitted().await?).await?.task;
    bench.clock.advance(Duration::from_secs(1));
    ensure!(bench.store.due(100).await?.removed == 0);
    ensure!(are_kept(&bench, &[replayed, scheduled, running]).await? == [true; 3]);
    bench.verify().await
}

/// A sweep removes as much as it is told, and says that there is more.
pub async fn removal_is_limited(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep(Keep { count: Some(0), ..UNLIMITED }, UNLIMITED)).await?;
    for _ in 0..5 {
        done(&bench).await?;
    }
    let due = bench.store.due(3).await?;
    ensure!(due.removed == 3 && due.next.is_some_and(|next| next <= bench.now()), "{due:?}");
    ensure!(bench.store.due(3).await?.removed == 2);
    ensure!(bench.store.due(3).await?.next.is_none());
    bench.verify().await
}

/// A parent that is not done may still ask for a child that is.
pub async fn a_child_waits_for_its_parent(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep(Keep { count: Some(0), ..UNLIMITED }, UNLIMITED)).await?;
    let mut parent = bench.taken().await?;
    let family = Parent { task: parent.task, step: step("sub"), depth: 1 };
    let child = bench.submit(bench.task_with(|s| s.parent = Some(family))).await?.id;
    bench.succeed(&mut bench.claimed(child).await?).await?;
    let other = done(&bench).await?;
    let due = bench.store.due(100).await?;
    ensure!(are_kept(&bench, &[child, other]).await? == [true, false]);
    ensure!(due.next.is_some_and(|next| next > bench.now()), "the sweep does not spin: {due:?}");
    bench.append(&mut parent, vec![Event::ChildSubmitted { step: step("sub"), child }], Next::Continue).await?;
    bench.succeed(&mut parent).await?;
    ensure!(bench.state(parent.task).await? == StateName::Succeeded);
    bench.clock.advance(Duration::from_secs(300));
    bench.store.due(100).await?;
    ensure!(are_kept(&bench, &[child, parent.task]).await? == [false, false]);
    bench.verify().await
}
