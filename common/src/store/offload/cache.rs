//! Large values that a process has at hand: those that were used last, up to a
//! number of bytes. A task that goes on where it was before reads them here.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use serde_json::Value;

use crate::id::BlobName;

/// A value, and how many bytes of JSON it has.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) value: Arc<Value>,
    pub(super) length: usize,
}

#[derive(Debug)]
pub(super) struct Cache {
    most: usize,
    held: Mutex<(LruCache<BlobName, Held>, usize)>,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self { most, held: Mutex::new((LruCache::unbounded(), 0)) }
    }

    pub(super) fn get(&self, name: &BlobName) -> Option<Held> {
        let mut guard = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0.get(name).cloned()
    }

    pub(super) fn put(&self, name: BlobName, held: Held) {
        if held.length > self.most {
            return;
        }
        let mut guard = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (values, bytes) = &mut *guard;
        *bytes += held.length;
        if let Some(before) = values.put(name, held) {
            *bytes -= before.length;
        }
        while *bytes > self.most
            && let Some((_, oldest)) = values.pop_lru()
        {
            *bytes -= oldest.length;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::id::{BlobHouse, Digest, Shard};

    fn name(number: u8) -> BlobName {
        BlobName::new(BlobHouse::Store, Shard::numbered(0), [number; 8], Digest::of(&[number]))
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_the_sum_is_bounded() {
        let cache = Cache::new(100);
        let held = |length| Held { value: Arc::new(json!(length)), length };
        cache.put(name(1), held(40));
        cache.put(name(2), held(40));
        cache.put(name(2), held(50));
        assert!(cache.get(&name(1)).is_some());
        cache.put(name(3), held(30));
        assert!(cache.get(&name(2)).is_none());
        assert!(cache.get(&name(1)).is_some() && cache.get(&name(3)).is_some());
        cache.put(name(4), held(101));
        assert!(cache.get(&name(4)).is_none() && cache.get(&name(1)).is_some());
    }
}
