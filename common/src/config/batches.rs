//! How requests of many tasks go to a provider together: `batches` of a provider.

use std::time::Duration;

use serde::Deserialize;

use crate::span::Span;

/// As many as wait at once. The Message Batches API takes 100,000.
const MOST_ENTRIES: usize = 20_000;
/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(3_600);

/// When model batches go out, and how often they are looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batches {
    /// How long the first request waits for others before it goes out with them. Default 1 m, at most 1 h.
    pub linger: Span,
    /// How often the provider is asked whether a batch is done. Default 1 m, at most 1 h.
    pub poll: Span,
    /// The most requests of one batch. Default 10,000, at most 20,000.
    pub entries: usize,
    /// A step with less time than this left to wait asks the model directly. Default 5 m.
    pub min_wait: Span,
}

impl Default for Batches {
    fn default() -> Self {
        let minute = Span::from_secs(60);
        Self { linger: minute, poll: minute, entries: 10_000, min_wait: Span::from_secs(300) }
    }
}

impl Batches {
    /// The key that is out of bounds, and what is wrong with it, if anything is.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let too_long = |span: Span| span.get() > LONGEST;
        if too_long(self.linger) || too_long(self.poll) {
            let key = if too_long(self.linger) { "linger" } else { "poll" };
            return Some((key, format!("`{key}` is at most {}", Span::clamped(LONGEST))));
        }
        let fits = (1..=MOST_ENTRIES).contains(&self.entries);
        (!fits).then(|| ("entries", format!("`entries` is {}, and must be 1 to {MOST_ENTRIES}", self.entries)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named() {
        assert_eq!(Batches::default().fault(), None);
        let day = Span::from_secs(86_400);
        let key = |batches: Batches| batches.fault().map(|(key, _)| key);
        assert_eq!(key(Batches { linger: day, ..Batches::default() }), Some("linger"));
        assert_eq!(key(Batches { poll: day, ..Batches::default() }), Some("poll"));
        for entries in [0, MOST_ENTRIES + 1] {
            assert_eq!(key(Batches { entries, ..Batches::default() }), Some("entries"));
        }
    }
}
