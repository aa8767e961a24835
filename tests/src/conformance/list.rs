//! Lists: order, pages, filters, and the figures of queues.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::journal::Event;
use common::store::{Filter, Next};
use common::task::{DeadReason, Parent, StateName};
use serde_json::json;

use super::Place;
use super::bench::{Bench, pipeline, queue, step};

/// By descending id, each task once, also while tasks are added.
pub async fn newest_first_in_pages(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(bench.submitted().await?);
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut after = None;
    let mut pages = 0;
    loop {
        let page = bench.store.list(Filter::default(), after, 10).await?;
        ensure!(page.tasks.len() <= 10);
        seen.extend(page.tasks.iter().map(|head| head.id));
        pages += 1;
        bench.submitted().await?;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    ensure!(seen == ids && pages == 3, "{pages} pages, {} tasks", seen.len());
    ensure!(bench.store.list(Filter::default(), None, 0).await?.tasks.is_empty());
    bench.verify().await
}

async fn count(bench: &Bench, filter: Filter) -> Result<usize> {
    Ok(bench.all(filter).await?.len())
}

/// Each condition by itself.
pub async fn filters_match(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let plain = bench.submitted().await?;
    bench.submit(bench.task_with(|s| s.pipeline = pipeline("p2"))).await?;
    bench.submit(bench.task_with(|s| s.queue = queue("q2"))).await?;
    let odd = "it's \"odd\".$";
    bench
        .submit(bench.task_with(|s| {
            s.labels.insert("team".to_owned(), "blue".to_owned());
            s.labels.insert(odd.to_owned(), odd.to_owned());
        }))
        .await?;
    let parent = Parent { task: plain, step: step("s"), depth: 1 };
    bench.submit(bench.task_with(|s| s.parent = Some(parent))).await?;
    let mut dead = bench.taken().await?;
    bench.die(&mut dead).await?;
    let mut done = bench.taken().await?;
    bench.succeed(&mut done).await?;
    let label =
        |name: &str, value: &str| Filter { labels: [(name.to_owned(), value.to_owned())].into(), ..Filter::default() };
    let states = |states: &[StateName]| Filter { states: states.to_vec(), ..Filter::default() };
    ensure!(count(&bench, Filter::default()).await? == 7);
    ensure!(count(&bench, Filter { pipeline: Some(pipeline("p2")), ..Filter::default() }).await? == 1);
    ensure!(count(&bench, Filter { pipeline: Some(pipeline("none")), ..Filter::default() }).await? == 0);
    ensure!(count(&bench, Filter { queue: Some(queue("q2")), ..Filter::default() }).await? == 1);
    ensure!(count(&bench, Filter { parent: Some(plain), ..Filter::default() }).await? == 1);
    ensure!(count(&bench, label("team", "blue")).await? == 1);
    ensure!(count(&bench, label("team", "red")).await? == 0);
    ensure!(count(&bench, label(odd, odd)).await? == 1);
    for (state, expected) in
        [(StateName::Ready, 5), (StateName::Dead, 1), (StateName::Succeeded, 1), (StateName::Waiting, 0)]
    {
        ensure!(count(&bench, states(&[state])).await? == expected, "{state}");
    }
    ensure!(count(&bench, states(&[StateName::Dead, StateName::Ready])).await? == 6);
    ensure!(count(&bench, states(&StateName::ALL)).await? == 7);
    let reason = |reason| Filter { dead_reason: Some(reason), ..Filter::default() };
    ensure!(count(&bench, reason(DeadReason::Failed)).await? == 1);
    ensure!(count(&bench, reason(DeadReason::Poison)).await? == 0);
    bench.verify().await
}

/// Conditions together.
pub async fn all_conditions_must_hold(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for (name, team, size) in [("p", "a", "s"), ("p", "b", "s"), ("p2", "a", "s"), ("p", "a", "l")] {
        bench
            .submit(bench.task_with(|s| {
                s.pipeline = pipeline(name);
                s.labels.insert("team".to_owned(), team.to_owned());
                s.labels.insert("size".to_owned(), size.to_owned());
            }))
            .await?;
    }
    let labels = [("team", "a"), ("size", "s")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let filter = Filter { pipeline: Some(pipeline("p")), labels: labels.into(), ..Filter::default() };
    ensure!(count(&bench, filter.clone()).await? == 1);
    ensure!(count(&bench, Filter { states: vec![StateName::Dead], ..filter }).await? == 0);
    Ok(())
}

/// Tasks that ask a person something.
pub async fn waiting_for_a_person(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.submitted().await?;
    let mut held = bench.taken().await?;
    let asked = Event::ApprovalRequested {
        step: step("r"),
        title: "?".to_owned(),
        show: json!(1),
        expires: None,
        terms: Box::default(),
    };
    bench.append(&mut held, vec![asked], Next::Continue).await?;
    let filter = Filter { awaiting_approval: true, ..Filter::default() };
    let found = bench.all(filter.clone()).await?;
    ensure!(found.len() == 1 && found[0].id == held.task);
    bench.succeed(&mut held).await?;
    ensure!(bench.all(filter).await?.is_empty(), "a question lapses with its task");
    bench.verify().await
}

/// A page that ends exactly at the last task has no next one.
pub async fn an_empty_answer_has_no_next_page(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(bench.store.list(Filter::default(), None, 10).await?.next.is_none());
    for _ in 0..10 {
        bench.submitted().await?;
    }
    let page = bench.store.list(Filter::default(), None, 10).await?;
    ensure!(page.tasks.len() == 10 && page.next.is_none());
    Ok(())
}

/// Depth by state, and since when the oldest ready task is ready.
pub async fn queues_show_depth_and_age(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(bench.store.queues().await?.is_empty());
    let first = bench.now();
    bench.submit(bench.task_with(|s| s.priority = 0)).await?;
    bench.clock.advance(Duration::from_secs(5));
    bench.submit(bench.task_with(|s| s.priority = 9)).await?;
    bench.submit(bench.task_with(|s| s.queue = queue("a"))).await?;
    bench.submit(bench.task_with(|s| s.run_at = Some(first.plus(Duration::from_secs(60))))).await?;
    let queues = bench.store.queues().await?;
    let names: Vec<_> = queues.iter().map(|q| q.name.as_str()).collect();
    ensure!(names == ["a", "q"]);
    ensure!(queues[1].oldest_ready == Some(first) && queues[0].oldest_ready == Some(bench.now()));
    let depth = |n: usize, state| queues[n].depth.get(&state).copied().unwrap_or(0);
    ensure!(depth(1, StateName::Ready) == 2 && depth(1, StateName::Scheduled) == 1);
    let mut held = bench.take_one().await?;
    bench.take_one().await?;
    let q = bench.store.queues().await?.remove(1);
    ensure!(q.oldest_ready.is_none() && q.depth.get(&StateName::Running) == Some(&2));
    bench.die(&mut held).await?;
    let q = bench.store.queues().await?.remove(1);
    ensure!(q.depth.get(&StateName::Dead) == Some(&1));
    bench.verify().await
}
