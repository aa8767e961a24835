//! One history on every store: the same operations in the same order must give
//! the same answers, journals, heads, queues and batches, wherever the truth lives.
//!
//! A history is a list of seeds, one an operation; what an operation is follows
//! from its seed and from what the first store answered so far (`history`). Time is
//! a clock that is moved by hand. Each store is opened twice, as by two processes,
//! and operations go to either (`side`).
//!
//! Where the contract leaves freedom, the comparison does too:
//! - Tokens are random: each store has its own, and a history names them by task and attempt.
//! - Queues take turns in any order: what is taken from several queues at once is all that is
//!   ready, and compared as a set. Within one queue the order is compared.
//! - Of what is due at the same time any may come first: no two timers and leases end at the
//!   same time, and `due` is called until nothing is due. When it says that nothing is due while something is, it is called again.
//! - Which hints a doorbell hears in what order: they are compared at the end, by task. A store that moves what is due
//!   in several commits rings for a task that was ready between two of them; the first store moves it in one. So the
//!   others must have heard all that the first has heard.
//! - An append that is repeated after a newer one of the same task may get its old answer or a refusal: histories
//!   repeat the newest.
//! - The receipt of a task that a later one of the same call cancels says what it was or what it is: histories submit
//!   tasks of groups one by one.
//! - A queue without tasks may be listed or not. What a refusal says may differ, that it is one may not.
//! - What retention by count and by bytes removes of tasks that ended in the same millisecond: histories have
//!   retention by age.

mod answer;
mod chance;
mod history;
mod request;
mod shrink;
mod side;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::entropy::{Entropy, SeededEntropy};
use common::span::Span;
use common::store::{Keep, Limits, Retention};
use futures::StreamExt;

use self::history::{Difference, History};
use self::side::{Place, Setting};

/// Operations in a history.
const LENGTH: usize = 1_000;
/// Histories that are played at the same time: while one waits for a server, another goes on.
const PARALLEL: usize = 4;
/// How long a history that shows a difference is made shorter.
const SHRINKING: Duration = Duration::from_secs(60);

/// A store by its name, and what gives an empty place.
type Store = (&'static str, fn() -> Place);

/// Requests of the shortest history that are shown, the last ones.
const SHOWN: usize = 60;

/// The stores that are compared. The first one is what the others are compared with.
const STORES: &[Store] = &[
    ("sqlite", side::sqlite),
    ("redis", side::redis),
    ("redis with 4 partitions", side::redis_with_partitions),
    ("postgres", side::postgres),
];

/// Which histories are played: `TEAMSTER_SEED` names one, `TEAMSTER_SEEDS` says how many.
///
/// # Panics
/// If one of them is no number.
pub fn seeds() -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{name} is {text:?}: {error}")))
    };
    match number("TEAMSTER_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("TEAMSTER_SEEDS").unwrap_or(20)).collect(),
    }
}

/// Plays a history of each seed on all stores.
///
/// # Errors
/// The first difference that was found, with its seed, the shortest history that was found to show it, and how to
/// repeat it.
pub async fn compare(seeds: Vec<u64>) -> Result<()> {
    let started = Instant::now();
    let mut histories = futures::stream::iter(seeds).map(compare_seed).buffer_unordered(PARALLEL);
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut number = 0;
    while let Some(played) = histories.next().await {
        for (operation, count) in played? {
            *counts.entry(operation).or_default() += count;
        }
        number += 1;
    }
    println!("{number} histories of {LENGTH} operations on {} stores in {:.1?}", STORES.len(), started.elapsed());
    println!("requests by kind and answer: {counts:?}");
    Ok(())
}

async fn compare_seed(seed: u64) -> Result<BTreeMap<&'static str, usize>> {
    let chance: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    let operations: Vec<u64> = (0..LENGTH).map(|_| u64::from_le_bytes(chance.bytes())).collect();
    match play(STORES, seed, &operations).await.with_context(|| format!("seed {seed}"))? {
        Ok(counts) => Ok(counts),
        Err(difference) => {
            let shortest = shrink::shrink(seed, operations, difference, SHRINKING).await?;
            anyhow::bail!(
                "seed {seed}, operation {} of {LENGTH}: {}\n\nthe shortest history that shows a difference \
                 ({} operations):\n{}\n{}\n\nrepeat it with: TEAMSTER_SEED={seed} cargo test -p teamster-tests --test \
                 integration differential -- --nocapture",
                shortest.first.operation,
                shortest.first.said,
                shortest.operations,
                shortest.difference.trace[shortest.difference.trace.len().saturating_sub(SHOWN)..].join("\n"),
                shortest.difference.said,
            )
        }
    }
}

/// Plays operations on empty places: how many there were of each kind, or where two stores differ.
async fn play(
    stores: &[Store],
    seed: u64,
    operations: &[u64],
) -> Result<Result<BTreeMap<&'static str, usize>, Box<Difference>>> {
    History::open(stores, setting(seed)).await?.play(operations).await
}

/// What a seed says of the stores: with or without a broker, with or without retention.
fn setting(seed: u64) -> Setting {
    let limits = Limits {
        submissions: 12,
        input_bytes: 2_000,
        journal_bytes: 8_000,
        queue_depth: 60,
        barren_attempts: 2,
        ..Limits::default()
    };
    let keep = Keep { count: None, age: seed.is_multiple_of(3).then_some(Span::from_secs(120)), bytes: None };
    Setting { broker: seed.is_multiple_of(2), limits, retention: Retention { finished: keep, dead: keep } }
}
