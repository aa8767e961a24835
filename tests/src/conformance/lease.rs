//! Leases and fencing: one writer a task, judged by the store's clock.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::LeaseToken;
use common::store::{AppendError, Next, Renewal};
use common::task::{DeadReason, State, StateName, Wait, WaitOn};
use serde_json::json;

use super::Place;
use super::bench::{Bench, Held, LEASE, NEARLY_LEASE, die, finished, step};

/// One millisecond before its end a lease holds; at its end it is over.
pub async fn a_lease_ends_exactly_at_its_time(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    let mut other = bench.taken().await?;
    bench.clock.advance(NEARLY_LEASE);
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    bench.clock.advance(Duration::from_millis(1));
    let late = bench.append(&mut other, vec![finished("a")], Next::Continue).await;
    ensure!(matches!(late, Err(AppendError::LeaseLost(task)) if task == other.task), "{late:?}");
    ensure!(bench.renew(&held).await? == Renewal::Lost);
    ensure!(bench.state(other.task).await? == StateName::Running, "nothing moves it but the sweep");
    bench.verify().await
}

/// A renewal counts from the time at which it comes, and all of a worker's leases are renewed at once.
pub async fn renewal_extends(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    bench.clock.advance(LEASE / 2);
    let expires = bench.now().plus(LEASE);
    ensure!(bench.renew(&held).await? == Renewal::Renewed { expires, signals: false });
    bench.clock.advance(NEARLY_LEASE);
    ensure!(bench.store.due(10).await?.expired == 0);
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    bench.clock.advance(Duration::from_millis(1));
    ensure!(bench.store.due(10).await?.expired == 1);
    bench.verify().await
}

/// Answers come in the order of the request, each for itself.
pub async fn a_lost_lease_is_not_renewed(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (a, mut b, c) = (bench.taken().await?, bench.taken().await?, bench.taken().await?);
    bench.succeed(&mut b).await?;
    let leases = vec![
        (a.task, a.token),
        (b.task, b.token),
        (bench.id(), a.token),
        (c.task, c.token),
        (a.task, LeaseToken::new([9; 16])),
    ];
    let answers = bench.store.renew(common::store::Renew { leases, lease: LEASE }).await?;
    let held: Vec<bool> = answers.iter().map(|a| matches!(a, Renewal::Renewed { .. })).collect();
    ensure!(held == [true, false, false, true, false], "{answers:?}");
    bench.verify().await
}

/// A worker whose task went to another can do nothing to it (I2).
pub async fn a_zombie_is_refused_everything(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let zombie = bench.taken().await?;
    bench.clock.advance(LEASE);
    bench.store.due(10).await?;
    let mut successor = bench.take_one().await?;
    ensure!(successor.task == zombie.task && successor.token != zombie.token);
    let wait = Wait { on: vec![WaitOn::Timer { step: step("a") }], until: None };
    let attempts = [
        (vec![finished("a")], Next::Continue),
        (Vec::new(), Next::Succeed { output: json!(1) }),
        (Vec::new(), Next::Release { reason: "drain".to_owned() }),
        (Vec::new(), Next::Park(wait)),
        (Vec::new(), Next::Cancel { by: "z".to_owned(), reason: "z".to_owned() }),
        (Vec::new(), die()),
    ];
    let before = bench.head(zombie.task).await?;
    for (events, next) in attempts {
        // Also with the version that would be right.
        let held = Held { version: successor.version, ..zombie.clone() };
        let refused = bench.store.append(bench.request_append(&held, events, next)).await;
        ensure!(matches!(refused, Err(AppendError::LeaseLost(_))), "{refused:?}");
    }
    ensure!(bench.renew(&zombie).await? == Renewal::Lost);
    ensure!(bench.head(zombie.task).await? == before, "nothing was changed");
    bench.succeed(&mut successor).await?;
    bench.verify().await
}

