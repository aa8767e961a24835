//! Meters: reserved on all or on none, settled by what was used, never beyond a limit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::clock::Timestamp;
use common::id::{MeterName, ReservationId, TaskId};
use common::span::Span;
use common::store::meter::{LATE_SETTLEMENT, MOST_CHARGES};
use common::store::{
    Charge, Holder, Meter, Reading, Refusal, Reserve, Reserved, Settle, Settled, Store, StoreError, Window,
};
use futures::future::try_join_all;

use super::Place;
use super::bench::{Bench, valid};

const TOTAL: Window = Window::Total;
const MINUTE: Window = Window::Every(Span::from_secs(60));
const PLACES: Window = Window::Places;
/// How long reservations of the cases are held.
const HELD: Duration = Duration::from_secs(600);
const NEARLY_HELD: Duration = Duration::from_millis(599_999);
const MOMENT: Duration = Duration::from_millis(1);

fn meter(name: &str, window: Window) -> Meter {
    Meter { name: valid(MeterName::new(name)), window }
}

fn id(name: &str) -> ReservationId {
    valid(ReservationId::new(name))
}

/// The same task for the same name: who waits for a place is known by its task.
fn task(name: &str) -> TaskId {
    let mut random = [0; 10];
    for (place, byte) in random.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    TaskId::new(Timestamp::from_millis(1_800_000_000_000), random)
}

fn charge(name: &str, window: Window, limit: u64, amount: u64) -> Charge {
    Charge { meter: meter(name, window), limit, amount }
}

async fn reserve(store: &dyn Store, name: &str, charges: Vec<Charge>) -> Result<Reserved> {
    let reserve = Reserve { id: id(name), task: task(name), charges, lapses: HELD };
    Ok(store.reserve(reserve).await?)
}

async fn granted(bench: &Bench, name: &str, charge: Charge) -> Result<bool> {
    Ok(matches!(reserve(&*bench.store, name, vec![charge]).await?, Reserved::Granted(_)))
}

async fn refused(bench: &Bench, name: &str, charges: Vec<Charge>) -> Result<Refusal> {
    match reserve(&*bench.store, name, charges).await? {
        Reserved::Refused(refusal) => Ok(refusal),
        Reserved::Granted(usage) => anyhow::bail!("granted: {usage:?}"),
    }
}

async fn settle(bench: &Bench, name: &str, spent: Vec<(Meter, u64)>) -> Result<bool> {
    Ok(bench.store.settle(Settle { id: id(name), spent }).await?.found)
}

async fn reading(bench: &Bench, name: &str) -> Result<Option<Reading>> {
    let readings = bench.store.meters(name, 10).await?;
    Ok(readings.into_iter().find(|reading| reading.meter.name.as_str() == name))
}

async fn used(bench: &Bench, name: &str) -> Result<u64> {
    Ok(reading(bench, name).await?.map_or(0, |reading| reading.used))
}

/// What is not used is given back; what is used beyond is added, also beyond the limit.
pub async fn what_was_used_is_what_counts(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let answer = reserve(&*bench.store, "a", vec![charge("t", TOTAL, 100, 60)]).await?;
    let Reserved::Granted(usage) = answer else { anyhow::bail!("refused: {answer:?}") };
    ensure!(usage.len() == 1 && usage.first().is_some_and(|usage| (usage.used, usage.limit) == (60, 100)));
    let refusal = refused(&bench, "b", vec![charge("t", TOTAL, 100, 41)]).await?;
    ensure!(refusal.usage.meter == meter("t", TOTAL), "{refusal:?}");
    ensure!((refusal.usage.used, refusal.usage.limit, refusal.until) == (60, 100, None), "{refusal:?}");
    ensure!(settle(&bench, "a", vec![(meter("t", TOTAL), 10)]).await?);
    ensure!(used(&bench, "t").await? == 10);
    ensure!(granted(&bench, "b", charge("t", TOTAL, 100, 90)).await?);
    ensure!(settle(&bench, "b", vec![(meter("t", TOTAL), 500)]).await?);
    ensure!(used(&bench, "t").await? == 510);
    ensure!(!granted(&bench, "c", charge("t", TOTAL, 100, 1)).await?);
    ensure!(granted(&bench, "c", charge("t", TOTAL, 511, 1)).await?, "an operator raised it");
    Ok(())
}

