//! Hints for a broker, and tasks that come from another store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::TaskId;
use common::store::{Doorbell, Hint, Next, Transcript};
use common::task::StateName;
use suite::conformance::Bench;
use suite::conformance::bench::{finished, key};
use suite::servers::postgres;

use super::{Schema, bench};

/// Keeps what it hears.
#[derive(Debug, Default)]
struct Ear(Mutex<Vec<Hint>>);

impl Doorbell for Ear {
    fn ring(&self, hints: Vec<Hint>) {
        self.0.lock().unwrap().extend(hints);
    }
}

impl Ear {
    fn heard(&self) -> Vec<TaskId> {
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().map(|hint| hint.task).collect()
    }
}

fn ids(hints: &[Hint]) -> Vec<TaskId> {
    hints.iter().map(|hint| hint.task).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_is_kept_until_the_broker_has_it_or_the_task_is_taken() -> Result<()> {
    let ear = Arc::new(Ear::default());
    let doorbell = Arc::clone(&ear);
    let place = Box::new(Schema(postgres::place()));
    let bench = Bench::tuned(place, |options| options.doorbell = Some(doorbell)).await?;
    let (sent, taken, left) = (bench.submitted().await?, bench.submitted().await?, bench.submitted().await?);
    ensure!(ear.heard() == [sent, taken, left]);
    let age = Duration::from_secs(5);
    ensure!(bench.store.unsent(age, 10).await?.is_empty(), "the broker gets some time");
    bench.clock.advance(age);
    let hints = bench.store.unsent(age, 10).await?;
    ensure!(ids(&hints).len() == 3 && hints.iter().all(|hint| hint.version == 1 && hint.priority == 4));
    ensure!(bench.store.unsent(age, 10).await?.is_empty(), "another relay does not get the same");
    let of_sent: Vec<Hint> = hints.into_iter().filter(|hint| hint.task == sent).collect();
    bench.store.sent(&of_sent).await?;
    let mut held = bench.claimed(taken).await?;
    bench.clock.advance(age);
    ensure!(ids(&bench.store.unsent(age, 10).await?) == [left]);
    bench.append(&mut held, vec![finished("a")], Next::Release { reason: "drain".to_owned() }).await?;
    ensure!(ear.heard() == [taken], "it is ready again");
    bench.clock.advance(age);
    let hints = bench.store.unsent(age, 1).await?;
    ensure!(hints.len() == 1, "at most as many as asked");
    // An old confirmation does not remove a newer hint.
    bench.store.sent(&[Hint { version: 1, ..Hint::of(&bench.head(taken).await?) }]).await?;
    bench.clock.advance(age);
    ensure!(bench.store.unsent(age, 10).await?.len() == 2);
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_a_broker_keeps_no_hints() -> Result<()> {
    let bench = bench(&postgres::place()).await?;
    bench.submitted().await?;
    ensure!(bench.store.unsent(Duration::ZERO, 10).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_another_store_arrive_with_their_journals_once() -> Result<()> {
    let (from, to) = (bench(&postgres::place()).await?, bench(&postgres::place()).await?);
    let keyed = from.submit(from.task_with(|s| s.key = Some(key("k")))).await?.id;
    let (mut done, running) = (from.taken().await?, from.taken().await?);
    from.succeed(&mut done).await?;
    let mut tasks = Vec::new();
    for id in [keyed, done.task, running.task] {
        tasks.push(Transcript { id, journal: from.journal(id).await? });
    }
    ensure!(to.store.restore(tasks.clone()).await? == [true, true, true]);
    ensure!(to.store.restore(tasks.clone()).await? == [false, false, false]);
    ensure!(to.journal(done.task).await? == from.journal(done.task).await?);
    ensure!(to.state(running.task).await? == StateName::Ready, "its holder is in another world");
    let again = to.submit(to.task_with(|s| s.key = Some(key("k")))).await?;
    ensure!(again.id == keyed && !again.created);
    to.verify().await
}
