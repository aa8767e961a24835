//! What becomes of the batches of a provider, and what is to be done next: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Timestamp;
use common::config::Batches as Options;
use common::id::WorkerId;
use serde::{Deserialize, Serialize};

use super::tray::Load;

/// The most batches that are under way at once; more requests wait in their trays.
const MOST_BATCHES: usize = 100;
/// How many batches that are done are remembered, so that none of them is taken for another.
const REMEMBERED: usize = 100;
/// The time between two looks for a batch that may have been sent.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What there is to know of the batches of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Register {
    /// The worker that looks after them.
    pub(super) holder: Option<WorkerId>,
    /// Grows with each change, and with each sign of life of the holder.
    pub(super) beats: u64,
    /// Those under way.
    pub(super) batches: Vec<Batch>,
    /// The provider's ids of the newest that are done.
    pub(super) done: Vec<String>,
}

/// A batch under way. Its entries are in a document of their own, by its number, which never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    /// Its number.
    pub(super) number: u64,
    /// How many entries it has.
    pub(super) entries: u64,
    /// How far it is.
    pub(super) stage: Stage,
    /// How often the provider did not take it.
    #[serde(default)]
    pub(super) tries: u32,
    /// Batches of the provider that were taken for it and are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) strangers: Vec<String>,
}

/// How far a batch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub(super) enum Stage {
    /// Its entries are known, and it was not sent.
    Collected {
        /// When it may be sent.
        from: Timestamp,
    },
    /// It is being sent, or was: nobody knows until the provider is asked.
    Sending {
        /// Since when.
        since: Timestamp,
    },
    /// The provider has it.
    Sent {
        /// The provider's id.
        id: String,
        /// Since when.
        at: Timestamp,
    },
}

/// Something to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Make a batch of what waits.
    Collect,
    /// Send a batch.
    Send(u64),
    /// Look whether a batch was sent.
    Find(u64),
    /// Look whether a batch is done.
    Look(u64),
}

/// What a desk knows beside the register.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// What waits.
    pub(super) load: Load,
    /// When each batch was looked at last.
    pub(super) looked: &'a BTreeMap<u64, Timestamp>,
    /// Whether nothing may be sent.
    pub(super) halted: bool,
    /// The time.
    pub(super) now: Timestamp,
}

/// What is to be done.
pub(super) fn due(register: &Register, options: &Options, seen: Seen<'_>) -> Vec<Step> {
    let Seen { load, looked, halted, now } = seen;
    let rested = |number: u64, pause: Duration| looked.get(&number).is_none_or(|at| at.plus(pause) <= now);
    let of_batch = |batch: &Batch| match &batch.stage {
        Stage::Collected { from } => (!halted && *from <= now).then_some(Step::Send(batch.number)),
        Stage::Sending { .. } => rested(batch.number, pause(options)).then_some(Step::Find(batch.number)),
        Stage::Sent { .. } => rested(batch.number, options.poll.get()).then_some(Step::Look(batch.number)),
    };
    let mut steps: Vec<Step> = register.batches.iter().filter_map(of_batch).collect();
    let has_waited = load.oldest.is_some_and(|oldest| oldest.plus(options.linger.get()) <= now);
    let wanted = has_waited || load.count >= options.entries;
    if wanted && !halted && register.batches.len() < MOST_BATCHES {
        steps.push(Step::Collect);
    }
    steps
}

/// The time between two looks for a batch that may have been sent: what was sent shows up within it.
pub(super) fn pause(options: &Options) -> Duration {
    options.poll.get().clamp(LOOK.0, LOOK.1)
}

