//! The simulation: the real scheduler loops and the real worker over the
//! embedded store, in virtual time, under a seeded layer of faults.
//!
//! A seed is a little history: two schedulers and three workers, clients that
//! submit, an operator who pauses queues, a person who decides, stops, wakes and
//! replays, and a fake outside world that counts what is done to it. Processes
//! crash before and after any call to the store; answers get lost; requests and
//! answers are late, also by more than a lease; the bell rings late and for
//! nothing; clocks are off.
//!
//! Half of all histories have a broker in memory, and another system that publishes
//! tasks to it. Hints get lost, come twice, late and out of order, are never
//! confirmed or confirmed in vain; channels break, lanes are purged, the broker is
//! out of reach or loses all hints. In half of these histories, workers go by hints alone, so
//! that only the relay of the schedulers makes up for it.
//!
//! Then the weather clears, and when all is done the invariants of the design are checked.
//!
//! Time is tokio's paused clock, which moves on when everybody waits. The store
//! is asked synchronously, within the poll, so that no thread of its own runs
//! beside the clock: the same seed gives the same history.

mod broker;
mod cast;
mod chance;
mod clock;
mod faulty;
mod person;
mod process;
mod scene;
mod stage;
mod truth;
mod verdict;
mod weather;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use stage::Stage;
pub use weather::Sabotage;

/// What happened in one history, or in many.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How often, by kind: faults, operations of the store, effects, ends of tasks.
    pub counts: BTreeMap<String, u64>,
    /// How long it would have taken.
    pub simulated: Duration,
    /// Of all journals, for one history.
    pub digest: String,
}

impl Tally {
    fn add(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.simulated += other.simulated;
    }

    /// All counts whose kind begins so, as a line for a person.
    pub fn line(&self, prefix: &str) -> String {
        let counts = self.counts.iter().filter_map(|(kind, count)| Some((kind.strip_prefix(prefix)?, count)));
        let parts: Vec<String> = counts.map(|(kind, count)| format!("{kind} {count}")).collect();
        parts.join(", ")
    }

    /// The sum of all counts whose kind begins so.
    pub fn sum(&self, prefix: &str) -> u64 {
        self.counts.iter().filter(|(kind, _)| kind.starts_with(prefix)).map(|(_, count)| count).sum()
    }
}

/// A seed whose history broke an invariant.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The seed.
    pub seed: u64,
    /// What was broken, each in a sentence.
    pub violations: Vec<String>,
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many were tried.
    pub seeds: u64,
    /// What happened.
    pub tally: Tally,
    /// Those that broke something, by seed.
    pub broken: Vec<Broken>,
    /// How long it took.
    pub took: Duration,
}

/// Plays one seed.
pub fn play(stage: &Stage, seed: u64, sabotage: Sabotage) -> Result<Tally, Broken> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .expect("a runtime");
    let played = runtime.block_on(scene::play(stage, seed, sabotage));
    runtime.shutdown_timeout(Duration::from_secs(1));
    played.map_err(|violations| Broken { seed, violations })
}

/// Plays seeds on all cores, and stops early when `enough` of them are broken.
pub fn play_all(seeds: std::ops::Range<u64>, sabotage: Sabotage, enough: usize) -> Outcome {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let outcome = Mutex::new(Outcome::default());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let stage = Stage::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = play(&stage, seed, sabotage);
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    outcome.seeds += 1;
                    match played {
                        Ok(tally) => outcome.tally.add(tally),
                        Err(broken) => outcome.broken.push(broken),
                    }
                    if outcome.broken.len() >= enough {
                        return;
                    }
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.broken.sort_by_key(|broken| broken.seed);
    outcome.took = started.elapsed();
    outcome
}
