//! Hints for a broker: rung after the commit, and kept until somebody says that the broker has them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::id::TaskId;
use common::journal::Event;
use common::store::{Hint, Next};
use common::task::{Parent, Signal, StateName, Wait, WaitOn};

use super::Place;
use super::bench::{Bench, Held, LEASE, die, key, queue, step};
use crate::fixtures::ear::Ear;

const AGE: Duration = Duration::from_secs(5);
const NEARLY: Duration = Duration::from_millis(4_999);
const MOMENT: Duration = Duration::from_millis(1);

/// A store with a broker.
async fn open(place: Place) -> Result<(Bench, Arc<Ear>)> {
    let ear = Arc::new(Ear::default());
    let doorbell = Arc::clone(&ear);
    Ok((Bench::tuned(place, |options| options.doorbell = Some(doorbell)).await?, ear))
}

fn tasks(hints: &[Hint]) -> Vec<TaskId> {
    let mut tasks: Vec<TaskId> = hints.iter().map(|hint| hint.task).collect();
    tasks.sort_unstable();
    tasks
}

/// The one hint that was heard is of this task and names the event that made it ready.
async fn ensure_heard(bench: &Bench, ear: &Ear, task: TaskId, kind: &str) -> Result<()> {
    let heard = ear.take();
    ensure!(tasks(&heard) == [task], "heard {heard:?}, not {task}");
    let journal = bench.journal(task).await?;
    let made = journal.iter().find(|r| r.seq == heard[0].version).context("the hint names an event")?;
    ensure!(made.event.kind() == kind, "{} made it ready, not {kind}", made.event.kind());
    ensure!(bench.state(task).await? == StateName::Ready);
    Ok(())
}

async fn parked(bench: &Bench) -> Result<Held> {
    let mut held = bench.taken().await?;
    let wait = Wait { on: vec![WaitOn::Timer { step: step("s") }], until: Some(bench.now().plus(AGE)) };
    bench.append(&mut held, Vec::new(), Next::Park(wait)).await?;
    Ok(held)
}

/// A task that is ready at once is told with its queue and priority; one for later, or one that was there, is not.
pub async fn a_submit_rings(place: Place) -> Result<()> {
    let (bench, ear) = open(place).await?;
    let ready = bench.task_with(|s| {
        s.priority = 7;
        s.queue = queue("special");
        s.key = Some(key("k"));
    });
    let later = bench.task_with(|s| s.run_at = Some(bench.now().plus(AGE)));
    bench.store.submit(vec![ready.clone(), later]).await?;
    let heard = ear.take();
    ensure!(heard == [Hint { task: ready.id(), version: 1, queue: queue("special"), priority: 7 }], "{heard:?}");
    bench.store.submit(vec![ready]).await?;
    ensure!(ear.take().is_empty(), "it was there before");
    Ok(())
}

/// A refused call makes no noise.
pub async fn what_is_refused_is_silent(place: Place) -> Result<()> {
    let (bench, ear) = open(place).await?;
    let orphan = bench.task_with(|s| s.parent = Some(Parent { task: bench.id(), step: step("sub"), depth: 1 }));
    ensure!(bench.store.submit(vec![bench.task(), orphan]).await.is_err());
    ensure!(ear.take().is_empty() && bench.store.unsent(Duration::ZERO, 10).await?.is_empty());
    Ok(())
}

/// Whatever makes a task ready rings: timers, lost leases, handing back, people, children.
pub async fn all_that_makes_ready_rings(place: Place) -> Result<()> {
    let (bench, ear) = open(place).await?;
    let held = parked(&bench).await?;
    ear.take();
    bench.store.signal(held.task, Signal::Wake).await?;
    ensure_heard(&bench, &ear, held.task, "woken").await?;

    let mut held = bench.claimed(held.task).await?;
    bench.append(&mut held, Vec::new(), Next::Release { reason: "drain".to_owned() }).await?;
    ensure_heard(&bench, &ear, held.task, "released").await?;

    let mut held = bench.claimed(held.task).await?;
    bench.die(&mut held).await?;
    ensure!(ear.take().is_empty());
    bench
        .store
        .signal(
            held.task,
            Signal::Replay {
                by: "ann".to_owned(),
                reset: Vec::new(),
                input: None,
                sealed: common::journal::SealedValues::default(),
            },
        )
        .await?;
    ensure_heard(&bench, &ear, held.task, "replayed").await?;

    let held = bench.claimed(held.task).await?;
    bench.clock.advance(LEASE);
    bench.store.due(10).await?;
    ensure_heard(&bench, &ear, held.task, "lease_expired").await?;
    bench.succeed(&mut bench.claimed(held.task).await?).await?;

    let held = parked(&bench).await?;
    ear.take();
    bench.clock.advance(AGE);
    bench.store.due(10).await?;
    ensure_heard(&bench, &ear, held.task, "woken").await?;

    let mut held = bench.claimed(held.task).await?;
    let parent = Parent { task: held.task, step: step("sub"), depth: 1 };
    let child = bench.submit(bench.task_with(|s| s.parent = Some(parent))).await?.id;
    let wait = Wait { on: vec![WaitOn::Child { task: child }], until: None };
    bench.append(&mut held, vec![Event::ChildSubmitted { step: step("sub"), child }], Next::Park(wait)).await?;
    ear.take();
    bench.succeed(&mut bench.claimed(child).await?).await?;
    ensure_heard(&bench, &ear, held.task, "child_finished").await?;
    bench.verify().await
}

