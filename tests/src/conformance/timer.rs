//! Timers: schedules and waits, by the store's clock.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::journal::Event;
use common::store::{Next, SignalError, Signalled};
use common::task::{Signal, StateName, Wait, WaitOn};

use super::Place;
use super::bench::{Bench, Held, step};

const MINUTE: Duration = Duration::from_secs(60);
const NEARLY_MINUTE: Duration = Duration::from_millis(59_999);
const MOMENT: Duration = Duration::from_millis(1);

/// Parks a task until so much later.
async fn parked(bench: &Bench, wait: Option<Duration>) -> Result<Held> {
    let mut held = bench.taken().await?;
    let until = wait.map(|wait| bench.now().plus(wait));
    let wait = Wait { on: vec![WaitOn::Timer { step: step("pause") }], until };
    let events = vec![Event::SleepStarted { step: step("pause"), until: until.unwrap_or(bench.now()) }];
    bench.append(&mut held, events, Next::Park(wait)).await?;
    Ok(held)
}

/// Not a moment before, and not at all by taking.
pub async fn a_scheduled_task_becomes_ready_in_time(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let at = bench.now().plus(MINUTE);
    let receipt = bench.submit(bench.task_with(|s| s.run_at = Some(at))).await?;
    ensure!(receipt.state == StateName::Scheduled);
    let past = bench.submit(bench.task_with(|s| s.run_at = Some(bench.now()))).await?;
    ensure!(past.state == StateName::Ready, "a time that has come is no schedule");
    bench.clock.advance(NEARLY_MINUTE);
    let due = bench.store.due(10).await?;
    ensure!(due.woken == 0 && due.next == Some(at));
    ensure!(bench.take(5).await?.len() == 1);
    bench.clock.advance(MOMENT);
    ensure!(bench.store.due(10).await?.woken == 1);
    ensure!(bench.take_one().await?.task == receipt.id);
    bench.verify().await
}

/// A waiting task holds no lease, and goes on when its time has come.
pub async fn a_wait_ends_in_time(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = parked(&bench, Some(MINUTE)).await?;
    ensure!(bench.state(held.task).await? == StateName::Waiting);
    ensure!(bench.renew(&held).await? == common::store::Renewal::Lost);
    ensure!(bench.take(1).await?.is_empty());
    bench.clock.advance(MINUTE);
    ensure!(bench.store.due(10).await?.woken == 1);
    ensure!(bench.kinds(held.task).await?.last() == Some(&"woken"));
    let mut again = bench.take_one().await?;
    bench.succeed(&mut again).await?;
    bench.verify().await
}

/// A person may end a wait or a schedule early, but only these.
pub async fn wake_ends_a_wait_early(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = parked(&bench, Some(MINUTE)).await?;
    let at = bench.now().plus(MINUTE);
    let scheduled = bench.submit(bench.task_with(|s| s.run_at = Some(at))).await?.id;
    for task in [held.task, scheduled] {
        ensure!(bench.store.signal(task, Signal::Wake).await? == Signalled::Applied(StateName::Ready));
        let again = bench.store.signal(task, Signal::Wake).await;
        ensure!(matches!(again, Err(SignalError::Refused(_))), "{again:?}");
    }
    bench.clock.advance(MINUTE);
    ensure!(bench.store.due(10).await?.woken == 0, "the timers are gone");
    ensure!(bench.take(5).await?.len() == 2);
    bench.verify().await
}

/// A sweep does as much as it is told, the earliest first, and says when to come again.
pub async fn due_is_limited_and_says_what_comes_next(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(bench.store.due(10).await?.next.is_none());
    let mut ids = Vec::new();
    for seconds in [3, 1, 2, 5, 4] {
        let at = bench.now().plus(Duration::from_secs(seconds));
        ids.push((seconds, bench.submit(bench.task_with(|s| s.run_at = Some(at))).await?.id));
    }
    let start = bench.now();
    ensure!(bench.store.due(10).await?.next == Some(start.plus(Duration::from_secs(1))));
    bench.clock.advance(Duration::from_secs(4));
    let due = bench.store.due(3).await?;
    ensure!(due.woken == 3 && due.next.is_some_and(|next| next <= bench.now()), "{due:?}");
    for (seconds, id) in &ids {
        let expected = if *seconds <= 3 { StateName::Ready } else { StateName::Scheduled };
        ensure!(bench.state(*id).await? == expected, "{seconds}");
    }
    let due = bench.store.due(3).await?;
    ensure!(due.woken == 1 && due.next == Some(start.plus(Duration::from_secs(5))), "{due:?}");
    bench.verify().await
}

/// What waits for a person alone is no business of the sweep.
pub async fn a_wait_without_end_is_never_due(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = parked(&bench, None).await?;
    bench.clock.advance(Duration::from_secs(365 * 24 * 3600));
    let due = bench.store.due(10).await?;
    ensure!(due.woken == 0 && due.next.is_none(), "{due:?}");
    ensure!(bench.state(held.task).await? == StateName::Waiting);
    bench.verify().await
}