/// An answer that was lost is asked for again: also by another process, and after the settlement.
pub async fn the_same_id_charges_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    let charges = || vec![charge("t", TOTAL, 100, 60), charge("p", PLACES, 1, 1)];
    for store in [&bench.store, &other, &bench.store] {
        ensure!(matches!(reserve(&**store, "a", charges()).await?, Reserved::Granted(_)));
        ensure!(used(&bench, "t").await? == 60 && used(&bench, "p").await? == 1);
    }
    let racing = (0..20).map(|turn| {
        let store = if turn % 2 == 0 { &bench.store } else { &other };
        let charges = vec![charge("r", TOTAL, 100, 60)];
        async move { reserve(&**store, "racing", charges).await }
    });
    let answers = try_join_all(racing).await?;
    ensure!(answers.iter().all(|answer| matches!(answer, Reserved::Granted(_))), "{answers:?}");
    ensure!(used(&bench, "r").await? == 60);
    ensure!(settle(&bench, "a", vec![(meter("t", TOTAL), 10)]).await?);
    ensure!(matches!(reserve(&*other, "a", charges()).await?, Reserved::Granted(_)));
    ensure!(used(&bench, "t").await? == 10 && used(&bench, "p").await? == 0);
    Ok(())
}

/// The first word on what was used counts; what nobody reserved is not found.
pub async fn settled_twice_counts_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(granted(&bench, "a", charge("t", TOTAL, 100, 60)).await?);
    for spent in [10, 10, 50] {
        ensure!(settle(&bench, "a", vec![(meter("t", TOTAL), spent)]).await?);
        ensure!(used(&bench, "t").await? == 10);
    }
    ensure!(!settle(&bench, "b", vec![(meter("t", TOTAL), 10)]).await?);
    ensure!(granted(&bench, "c", charge("t", TOTAL, 100, 60)).await?);
    ensure!(settle(&bench, "c", Vec::new()).await?, "what is not named was used as reserved");
    ensure!(used(&bench, "t").await? == 70);
    Ok(())
}

/// One meter that is full refuses all of a reservation, and the longest wait is told.
pub async fn all_meters_or_none(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(granted(&bench, "a", charge("full", TOTAL, 10, 10)).await?);
    let both = || vec![charge("free", MINUTE, 10, 1), charge("full", TOTAL, 10, 1)];
    for _ in 0..2 {
        let refusal = refused(&bench, "b", both()).await?;
        ensure!(refusal.usage.meter == meter("full", TOTAL) && refusal.until.is_none(), "{refusal:?}");
        ensure!(used(&bench, "free").await? == 0);
    }
    ensure!(settle(&bench, "a", vec![(meter("full", TOTAL), 9)]).await?);
    ensure!(matches!(reserve(&*bench.store, "b", both()).await?, Reserved::Granted(_)));
    ensure!(used(&bench, "free").await? == 1 && used(&bench, "full").await? == 10);
    Ok(())
}

/// Fifty at once, of two processes, for what is enough for twenty.
pub async fn fifty_racing_never_overspend(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    let racing = (0..50).map(|number| {
        let store = Arc::clone(if number % 2 == 0 { &bench.store } else { &other });
        // In both orders, so that two that lock one after the other would meet.
        let mut charges = vec![charge("a", TOTAL, 200, 10), charge("b", MINUTE, 1_000, 10)];
        if number % 3 == 0 {
            charges.reverse();
        }
        let reserve = Reserve { id: id(&format!("r{number}")), task: bench.id(), charges, lapses: HELD };
        async move {
            let answer = store.reserve(reserve).await?;
            if matches!(answer, Reserved::Refused(_)) {
                return Ok::<_, anyhow::Error>(0);
            }
            // A third is given back at once, while others race on.
            if number % 3 == 1 {
                let spent = vec![(meter("a", TOTAL), 0), (meter("b", MINUTE), 0)];
                ensure!(store.settle(Settle { id: id(&format!("r{number}")), spent }).await?.found);
                return Ok(0);
            }
            Ok(1)
        }
    });
    let kept: u64 = try_join_all(racing).await?.into_iter().sum();
    ensure!(used(&bench, "a").await? == kept * 10, "{kept}");
    ensure!(used(&bench, "b").await? == kept * 10, "{kept}");
    ensure!(kept <= 20, "{kept} of 20 were granted and kept");
    // What is left is left to be had, to the last.
    for number in kept..20 {
        ensure!(granted(&bench, &format!("more{number}"), charge("a", TOTAL, 200, 10)).await?);
    }
    ensure!(!granted(&bench, "one too many", charge("a", TOTAL, 200, 10)).await?);
    Ok(())
}