/// What was rung can be had: a hint leads to a claim, in any process.
pub async fn a_hint_leads_to_a_claim(place: Place) -> Result<()> {
    let (bench, ear) = open(place).await?;
    for _ in 0..3 {
        bench.submitted().await?;
    }
    for hint in ear.take() {
        bench.claimed(hint.task).await?;
    }
    bench.verify().await
}

/// A hint of which nobody said that it was sent is given when it is old enough, the oldest first.
pub async fn unsent_ones_are_given_after_their_age(place: Place) -> Result<()> {
    let (bench, ear) = open(place).await?;
    let first = bench.submitted().await?;
    bench.clock.advance(MOMENT);
    let second = bench.submitted().await?;
    bench.clock.advance(NEARLY);
    let given = bench.store.unsent(AGE, 10).await?;
    ensure!(tasks(&given) == [first], "{given:?}");
    ensure!(given == ear.take()[..1], "it is the hint that was rung");
    bench.clock.advance(MOMENT);
    ensure!(tasks(&bench.store.unsent(AGE, 10).await?) == [second]);
    Ok(())
}

/// Several relays share the work: what was given to one is not given again within its age. No call gives more than its limit.
pub async fn unsent_ones_are_not_given_twice_within_their_age(place: Place) -> Result<()> {
    let (bench, _) = open(place).await?;
    let other = bench.another().await?;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(bench.submitted().await?);
    }
    bench.clock.advance(AGE);
    let (a, b) = (bench.store.unsent(AGE, 2).await?, other.unsent(AGE, 10).await?);
    ensure!(a.len() == 2 && b.len() == 3, "{} and {}", a.len(), b.len());
    ensure!(tasks(&[a, b].concat()) == all);
    bench.clock.advance(NEARLY);
    ensure!(bench.store.unsent(AGE, 10).await?.is_empty());
    bench.clock.advance(MOMENT);
    ensure!(bench.store.unsent(AGE, 10).await?.len() == 5, "and then again");
    Ok(())
}

/// What was sent is not kept; but a task that became ready again since is kept anew.
pub async fn sent_ones_are_kept_no_more(place: Place) -> Result<()> {
    let (bench, ear) = open(place).await?;
    let (sent, again) = (bench.submitted().await?, bench.submitted().await?);
    let hints = ear.take();
    let mut held = bench.claimed(again).await?;
    bench.append(&mut held, Vec::new(), Next::Release { reason: "drain".to_owned() }).await?;
    bench.store.sent(&hints).await?;
    bench.store.sent(&hints).await?;
    bench.clock.advance(AGE);
    let given = bench.store.unsent(AGE, 10).await?;
    ensure!(tasks(&given) == [again] && given == ear.take(), "{given:?}, and not {sent}");
    bench.store.sent(&given).await?;
    bench.clock.advance(AGE);
    ensure!(bench.store.unsent(AGE, 10).await?.is_empty());
    Ok(())
}

/// Whoever took a task needs no hint of it, and who is done even less.
pub async fn what_is_not_ready_has_no_hint(place: Place) -> Result<()> {
    let (bench, _) = open(place).await?;
    let held = bench.taken().await?;
    let cancelled = bench.submitted().await?;
    let cancel = Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() };
    bench.store.signal(cancelled, cancel).await?;
    bench.clock.advance(AGE);
    ensure!(bench.store.unsent(AGE, 10).await?.is_empty());
    bench.append(&mut held.clone(), Vec::new(), die()).await?;
    ensure!(bench.store.unsent(AGE, 10).await?.is_empty());
    Ok(())
}

/// They are as durable as the tasks.
pub async fn hints_survive_a_restart(place: Place) -> Result<()> {
    let (bench, _) = open(place).await?;
    let task = bench.submitted().await?;
    let bench = bench.restart().await?;
    bench.clock.advance(AGE);
    ensure!(tasks(&bench.store.unsent(AGE, 10).await?) == [task]);
    Ok(())
}

/// Where there is no broker, nothing is kept for one.
pub async fn without_a_broker_nothing_is_kept(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.submitted().await?;
    bench.clock.advance(AGE);
    ensure!(bench.store.unsent(AGE, 10).await?.is_empty());
    Ok(())
}
