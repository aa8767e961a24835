//! Chaos on real servers: schedulers and workers as processes, stores and a broker
//! that are killed, stopped, reset and stalled while a load of tasks with effects
//! goes through, and checks of what is left when the weather has cleared.
//!
//! A scenario is a store, with or without a broker, and the faults that strike it
//! again and again (`weather`). A load generator submits over HTTP with
//! idempotency keys and repeats what was not answered (`load`); the tasks act on
//! an outside world that counts (`world`); a person decides approvals and says what
//! became of calls of unknown outcome (`person`). When all faults have struck,
//! everything must come to its end within `PATIENCE`, and the invariants must
//! hold (`verdict`). No check depends on how fast something happens but for that.

mod backends;
mod fleet;
mod load;
mod person;
mod project;
pub mod soak;
mod verdict;
mod weather;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::backends::Backends;
use self::fleet::Fleet;
use self::load::Load;
use self::person::Person;
use self::weather::Weather;
use self::world::World;

/// How long everything may take to come to its end, once the weather has cleared, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// Where the truth is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// A file that all processes share.
    Sqlite,
    /// A Redis with `appendfsync always`.
    Redis,
    /// A Postgres as it comes.
    Postgres,
}

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; another one starts a moment later.
    KillWorker,
    /// SIGKILL; another one starts at the same address a moment later.
    KillScheduler,
    /// SIGSTOP until its leases are over, then SIGCONT: a zombie.
    StopWorker,
    /// SIGKILL of the store's server, which is started again a moment later.
    KillStore,
    /// All connections to the store break.
    ResetStore,
    /// The store seems to hang, for longer than a renewal waits.
    StallStore,
    /// An answer of the store breaks off.
    CutStore,
    /// SIGKILL of the broker, at once after queues were declared or not, and a new start.
    KillBroker,
    /// All connections to the broker break.
    ResetBroker,
    /// The broker seems to hang.
    StallBroker,
    /// All hints that wait at the broker are thrown away.
    PurgeBroker,
}

/// A store, with or without a broker, and what strikes it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Where the truth is.
    pub store: StoreKind,
    /// Whether a `RabbitMQ` carries hints, with a consumer timeout that is shorter than some tasks.
    pub broker: bool,
    /// What strikes, in this order the first time.
    pub faults: &'static [Fault],
}

/// What happens to a fleet whose store is a server.
const STORE_FAULTS: &[Fault] = &[
    Fault::KillWorker,
    Fault::CutStore,
    Fault::KillStore,
    Fault::StopWorker,
    Fault::ResetStore,
    Fault::KillScheduler,
    Fault::StallStore,
];

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "sqlite",
        store: StoreKind::Sqlite,
        broker: false,
        faults: &[Fault::KillWorker, Fault::StopWorker, Fault::KillScheduler, Fault::KillWorker],
    },
    Scenario { name: "redis", store: StoreKind::Redis, broker: false, faults: STORE_FAULTS },
    Scenario { name: "postgres", store: StoreKind::Postgres, broker: false, faults: STORE_FAULTS },
    Scenario {
        name: "sqlite-rabbitmq",
        store: StoreKind::Sqlite,
        broker: true,
        faults: &[Fault::KillBroker, Fault::KillWorker, Fault::PurgeBroker, Fault::ResetBroker, Fault::KillScheduler],
    },
    Scenario {
        name: "redis-rabbitmq",
        store: StoreKind::Redis,
        broker: true,
        faults: &[
            Fault::KillBroker,
            Fault::KillWorker,
            Fault::KillStore,
            Fault::PurgeBroker,
            Fault::StopWorker,
            Fault::ResetBroker,
            Fault::CutStore,
            Fault::KillScheduler,
            Fault::StallBroker,
        ],
    },
    Scenario {
        name: "postgres-rabbitmq",
        store: StoreKind::Postgres,
        broker: true,
        faults: &[
            Fault::KillBroker,
            Fault::KillWorker,
            Fault::PurgeBroker,
            Fault::StopWorker,
            Fault::ResetBroker,
            Fault::KillScheduler,
            Fault::KillStore,
            Fault::StallBroker,
            Fault::ResetStore,
        ],
    },
];

impl Scenario {
    /// The scenario of this name.
    ///
    /// # Errors
    /// When there is none; says which there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name).with_context(|| {
            let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            format!("{name:?} is not a scenario; use {}", names.join(", "))
        })
    }
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Each fault once.
    Short,
    /// All faults again and again, for this long.
    Long(Duration),
}

/// What happened, by kind.
pub type Counts = BTreeMap<String, u64>;

/// Plays a scenario, and checks what is left. `seed` picks who is struck and when.
///
/// # Errors
/// Everything that is not as it must be, with what the processes said last.
#[expect(clippy::print_stdout, reason = "whoever plays it watches it")]
pub async fn play(scenario: &Scenario, length: Length, seed: u64) -> Result<Counts> {
    let started = Instant::now();
    let world = World::start().await;
    let project = project::write();
    let mut backends = Backends::start(scenario).await;
    let mut fleet = Fleet::start(project.path(), &backends)?;
    fleet.until_up().await?;
    let load = Arc::new(Load::new(fleet.addresses(), world.address(), world.folder()));
    let person = Person::start(fleet.addresses(), Arc::clone(&world));
    let submitting = tokio::spawn(Arc::clone(&load).run(length));
    let mut weather = Weather::new(scenario, seed);
    weather.rage(&mut fleet, &mut backends, length).await?;
    let strikes = weather.counts();
    load.clear();

    let calm = Instant::now();
    let ended = until_over(&mut fleet, &backends, submitting).await;
    let took = calm.elapsed();
    let asked = person.stop().await;
    let words = fleet.last_words();
    let counts = fleet.stop();
    let checked = match ended {
        Ok(()) => verdict::check(&backends.direct_url(), &load, &world).await,
        Err(error) => Err(error),
    };
    let mut counts: Counts = counts.into_iter().chain(strikes).chain(asked).chain(load.counts()).collect();
    match checked {
        Ok(found) => counts.extend(found),
        Err(error) => bail!(
            "scenario {}, seed {seed}: {error:#}\n\ncounts: {counts:?}\n\nwhat the processes said last:\n{words}\n\n\
             repeat it with: tests/chaos --seed {seed} 1 {}",
            scenario.name,
            scenario.name
        ),
    }
    println!(
        "chaos {}: {} s in all, the last task ended {:.1} s after the last fault\n  {counts:?}",
        scenario.name,
        started.elapsed().as_secs(),
        took.as_secs_f64(),
    );
    Ok(counts)
}

/// Waits until everything was submitted and every task has come to its end.
async fn until_over(
    fleet: &mut Fleet,
    backends: &Backends,
    submitting: tokio::task::JoinHandle<Result<()>>,
) -> Result<()> {
    let started = Instant::now();
    loop {
        fleet.tick()?;
        // The store may be busy with its recovery, or locked by a process that is stopped.
        let unfinished = verdict::unfinished(&backends.direct_url()).await;
        if submitting.is_finished() && unfinished.as_ref().is_ok_and(Vec::is_empty) {
            return submitting.await?;
        }
        if started.elapsed() > PATIENCE {
            let unfinished = unfinished?;
            let some: Vec<_> = unfinished.iter().take(3).collect();
            bail!(
                "{} tasks have not come to their end {PATIENCE:?} after the last fault (everything submitted: {}): {some:#?}",
                unfinished.len(),
                submitting.is_finished()
            );
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
