//! Chance from a seed, for each actor its own: what one of them draws does not
//! change what the others do.

use std::sync::Arc;
use std::time::Duration;

use common::entropy::{Entropy, SeededEntropy};
use common::id::Digest;

/// A source of chance.
#[derive(Debug, Clone)]
pub(super) struct Chance(Arc<dyn Entropy>);

impl Chance {
    /// The chance of an actor in the history of a seed.
    pub(super) fn of(seed: u64, actor: &str) -> Self {
        let digest = Digest::of(format!("{seed}:{actor}").as_bytes());
        let number = u64::from_str_radix(&digest.as_str()[..16], 16).unwrap_or(seed);
        Self(Arc::new(SeededEntropy::new(number)))
    }

    pub(super) fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.0)
    }

    /// A number below `bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        u64::from_le_bytes(self.0.bytes()) % bound.max(1)
    }

    /// True once in so many times.
    pub(super) fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Milliseconds from a range.
    pub(super) fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }

    /// A time from a range, in whole milliseconds.
    pub(super) fn between(&self, range: std::ops::Range<Duration>) -> Duration {
        let span = u64::try_from(range.end.saturating_sub(range.start).as_millis()).unwrap_or(u64::MAX);
        range.start + Duration::from_millis(self.below(span))
    }

    /// One of these.
    pub(super) fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap_or(0)]
    }
}
