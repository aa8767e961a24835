//! Seeded histories of the real loops under faults; see `suite::simulation`.
//!
//! `TEAMSTER_SEED=123 cargo test -p teamster-tests simulation` plays one seed
//! again; `TEAMSTER_SEEDS=100000` plays more than a thousand.

use suite::simulation::{Sabotage, Stage, play, play_all};

/// How many seeds are played if nothing is said.
const SEEDS: u64 = 1_000;
/// So many broken seeds are enough to look at.
const ENOUGH: usize = 5;
/// So many seeds that are broken on purpose show what is noticed.
const NOTICED: usize = 3;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} must be a number")))
}

#[test]
fn every_invariant_holds_in_every_history() {
    if let Some(seed) = number("TEAMSTER_SEED") {
        match play(&Stage::new(), seed, Sabotage::None) {
            Ok(tally) => println!("seed {seed}: {:?} simulated; {:?}", tally.simulated, tally.counts),
            Err(broken) => panic!("seed {seed}:\n{}", broken.violations.join("\n")),
        }
        return;
    }
    let outcome = play_all(0..number("TEAMSTER_SEEDS").unwrap_or(SEEDS), Sabotage::None, ENOUGH);
    let tally = &outcome.tally;
    println!("{} seeds, {:.0?} simulated in {:.1?}", outcome.seeds, tally.simulated, outcome.took);
    println!("store operations: {} ({})", tally.sum("store/"), tally.line("store/"));
    println!("faults: {} ({})", tally.sum("fault/"), tally.line("fault/"));
    println!("hints: {}", tally.line("hint/"));
    println!("effects: {}; ends: {}; a person: {}", tally.line("effect/"), tally.line("end/"), tally.line("person/"));
    for broken in &outcome.broken {
        println!("seed {} is broken: TEAMSTER_SEED={0} cargo test -p teamster-tests simulation", broken.seed);
        println!("  {}", broken.violations.join("\n  "));
    }
    assert!(outcome.broken.is_empty(), "{} of {} seeds are broken", outcome.broken.len(), outcome.seeds);
}

/// The checks can fail: each thing that is broken on purpose is noticed within a few histories.
#[test]
fn what_is_broken_on_purpose_is_noticed() {
    let sabotages =
        [(Sabotage::Fence, "I2"), (Sabotage::Keys, "I6"), (Sabotage::Person, "I5"), (Sabotage::Count, "I1")];
    for (sabotage, invariant) in sabotages {
        let outcome = play_all(0..200, sabotage, NOTICED);
        println!("{sabotage:?}: noticed in {} of {} seeds", outcome.broken.len(), outcome.seeds);
        let noticed = outcome.broken.iter().flat_map(|broken| &broken.violations).any(|v| v.contains(invariant));
        assert!(noticed, "{sabotage:?} was not noticed in {} seeds: {:?}", outcome.seeds, outcome.broken);
    }
}

/// A seed is its history: played again, everything happens again.
#[test]
fn a_seed_gives_the_same_history_each_time() {
    let stage = Stage::new();
    for seed in 0..5 {
        let [first, second] = [0, 1].map(|_| play(&stage, seed, Sabotage::None).unwrap());
        assert_eq!(first.counts, second.counts, "seed {seed}");
        assert_eq!((first.simulated, &first.digest), (second.simulated, &second.digest), "seed {seed}");
    }
}