/// A token is not guessed, and a task that nobody holds has none.
pub async fn a_wrong_token_is_refused(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = bench.taken().await?;
    for token in [[0; 16], [255; 16]] {
        let mut wrong = Held { token: LeaseToken::new(token), ..held.clone() };
        let refused = bench.append(&mut wrong, vec![finished("a")], Next::Continue).await;
        ensure!(matches!(refused, Err(AppendError::LeaseLost(_))), "{refused:?}");
    }
    let task = bench.submitted().await?;
    let mut free = Held { task, token: held.token, version: 1 };
    ensure!(matches!(bench.append(&mut free, Vec::new(), Next::Continue).await, Err(AppendError::LeaseLost(_))));
    let mut unknown = Held { task: bench.id(), ..held };
    ensure!(matches!(bench.append(&mut unknown, Vec::new(), Next::Continue).await, Err(AppendError::LeaseLost(_))));
    bench.verify().await
}

/// Whoever is not at the newest version is told so, and nothing is written.
pub async fn a_stale_version_is_a_conflict(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    let mut stale = held.clone();
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    let refused = bench.append(&mut stale, vec![finished("b")], Next::Continue).await;
    ensure!(matches!(refused, Err(AppendError::Conflict { expected: 2, actual: 3, .. })), "{refused:?}");
    stale.version = 99;
    let refused = bench.append(&mut stale, Vec::new(), Next::Succeed { output: json!(1) }).await;
    ensure!(matches!(refused, Err(AppendError::Conflict { expected: 99, actual: 3, .. })), "{refused:?}");
    ensure!(bench.journal(held.task).await?.len() == 3);
    bench.verify().await
}

/// The same append again gets the same answer and writes nothing.
pub async fn a_repeated_append_gets_the_same_answer(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = bench.taken().await?;
    let append = bench.request_append(&held, vec![finished("a"), finished("b")], Next::Continue);
    let first = bench.store.append(append.clone()).await?;
    let again = bench.store.append(append.clone()).await?;
    ensure!(first == again && first.recorded.len() == 2);
    let both = tokio::join!(bench.store.append(append.clone()), bench.store.append(append));
    ensure!(both.0? == first && both.1? == first);
    ensure!(bench.journal(held.task).await?.len() == 4);
    let empty = bench.request_append(&Held { version: 4, ..held }, Vec::new(), Next::Continue);
    ensure!(bench.store.append(empty.clone()).await?.recorded.is_empty());
    ensure!(bench.store.append(empty).await?.recorded.is_empty());
    bench.verify().await
}

/// Also the append that ended the lease.
pub async fn a_repeated_finish_gets_the_same_answer(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = bench.taken().await?;
    let append = bench.request_append(&held, vec![finished("a")], Next::Succeed { output: json!({"x": 1}) });
    let first = bench.store.append(append.clone()).await?;
    let again = bench.store.append(append).await?;
    ensure!(first == again && first.recorded.len() == 2);
    bench.verify().await
}

/// Also when another worker has the task by now; but nothing new is taken from the old one.
pub async fn a_repeated_append_is_answered_after_the_lease_is_gone(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    let append = bench.request_append(&held, vec![finished("a")], Next::Continue);
    let first = bench.store.append(append.clone()).await?;
    held.version += 1;
    bench.clock.advance(LEASE);
    bench.store.due(10).await?;
    let mut successor = bench.take_one().await?;
    ensure!(bench.store.append(append).await? == first);
    let refused = bench.append(&mut held, vec![finished("b")], Next::Continue).await;
    ensure!(matches!(refused, Err(AppendError::LeaseLost(_))), "{refused:?}");
    bench.succeed(&mut successor).await?;
    bench.verify().await
}

