//! Taking and claiming: order, fairness, pause.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::{QueueName, TaskId};
use common::store::{Claim, ClaimTasks, Take};
use common::task::StateName;

use super::Place;
use super::bench::{Bench, LEASE, queue, worker};

fn ids(claims: &[Claim]) -> Vec<TaskId> {
    claims.iter().map(|claim| claim.task).collect()
}

async fn fill(bench: &Bench, name: &str, count: usize) -> Result<()> {
    let submissions = (0..count).map(|_| bench.task_with(|s| s.queue = queue(name))).collect();
    bench.store.submit(submissions).await?;
    Ok(())
}

fn from(queues: &[&str], max: usize) -> Take {
    Take { worker: worker("w"), queues: queues.iter().map(|q| queue(q)).collect(), max, lease: LEASE }
}

/// Within a queue: priority, then the time since which a task is ready.
pub async fn highest_priority_first_then_oldest(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut expected: BTreeMap<(i32, usize), TaskId> = BTreeMap::new();
    for (n, priority) in [4, 9, 0, 4, 9, 5].into_iter().enumerate() {
        bench.clock.advance(Duration::from_millis(1));
        let receipt = bench.submit(bench.task_with(|s| s.priority = priority)).await?;
        expected.insert((-i32::from(priority), n), receipt.id);
    }
    let expected: Vec<TaskId> = expected.into_values().collect();
    let mut taken = ids(&bench.take(2).await?);
    taken.extend(ids(&bench.take(10).await?));
    ensure!(taken == expected);
    bench.verify().await
}

/// Never more than asked for; nothing where there is nothing.
pub async fn at_most_as_many_as_asked(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(bench.take(5).await?.is_empty());
    fill(&bench, "q", 5).await?;
    ensure!(bench.take(0).await?.is_empty());
    ensure!(bench.take(3).await?.len() == 3);
    ensure!(bench.take(3).await?.len() == 2);
    ensure!(bench.take(3).await?.is_empty());
    bench.verify().await
}

/// Other queues are left alone.
pub async fn only_from_the_queues_named(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for name in ["a", "b", "c"] {
        fill(&bench, name, 2).await?;
    }
    let claims = bench.store.take(from(&["a", "c", "a"], 10)).await?;
    ensure!(claims.len() == 4);
    for claim in claims {
        ensure!(bench.head(claim.task).await?.queue != queue("b"));
    }
    bench.verify().await
}

/// Who names no queue takes from all of them.
pub async fn from_every_queue_when_none_is_named(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for name in ["a", "b", "c"] {
        fill(&bench, name, 2).await?;
    }
    ensure!(bench.store.take(from(&[], 10)).await?.len() == 6);
    bench.verify().await
}

/// A paused queue accepts tasks and gives none, by take or claim, until it is resumed.
pub async fn a_paused_queue_gives_nothing(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let task = bench.submitted().await?;
    bench.store.pause(queue("q"), true).await?;
    bench.store.pause(queue("q"), true).await?;
    ensure!(bench.submit(bench.task()).await?.created);
    ensure!(bench.take(5).await?.is_empty());
    let claim = ClaimTasks { worker: worker("w"), tasks: vec![task], lease: LEASE };
    ensure!(bench.store.claim(claim).await?.is_empty());
    ensure!(bench.store.queues().await?.iter().all(|q| q.paused));
    bench.store.pause(queue("q"), false).await?;
    ensure!(bench.take(5).await?.len() == 2);
    bench.store.pause(queue("empty"), true).await?;
    ensure!(bench.store.queues().await?.iter().any(|q| q.name == queue("empty") && q.paused));
    bench.verify().await
}

async fn taken_by_queue(bench: &Bench, claims: &[Claim]) -> Result<BTreeMap<QueueName, usize>> {
    let mut counts = BTreeMap::new();
    for claim in claims {
        *counts.entry(bench.head(claim.task).await?.queue).or_default() += 1;
    }
    Ok(counts)
}

/// A take that cannot have all takes from each queue the same.
pub async fn queues_take_turns(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for name in ["a", "b", "c"] {
        fill(&bench, name, 20).await?;
    }
    let claims = bench.store.take(from(&["a", "b", "c"], 12)).await?;
    let counts = taken_by_queue(&bench, &claims).await?;
    ensure!(counts.values().all(|count| *count == 4), "{counts:?}");
    bench.verify().await
}

/// Also one by one, and whatever the priorities: a queue waits for its turn, not for the others to be empty.
pub async fn a_rush_in_one_queue_starves_no_other(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let rush = (0..40).map(|_| {
        bench.task_with(|s| {
            s.queue = queue("rush");
            s.priority = 9;
        })
    });
    bench.store.submit(rush.collect()).await?;
    fill(&bench, "calm", 5).await?;
    let mut claims = Vec::new();
    for _ in 0..12 {
        claims.extend(bench.store.take(from(&["rush", "calm"], 1)).await?);
    }
    let counts = taken_by_queue(&bench, &claims).await?;
    ensure!(counts.get(&queue("calm")) == Some(&5), "{counts:?}");
    ensure!(claims.len() == 12, "what one queue does not use, another gets");
    bench.verify().await
}

/// A claim takes those of the named tasks that are ready, and no others.
pub async fn claim_takes_the_named_if_ready(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (ready, running, spare) = (bench.submitted().await?, bench.submitted().await?, bench.submitted().await?);
    let later = bench.now().plus(Duration::from_secs(60));
    let scheduled = bench.submit(bench.task_with(|s| s.run_at = Some(later))).await?.id;
    bench.claimed(running).await?;
    let tasks = vec![running, ready, scheduled, bench.id(), ready];
    let claims = bench.store.claim(ClaimTasks { worker: worker("v"), tasks, lease: LEASE }).await?;
    ensure!(ids(&claims) == [ready]);
    ensure!(bench.state(spare).await? == StateName::Ready);
    bench.verify().await
}

/// Many takers on two stores: each task goes to one of them.
pub async fn two_stores_never_take_the_same_task(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    fill(&bench, "q", 200).await?;
    let mut takers = tokio::task::JoinSet::new();
    for n in 0..10 {
        let store = if n % 2 == 0 { Arc::clone(&bench.store) } else { Arc::clone(&other) };
        let request = bench.request(7);
        takers.spawn(async move {
            let mut taken = Vec::new();
            loop {
                let claims = store.take(request.clone()).await?;
                if claims.is_empty() {
                    return anyhow::Ok(taken);
                }
                taken.extend(claims);
            }
        });
    }
    let (mut tasks, mut tokens, mut count) = (HashSet::new(), HashSet::new(), 0);
    while let Some(taken) = takers.join_next().await {
        for claim in taken?? {
            count += 1;
            tasks.insert(claim.task);
            tokens.insert(claim.token);
        }
    }
    ensure!(count == 200 && tasks.len() == 200 && tokens.len() == 200);
    bench.verify().await
}

/// What a worker needs to go on comes with the claim, the lease's own event included.
pub async fn a_claim_carries_the_whole_journal(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    let events = (0..25).map(|n| super::bench::finished(&format!("s{n}"))).collect();
    bench.append(&mut held, events, common::store::Next::Release { reason: "drain".to_owned() }).await?;
    let claims = bench.take(1).await?;
    ensure!(claims[0].journal == bench.journal(held.task).await?);
    ensure!(claims[0].journal.len() == 1 + 1 + 25 + 1 + 1);
    ensure!(claims[0].expires == bench.now().plus(LEASE));
    ensure!(bench.head(held.task).await?.attempts == 2);
    bench.verify().await
}
