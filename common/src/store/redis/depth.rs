//! How deep queues are, as far as this process knows: enough to tell that one is
//! far from its limit without asking the server.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long a count over all partitions is good.
const FRESH: Duration = Duration::from_secs(1);
/// Queues that are kept in mind.
const MOST: usize = 1_000;

/// Counts of queues, each with what this process added since.
#[derive(Debug, Default)]
pub(super) struct Depths(Mutex<HashMap<String, (u64, Instant)>>);

impl Depths {
    /// Whether a queue stays below `near` with so many more, which are counted then.
    pub(super) fn is_far(&self, queue: &str, new: u64, near: u64) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(queue) {
            Some((depth, counted)) if counted.elapsed() < FRESH && depth.saturating_add(new) < near => {
                *depth += new;
                true
            }
            _ => false,
        }
    }

    /// A queue was counted just now.
    pub(super) fn counted(&self, queue: &str, depth: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(queue.to_owned(), (depth, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_far_from_its_limit_only_if_it_was_counted() {
        let depths = Depths::default();
        assert!(!depths.is_far("q", 1, 100));
        depths.counted("q", 90);
        assert!(depths.is_far("q", 5, 100));
        assert!(!depths.is_far("q", 5, 100), "what was added since counts too");
    }
}