/// Events that cannot follow are refused, all of them, and the lease stays.
pub async fn an_illegal_append_changes_nothing(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    let twice = common::journal::Event::Leased { attempt: 7, worker: super::bench::worker("x") };
    let refused = bench.append(&mut held, vec![finished("a"), twice], Next::Continue).await;
    ensure!(matches!(refused, Err(AppendError::Illegal(_))), "{refused:?}");
    let end = common::journal::Event::Succeeded { output: json!(1) };
    let refused = bench.append(&mut held, vec![finished("a"), end], Next::Continue).await;
    ensure!(matches!(refused, Err(AppendError::Illegal(_))), "{refused:?}");
    let nothing = Wait { on: Vec::new(), until: None };
    let refused = bench.append(&mut held, vec![finished("a")], Next::Park(nothing)).await;
    ensure!(matches!(refused, Err(AppendError::Illegal(_))), "{refused:?}");
    ensure!(bench.journal(held.task).await?.len() == 2);
    bench.succeed(&mut held).await?;
    bench.verify().await
}

/// A holder may hand a task back; it is ready at once, for anyone.
pub async fn release_makes_it_ready_again(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    bench.append(&mut held, vec![finished("a")], Next::Release { reason: "drain".to_owned() }).await?;
    ensure!(bench.state(held.task).await? == StateName::Ready);
    ensure!(bench.renew(&held).await? == Renewal::Lost);
    let mut next = bench.take_one().await?;
    ensure!(next.task == held.task && next.token != held.token);
    bench.succeed(&mut next).await?;
    bench.verify().await
}

/// The sweep gives a lost worker's task to the next.
pub async fn an_expired_lease_makes_it_ready_again(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let held = bench.taken().await?;
    bench.clock.advance(NEARLY_LEASE);
    let due = bench.store.due(10).await?;
    ensure!(due.expired == 0 && due.next == Some(bench.now().plus(Duration::from_millis(1))), "{due:?}");
    bench.clock.advance(Duration::from_millis(1));
    ensure!(bench.store.due(10).await?.expired == 1);
    ensure!(bench.store.due(10).await?.expired == 0);
    ensure!(bench.kinds(held.task).await? == ["submitted", "leased", "lease_expired"]);
    ensure!(bench.take_one().await?.task == held.task);
    bench.verify().await
}

/// A task that takes its workers down with it is a dead letter after a few tries.
pub async fn poison_is_found_out(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.barren_attempts = 3).await?;
    let task = bench.submitted().await?;
    for lost in 1..=3 {
        bench.claimed(task).await?;
        bench.clock.advance(LEASE);
        let due = bench.store.due(10).await?;
        ensure!((due.expired, due.poisoned) == (1, usize::from(lost == 3)), "{due:?}");
    }
    let head = bench.head(task).await?;
    ensure!(matches!(head.state, State::Dead { reason: DeadReason::Poison, .. }), "{:?}", head.state);
    ensure!(bench.take(1).await?.is_empty());
    bench.verify().await
}

/// A long task that loses worker after worker but moves on is not poison.
pub async fn progress_is_no_poison(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.barren_attempts = 2).await?;
    let task = bench.submitted().await?;
    for n in 0..5 {
        let mut held = bench.claimed(task).await?;
        bench.append(&mut held, vec![finished(&format!("s{n}"))], Next::Continue).await?;
        bench.clock.advance(LEASE);
        ensure!(bench.store.due(10).await?.poisoned == 0);
    }
    ensure!(bench.state(task).await? == StateName::Ready);
    bench.verify().await
}

/// Neighbours that go down with a poisonous task live on.
pub async fn innocents_are_no_poison(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.barren_attempts = 2).await?;
    let (poison, innocent) = (bench.submitted().await?, bench.submitted().await?);
    for n in 0..2 {
        bench.claimed(poison).await?;
        let mut held = bench.claimed(innocent).await?;
        bench.append(&mut held, vec![finished(&format!("s{n}"))], Next::Continue).await?;
        bench.clock.advance(LEASE);
        bench.store.due(10).await?;
    }
    ensure!(bench.state(poison).await? == StateName::Dead);
    ensure!(bench.state(innocent).await? == StateName::Ready);
    bench.verify().await
}