/// At its full multiple, and not a moment before; what was charged before the turn is not given back after it.
pub async fn a_window_turns_in_time(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    // The clock of the cases begins at a full minute.
    let turn = bench.now().plus(Duration::from_secs(60));
    bench.clock.advance(Duration::from_secs(30));
    ensure!(granted(&bench, "a", charge("m", MINUTE, 10, 8)).await?);
    bench.clock.advance(Duration::from_millis(29_999));
    let refusal = refused(&bench, "b", vec![charge("m", MINUTE, 10, 8)]).await?;
    ensure!(refusal.until == Some(turn), "{refusal:?}");
    ensure!(refused(&bench, "b", vec![charge("m", MINUTE, 10, 11)]).await?.until.is_none(), "it never fits");
    bench.clock.advance(MOMENT);
    ensure!(used(&bench, "m").await? == 0);
    ensure!(granted(&bench, "b", charge("m", MINUTE, 10, 8)).await?);
    ensure!(settle(&bench, "a", vec![(meter("m", MINUTE), 0)]).await?);
    ensure!(used(&bench, "m").await? == 8);
    Ok(())
}

/// A day and a total of the same name are two meters.
pub async fn windows_of_one_name_are_counted_apart(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for (name, total) in [("a", 5), ("b", 10)] {
        let both = vec![charge("usd", MINUTE, 5, 5), charge("usd", TOTAL, 10, 5)];
        ensure!(matches!(reserve(&*bench.store, name, both).await?, Reserved::Granted(_)));
        let readings = bench.store.meters("usd", 10).await?;
        let figures: Vec<_> = readings.iter().map(|reading| (reading.meter.window, reading.used)).collect();
        ensure!(figures == [(MINUTE, 5), (TOTAL, total)], "{readings:?}");
        bench.clock.advance(Duration::from_secs(60));
    }
    let both = vec![charge("usd", MINUTE, 5, 5), charge("usd", TOTAL, 10, 5)];
    ensure!(refused(&bench, "c", both).await?.usage.meter == meter("usd", TOTAL));
    Ok(())
}

/// A place is free when its holder settles, or says nothing for too long; asking again keeps it.
pub async fn places_come_back(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let one = || charge("p", PLACES, 1, 1);
    ensure!(granted(&bench, "a", one()).await? && !granted(&bench, "b", one()).await?);
    ensure!(settle(&bench, "a", Vec::new()).await?);
    ensure!(granted(&bench, "b", one()).await?);
    bench.clock.advance(HELD / 2);
    ensure!(granted(&bench, "b", one()).await?);
    bench.clock.advance(NEARLY_HELD);
    bench.store.due(100).await?;
    ensure!(!granted(&bench, "c", one()).await?);
    bench.clock.advance(MOMENT);
    let due = bench.store.due(100).await?;
    ensure!(due.lapsed >= 1, "{due:?}");
    ensure!(granted(&bench, "c", one()).await?);
    ensure!(!granted(&bench, "b", one()).await?, "its place has gone to another");
    Ok(())
}

/// Without a word, the worst case counts; a late word still corrects it.
pub async fn what_lapses_counts_its_worst_case(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for name in ["a", "b"] {
        ensure!(granted(&bench, name, charge("t", TOTAL, 100, 40)).await?);
    }
    bench.clock.advance(HELD);
    ensure!(bench.store.due(100).await?.lapsed == 2);
    ensure!(used(&bench, "t").await? == 80);
    ensure!(settle(&bench, "a", vec![(meter("t", TOTAL), 5)]).await?);
    ensure!(used(&bench, "t").await? == 45);
    ensure!(granted(&bench, "b", charge("t", TOTAL, 100, 40)).await?, "another try");
    ensure!(used(&bench, "t").await? == 85);
    bench.clock.advance(HELD + LATE_SETTLEMENT);
    bench.store.due(100).await?;
    bench.store.due(100).await?;
    ensure!(!settle(&bench, "a", vec![(meter("t", TOTAL), 0)]).await?, "it is forgotten");
    ensure!(used(&bench, "t").await? == 85);
    Ok(())
}

