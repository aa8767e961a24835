//! Where requests wait for others: pure.

use std::collections::BTreeSet;

use common::clock::Timestamp;
use common::id::EntryId;
use serde::{Deserialize, Serialize};

/// How many trays a provider has, so that many workers seldom write to the same.
pub(super) const TRAYS: usize = 4;
/// The most requests of one tray.
pub(super) const ROOM: usize = 5_000;

/// A request that waits, or is part of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// The request.
    pub(super) id: EntryId,
    /// Since when.
    pub(super) at: Timestamp,
    /// When it was put back, because it could not go out with a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) back: Option<Timestamp>,
}

/// Requests that wait.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Tray {
    /// The first first.
    pub(super) entries: Vec<Waiting>,
}

impl Tray {
    /// Puts requests in, as far as there is room; those that there is no room for.
    pub(super) fn add(&mut self, new: Vec<Waiting>) -> Vec<Waiting> {
        let mut known = self.ids();
        let mut beyond = Vec::new();
        for entry in new.into_iter().filter(|entry| known.insert(entry.id.clone())) {
            if self.entries.len() < ROOM {
                self.entries.push(entry);
            } else {
                beyond.push(entry);
            }
        }
        beyond
    }

    /// Puts requests back that were here before, whatever the room: there are no more of them than there were.
    pub(super) fn put_back(&mut self, old: &[Waiting], now: Timestamp) {
        let known = self.ids();
        let new = old.iter().filter(|entry| !known.contains(&entry.id));
        self.entries.extend(new.map(|entry| Waiting { back: Some(now), ..entry.clone() }));
    }

    fn ids(&self) -> BTreeSet<EntryId> {
        self.entries.iter().map(|entry| entry.id.clone()).collect()
    }

    /// Takes requests out.
    pub(super) fn remove(&mut self, gone: &BTreeSet<EntryId>) {
        self.entries.retain(|entry| !gone.contains(&entry.id));
    }
}

/// What waits in all trays together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// How many requests.
    pub(super) count: usize,
    /// Since when the first waits for its next batch.
    pub(super) oldest: Option<Timestamp>,
}

impl Load {
    pub(super) fn of<'t>(trays: impl IntoIterator<Item = &'t Tray>) -> Self {
        let entries = trays.into_iter().flat_map(|tray| &tray.entries);
        entries.fold(Self::default(), |load, entry| {
            let since = entry.back.unwrap_or(entry.at);
            Self { count: load.count + 1, oldest: Some(load.oldest.map_or(since, |oldest| oldest.min(since))) }
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use common::id::TaskId;

    use super::*;

    pub(in crate::batching) fn entries(range: std::ops::Range<usize>) -> Vec<Waiting> {
        let at = Timestamp::from_millis(1_000);
        let task = TaskId::new(at, [1; 10]);
        range.map(|n| Waiting { id: EntryId::new(task, &n.to_string()), at, back: None }).collect()
    }

    #[test]
    fn a_request_that_comes_twice_is_there_once() {
        let mut tray = Tray::default();
        assert!(tray.add(entries(0..3)).is_empty() && tray.add(entries(1..4)).is_empty());
        assert_eq!(tray.entries, entries(0..4));
    }

    #[test]
    fn what_there_is_no_room_for_is_told_and_what_was_there_before_has_room() {
        let mut tray = Tray::default();
        assert_eq!(tray.add(entries(0..ROOM + 2)), entries(ROOM..ROOM + 2));
        let (old, now) = (entries(ROOM + 5..ROOM + 6), Timestamp::from_millis(9_000));
        tray.put_back(&old, now);
        tray.put_back(&old, now);
        assert_eq!(tray.entries.len(), ROOM + 1);
        tray.remove(&entries(0..ROOM).into_iter().map(|entry| entry.id).collect());
        assert_eq!(tray.entries, [Waiting { back: Some(now), ..old[0].clone() }]);
        assert_eq!(Load::of([&tray]), Load { count: 1, oldest: Some(now) }, "it waits as long as a new one does");
    }

    #[test]
    fn a_full_tray_is_a_document_that_stores_keep() {
        let tray = Tray { entries: entries(0..2 * ROOM) };
        assert!(serde_json::to_vec(&tray).unwrap().len() < common::store::session::LARGEST_SESSION / 4);
        // A batch, too, with the most entries that may be configured.
        let batch = Tray { entries: entries(0..TRAYS * ROOM) };
        assert!(serde_json::to_vec(&batch).unwrap().len() < common::store::session::LARGEST_SESSION);
    }
}
