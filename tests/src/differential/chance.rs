//! What an operation draws from its seed.

use std::sync::Arc;

use common::entropy::{Entropy, SeededEntropy};

/// Numbers that follow from one seed.
#[derive(Debug)]
pub(super) struct Chance(Arc<dyn Entropy>);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(SeededEntropy::new(seed)))
    }

    pub(super) fn bytes<const N: usize>(&self) -> [u8; N] {
        self.0.bytes()
    }

    /// A number from 0, below `bound`; 0 if there is none.
    pub(super) fn below(&self, bound: usize) -> usize {
        let number = u64::from_le_bytes(self.0.bytes());
        usize::try_from(number % u64::try_from(bound.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// True once in so many times.
    pub(super) fn once_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these, if there is one.
    pub(super) fn of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// One of these, of the newest more often than of the others: most of the life of a history is there.
    pub(super) fn of_newest<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        if self.once_in(3) { self.of(all) } else { self.of(&all[all.len().saturating_sub(24)..]) }
    }
}