/// Nothing is granted before the time that somebody outside has named, and the longest counts.
pub async fn a_meter_is_held_back(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let until = bench.now().plus(Duration::from_secs(90));
    for seconds in [30, 90, 60] {
        bench.store.hold_back(&meter("m", MINUTE), bench.now().plus(Duration::from_secs(seconds))).await?;
    }
    ensure!(reading(&bench, "m").await?.context("it is known")?.held_until == Some(until));
    for wait in [Duration::ZERO, Duration::from_secs(61), Duration::from_millis(28_999)] {
        bench.clock.advance(wait);
        bench.store.due(100).await?;
        ensure!(refused(&bench, "a", vec![charge("m", MINUTE, 10, 1)]).await?.until == Some(until));
    }
    ensure!(granted(&bench, "b", charge("other", MINUTE, 10, 1)).await?);
    bench.clock.advance(MOMENT);
    ensure!(granted(&bench, "a", charge("m", MINUTE, 10, 1)).await?);
    Ok(())
}

/// What has nothing to say any more goes, as much at once as was asked for.
pub async fn what_is_over_goes(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let idle = Window::Idle(Span::from_secs(60));
    for number in 0..5 {
        let charges = vec![charge(&format!("m{number}"), MINUTE, 10, 1), charge(&format!("i{number}"), idle, 10, 1)];
        ensure!(matches!(reserve(&*bench.store, &format!("r{number}"), charges).await?, Reserved::Granted(_)));
    }
    ensure!(granted(&bench, "stays", charge("t", TOTAL, 10, 1)).await?);
    ensure!(bench.store.meters("", 100).await?.len() == 11);
    bench.clock.advance(HELD);
    let first = bench.store.due(3).await?;
    ensure!((1..=6).contains(&first.lapsed), "{first:?}");
    ensure!(first.next.is_some_and(|next| next <= bench.now()), "{first:?}");
    let mut lapsed = first.lapsed;
    for _ in 0..20 {
        lapsed += bench.store.due(3).await?.lapsed;
    }
    ensure!(lapsed == 5 + 5 + 6, "{lapsed}");
    let left = bench.store.meters("", 100).await?;
    ensure!(left.len() == 1 && left.first().is_some_and(|reading| reading.used == 1), "{left:?}");
    let due = bench.store.due(100).await?;
    ensure!(due.lapsed == 0 && due.next == Some(bench.now().plus(LATE_SETTLEMENT)), "{due:?}");
    bench.clock.advance(LATE_SETTLEMENT);
    ensure!(bench.store.due(100).await?.lapsed == 6);
    let due = bench.store.due(100).await?;
    ensure!(due.lapsed == 0 && due.next.is_none(), "{due:?}");
    Ok(())
}

/// By name, those that begin alike, with the limit that was named last.
pub async fn readings_are_by_name(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    for name in ["usd b", "usd a", "tokens a", "usd ä", "usd"] {
        ensure!(granted(&bench, &format!("r {name}"), charge(name, TOTAL, 9, 1)).await?);
    }
    ensure!(granted(&bench, "again", charge("usd a", TOTAL, 7, 2)).await?);
    let names = |readings: &[Reading]| readings.iter().map(|r| r.meter.name.to_string()).collect::<Vec<_>>();
    let readings = bench.store.meters("usd", 100).await?;
    ensure!(names(&readings) == ["usd", "usd a", "usd b", "usd ä"], "{readings:?}");
    ensure!(names(&bench.store.meters("usd ", 2).await?) == ["usd a", "usd b"]);
    ensure!(bench.store.meters("z", 100).await?.is_empty());
    ensure!(bench.store.meters("", 100).await?.len() == 5);
    let a = reading(&bench, "usd a").await?.context("it is there")?;
    ensure!((a.used, a.limit, a.held_until) == (3, Some(7), None), "{a:?}");
    ensure!(a.since == bench.now(), "{a:?}");
    Ok(())
}

/// What no store can count is refused and changes nothing.
pub async fn impossible_reservations_are_refused(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let many = (0..=MOST_CHARGES).map(|number| charge(&format!("m{number}"), TOTAL, 10, 1)).collect();
    let twice = vec![charge("m", TOTAL, 10, 1), charge("m", TOTAL, 10, 1)];
    for charges in [Vec::new(), many, twice, vec![charge("m", TOTAL, 10, u64::MAX)]] {
        let reserve = Reserve { id: id("a"), task: bench.id(), charges, lapses: HELD };
        let answer = bench.store.reserve(reserve).await;
        ensure!(matches!(answer, Err(StoreError::Refused(_))), "{answer:?}");
    }
    ensure!(bench.store.meters("", 100).await?.is_empty());
    Ok(())
}

