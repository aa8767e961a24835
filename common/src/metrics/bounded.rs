//! Labels whose values come from outside: the first so many, and one for all others.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

/// How many different values a label has at most.
const MOST: usize = 200;
/// The longest value, in bytes.
const LONGEST: usize = 100;
/// Stands for all others.
const OTHER: &str = "other";

/// The values that a label has so far.
#[derive(Debug, Default)]
pub struct Bounded(RwLock<BTreeSet<String>>);

impl Bounded {
    /// The value as a label: itself if there is room for it.
    pub fn admit<'v>(&self, value: &'v str) -> Cow<'v, str> {
        if self.has(value) {
            return Cow::Borrowed(value);
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST && !value.is_empty() && value.len() <= LONGEST {
            known.insert(value.to_owned());
            return Cow::Borrowed(value);
        }
        Cow::Borrowed(OTHER)
    }

    /// The value as a label: itself if it was admitted before.
    pub fn known<'v>(&self, value: &'v str) -> Cow<'v, str> {
        if self.has(value) { Cow::Borrowed(value) } else { Cow::Borrowed(OTHER) }
    }

    fn has(&self, value: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_values_come_a_label_has_few() {
        let label = Bounded::default();
        assert_eq!(label.known("Read"), OTHER);
        assert_eq!(label.admit("Read"), "Read");
        let all: BTreeSet<String> = (0..10_000).map(|n| label.admit(&format!("v{n}")).into_owned()).collect();
        assert_eq!(all.len(), MOST, "{MOST} values, of which one was there before, and {OTHER}");
        assert_eq!((label.admit("Read"), label.known("Read")), ("Read".into(), "Read".into()));
        assert_eq!((label.admit(""), label.admit(&"x".repeat(101))), (OTHER.into(), OTHER.into()));
    }
}