impl Register {
    /// Whether there is nothing to look after.
    pub(super) fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn batch(&self, number: u64) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.number == number)
    }

    /// The number of a batch whose entries are written down now. No two holders come to the same: when one takes the
    /// place of the other, this grows.
    pub(super) const fn next_number(&self) -> u64 {
        self.beats + 1
    }

    /// A new batch.
    pub(super) fn add(&mut self, number: u64, entries: u64, stage: Stage) {
        self.batches.push(Batch { number, entries, stage, tries: 0, strangers: Vec::new() });
    }

    /// A batch goes on as another one, with fewer entries.
    pub(super) fn replace(&mut self, old: u64, number: u64, entries: u64) {
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == old) {
            (batch.number, batch.entries) = (number, entries);
        }
    }

    pub(super) fn enter(&mut self, number: u64, stage: Stage) {
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == number) {
            batch.stage = stage;
        }
    }

    /// A batch is to be sent later.
    pub(super) fn postpone(&mut self, number: u64, tries: u32, from: Timestamp) {
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == number) {
            (batch.stage, batch.tries) = (Stage::Collected { from }, tries);
        }
    }

    /// What was taken for a batch is another one: it is looked for, and sent if it is not found.
    pub(super) fn mistook(&mut self, number: u64, stranger: &str, now: Timestamp) {
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == number) {
            batch.strangers.push(stranger.to_owned());
            batch.stage = Stage::Sending { since: now };
        }
    }

    /// A batch is done.
    pub(super) fn remove(&mut self, number: u64) {
        let id = self.batch(number).and_then(|batch| match &batch.stage {
            Stage::Sent { id, .. } => Some(id.clone()),
            _ => None,
        });
        self.done.extend(id);
        let gone = self.done.len().saturating_sub(REMEMBERED);
        self.done.drain(..gone);
        self.batches.retain(|batch| batch.number != number);
    }

    /// Whether a batch of the provider is another one for certain.
    pub(super) fn is_other(&self, batch: &Batch, id: &str) -> bool {
        let sent = |other: &Batch| matches!(&other.stage, Stage::Sent { id: known, .. } if known == id);
        let among = |ids: &[String]| ids.iter().any(|known| known == id);
        among(&batch.strangers) || among(&self.done) || self.batches.iter().any(sent)
    }
}

#[cfg(test)]
mod tests {
    use common::span::Span;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn options() -> Options {
        Options { linger: Span::from_secs(60), poll: Span::from_secs(30), entries: 10, ..Options::default() }
    }

    fn steps(register: &Register, load: Load, looked: &[(u64, i64)], halted: bool, now: i64) -> Vec<Step> {
        let looked = looked.iter().map(|(number, seconds)| (*number, at(*seconds))).collect();
        due(register, &options(), Seen { load, looked: &looked, halted, now: at(now) })
    }

    #[test]
    fn requests_go_out_when_there_are_enough_or_the_first_has_waited() {
        let none = Register::default();
        let load = |count, oldest| Load { count, oldest: Some(at(oldest)) };
        assert_eq!(steps(&none, Load::default(), &[], false, 1_000), []);
        assert_eq!(steps(&none, load(9, 100), &[], false, 159), []);
        assert_eq!(steps(&none, load(9, 100), &[], false, 160), [Step::Collect]);
        assert_eq!(steps(&none, load(10, 100), &[], false, 100), [Step::Collect]);
        assert_eq!(steps(&none, load(10, 100), &[], true, 500), [], "nothing is sent while all is halted");
        let mut full = Register::default();
        for number in 1..=MOST_BATCHES as u64 {
            full.add(number, 1, Stage::Collected { from: at(9_999) });
        }
        assert_eq!(steps(&full, load(10, 100), &[], false, 500), [], "only so many are under way");
    }

    #[test]
    fn each_batch_is_looked_after_by_how_far_it_is() {
        let mut register = Register::default();
        register.add(1, 3, Stage::Collected { from: at(50) });
        register.add(2, 3, Stage::Sending { since: at(1) });
        register.add(3, 3, Stage::Sent { id: "b".to_owned(), at: at(1) });
        let all = [Step::Send(1), Step::Find(2), Step::Look(3)];
        assert_eq!(steps(&register, Load::default(), &[], false, 50), all);
        assert_eq!(steps(&register, Load::default(), &[], true, 50), all[1..], "what is out is looked after");
        assert_eq!(steps(&register, Load::default(), &[(2, 40), (3, 40)], false, 49), []);
        assert_eq!(steps(&register, Load::default(), &[(2, 40), (3, 40)], true, 70), all[1..]);
    }

    #[test]
    fn no_batch_of_the_provider_is_taken_for_two() {
        let mut register = Register::default();
        register.add(1, 3, Stage::Sent { id: "first".to_owned(), at: at(1) });
        register.add(2, 3, Stage::Sending { since: at(2) });
        register.mistook(2, "stranger", at(3));
        let is_other = |register: &Register, id| register.is_other(&register.batches[register.batches.len() - 1], id);
        assert!(is_other(&register, "first") && is_other(&register, "stranger") && !is_other(&register, "own"));
        register.remove(1);
        assert!(is_other(&register, "first"), "also when it is done");
        assert_eq!(register.batches.len(), 1);
    }
}
