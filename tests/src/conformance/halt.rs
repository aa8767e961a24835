//! Halts: begun once, lifted once, ended once; and the tasks that wait for one.

use anyhow::{Context, Result, ensure};
use common::clock::Timestamp;
use common::id::PipelineName;
use common::store::{Halt, HaltChange, HaltState, Next, SignalError, Signalled, Store};
use common::task::{Signal, StateName, Wait, WaitOn};
use futures::future::try_join_all;

use super::Place;
use super::bench::{Bench, pipeline};

fn begin(pipeline: Option<PipelineName>, by: &str) -> HaltChange {
    HaltChange::Begin { pipeline, by: by.to_owned(), reason: "it spends too much".to_owned() }
}

fn lift(pipeline: Option<PipelineName>) -> HaltChange {
    HaltChange::Lift { pipeline, by: "b".to_owned() }
}

const fn end(pipeline: Option<PipelineName>, lifted_at: Timestamp) -> HaltChange {
    HaltChange::End { pipeline, lifted_at }
}

async fn change(store: &dyn Store, change: HaltChange) -> Result<Option<Halt>> {
    Ok(store.change_halt(change).await?)
}

/// Who, when and why are kept, and every process sees them.
pub async fn a_halt_is_seen_by_all(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    ensure!(other.halts().await?.is_empty());
    let p = Some(pipeline("p"));
    let of_p = change(&*bench.store, begin(p.clone(), "a")).await?.context("it begins")?;
    ensure!(of_p.at == bench.now() && of_p.by == "a" && of_p.reason == "it spends too much", "{of_p:?}");
    let of_all = change(&*other, begin(None, "ä \"b\"")).await?.context("it begins")?;
    ensure!(other.halts().await? == [of_all.clone(), of_p.clone()]);
    bench.clock.advance(std::time::Duration::from_secs(1));
    let again = change(&*other, begin(p.clone(), "z")).await?;
    ensure!(again.as_ref() == Some(&of_p), "the first one says who and when: {again:?}");
    let bench = bench.restart().await?;
    ensure!(bench.store.halts().await? == [of_all, of_p]);
    Ok(())
}

/// Each by itself, and in order: it is lifted, what waits is woken, it is over.
pub async fn a_halt_is_lifted_and_ends(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (store, p) = (&*bench.store, Some(pipeline("p")));
    ensure!(change(store, lift(None)).await?.is_none(), "there is none");
    change(store, begin(None, "a")).await?;
    change(store, begin(p.clone(), "a")).await?;
    ensure!(change(store, end(None, bench.now())).await?.is_none(), "it is in force");
    bench.clock.advance(std::time::Duration::from_secs(1));
    let lifted_at = bench.now();
    let lifted = change(store, lift(None)).await?.context("it was in force")?;
    ensure!(lifted.state == HaltState::Lifting { at: lifted_at, by: "b".to_owned() }, "{lifted:?}");
    bench.clock.advance(std::time::Duration::from_secs(1));
    ensure!(change(store, lift(None)).await? == Some(lifted), "its answer was lost");
    ensure!(store.halts().await?.iter().filter(|halt| halt.is_in_force()).count() == 1);
    ensure!(change(store, end(None, bench.now())).await?.is_none(), "that was another one");
    let over = change(store, end(None, lifted_at)).await?.context("it was lifted then")?;
    ensure!(over.state == HaltState::Over { at: lifted_at, by: "b".to_owned() }, "{over:?}");
    ensure!(change(store, lift(None)).await?.is_none());
    ensure!(change(store, begin(None, "c")).await?.is_some_and(|halt| halt.is_in_force() && halt.by == "c"));
    ensure!(change(store, end(None, lifted_at)).await?.is_none(), "it began anew");
    Ok(())
}

/// Of many who halt at once, one is the first, for all of them.
pub async fn a_halt_begins_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    let racing = (0..10).map(|number| {
        let store = if number % 2 == 0 { &bench.store } else { &other };
        async move { change(&**store, begin(None, &format!("person {number}"))).await }
    });
    let answers = try_join_all(racing).await?;
    let kept = bench.store.halts().await?;
    ensure!(kept.len() == 1 && answers.iter().all(|answer| answer.as_ref() == kept.first()), "{answers:?} {kept:?}");
    Ok(())
}

/// A task that waits for a halt is woken by its end, and by nothing that is meant for others.
pub async fn a_task_waits_for_the_end_of_a_halt(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    ensure!(matches!(bench.store.signal(held.task, Signal::Unhalt).await, Err(SignalError::Refused(_))), "it runs");
    bench.append(&mut held, Vec::new(), Next::Park(Wait { on: vec![WaitOn::Halt], until: None })).await?;
    ensure!(bench.take(1).await?.is_empty());
    ensure!(bench.store.signal(held.task, Signal::Unhalt).await? == Signalled::Applied(StateName::Ready));
    ensure!(matches!(bench.store.signal(held.task, Signal::Unhalt).await, Err(SignalError::Refused(_))), "it is ready");
    let mut held = bench.take_one().await?;
    let wait = Wait { on: vec![WaitOn::Timer { step: super::bench::step("s") }], until: None };
    bench.append(&mut held, Vec::new(), Next::Park(wait)).await?;
    ensure!(matches!(bench.store.signal(held.task, Signal::Unhalt).await, Err(SignalError::Refused(_))), "a timer");
    bench.verify().await
}