/// What was counted is there when the process is started again.
pub async fn meters_survive_a_restart(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(granted(&bench, "a", charge("t", TOTAL, 100, 60)).await?);
    let until = Timestamp::from_millis(bench.now().as_millis() + 5_000);
    bench.store.hold_back(&meter("m", MINUTE), until).await?;
    let before: BTreeSet<String> = bench.store.meters("", 10).await?.iter().map(|r| format!("{r:?}")).collect();
    let bench = bench.restart().await?;
    let after: BTreeSet<String> = bench.store.meters("", 10).await?.iter().map(|r| format!("{r:?}")).collect();
    ensure!(before == after && before.len() == 2, "{before:?} {after:?}");
    ensure!(granted(&bench, "a", charge("t", TOTAL, 100, 60)).await?);
    ensure!(used(&bench, "t").await? == 60);
    Ok(())
}

async fn wants(bench: &Bench, task: TaskId, name: &str) -> Result<Reserved> {
    let charges = vec![charge("p", PLACES, 1, 1)];
    Ok(bench.store.reserve(Reserve { id: id(name), task, charges, lapses: HELD }).await?)
}

/// Who waits for a place stands in a line, is called when it is its turn, and is not overtaken.
pub async fn places_are_given_in_line(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (first, second, third, late) = (bench.id(), bench.id(), bench.id(), bench.id());
    ensure!(matches!(wants(&bench, first, "1").await?, Reserved::Granted(_)));
    for (task, name) in [(second, "2"), (third, "3"), (second, "2")] {
        let Reserved::Refused(refusal) = wants(&bench, task, name).await? else { anyhow::bail!("{name} was granted") };
        ensure!(refusal.until.is_none() && refusal.called.is_empty(), "{refusal:?}");
        ensure!(refusal.holders == [Holder { id: id("1"), task: first }], "{refusal:?}");
    }
    let settled = bench.store.settle(Settle { id: id("1"), spent: Vec::new() }).await?;
    ensure!(settled == Settled { found: true, called: vec![second] }, "{settled:?}");
    let again = bench.store.settle(Settle { id: id("1"), spent: Vec::new() }).await?;
    ensure!(again == Settled { found: true, called: Vec::new() }, "called once: {again:?}");
    for (task, name) in [(late, "4"), (third, "3")] {
        ensure!(matches!(wants(&bench, task, name).await?, Reserved::Refused(_)), "{name} went before");
    }
    let bench = bench.restart().await?;
    ensure!(matches!(wants(&bench, second, "2").await?, Reserved::Granted(_)), "it was called");
    let settled = bench.store.settle(Settle { id: id("2"), spent: Vec::new() }).await?;
    ensure!(settled.called == [third], "{settled:?}");
    // Who was called and does not come loses its turn; the next to ask has the others called.
    bench.clock.advance(Duration::from_secs(31));
    ensure!(matches!(wants(&bench, late, "4").await?, Reserved::Granted(_)), "the line moves on");
    Ok(())
}

/// Half and four fifths of a limit are news to the one who passes them, once in a window.
pub async fn a_level_is_news_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let passed = async |name: &str, amount, limit| -> Result<Option<u8>> {
        match reserve(&*bench.store, name, vec![charge("d", MINUTE, limit, amount)]).await? {
            Reserved::Granted(usage) => Ok(usage.first().and_then(|usage| usage.passed)),
            Reserved::Refused(refusal) => anyhow::bail!("refused: {refusal:?}"),
        }
    };
    ensure!(passed("a", 49, 100).await?.is_none());
    ensure!(passed("b", 1, 100).await? == Some(50));
    ensure!(settle(&bench, "b", vec![(meter("d", MINUTE), 0)]).await?);
    ensure!(passed("c", 5, 100).await?.is_none(), "it was news before");
    ensure!(passed("d", 46, 100).await? == Some(80));
    ensure!(passed("e", 0, 100).await?.is_none());
    ensure!(passed("f", 0, 1_000).await?.is_none(), "raised");
    ensure!(passed("g", 400, 1_000).await? == Some(50), "of the new limit");
    bench.clock.advance(Duration::from_secs(60));
    ensure!(passed("h", 90, 100).await? == Some(80), "a new window");
    Ok(())
}
