#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::id::{BlobHouse, BlobName, Digest, Shard};
use crate::journal::{PublicKey, Seal, SealKey};
use crate::task::samples;

fn task() -> TaskId {
    samples::task()
}

/// A journal with its chain from event `first` on.
fn journal(events: &[Event], first: u64) -> Vec<Chained> {
    let mut head = None;
    let chain = |(event, seq): (&Event, u64)| {
        let at = Timestamp::from_millis(1_000 + i64::try_from(seq).unwrap());
        let hash = (seq >= first).then(|| EventHash::of(task(), head, seq, at, &Fingerprint::of(event).unwrap()));
        head = hash;
        Chained { seq, at, event: serde_json::to_string(event).unwrap(), hash }
    };
    events.iter().zip(1..).map(chain).collect()
}

/// Events of every kind, so that all fields take part.
fn events(count: usize, salt: u64) -> Vec<Event> {
    let kinds = samples::events();
    let pick = |n: usize| {
        let mut event = kinds[(n * 7 + usize::try_from(salt % 1_000).unwrap()) % kinds.len()].clone();
        event.slots_mut(&mut |slot| {
            if let SlotMut::Value(value) = slot {
                *value = json!({"n": n, "salt": salt, "f": 0.1 + f64::from(u32::try_from(n).unwrap()) / 3.0});
            }
        });
        event
    };
    (0..count).map(pick).collect()
}

fn look(journal: &[Chained], version: u64, seal: Option<Seal>, keys: &[PublicKey]) -> Verified {
    verify(&Witness { task: task(), version, seal, keys }, journal)
}

fn faults(journal: &[Chained], version: usize) -> Vec<Fault> {
    look(journal, version as u64, None, &[]).faults
}

/// As a store has it that counts by place.
fn renumbered(mut journal: Vec<Chained>) -> Vec<Chained> {
    for (chained, seq) in journal.iter_mut().zip(1..) {
        chained.seq = seq;
    }
    journal
}

#[test]
fn a_fingerprint_is_the_same_for_a_value_a_reference_to_it_and_a_mark_of_it() {
    for event in samples::events() {
        let print = Fingerprint::of(&event).unwrap();
        let mut referring = event.clone();
        referring.slots_mut(&mut |slot| {
            let text = match &slot {
                SlotMut::Value(value) => serde_json::to_string(value).unwrap(),
                SlotMut::Text(text) => serde_json::to_string(text).unwrap(),
            };
            let digest = Digest::of(text.as_bytes());
            crate::journal::Reference(BlobName::new(BlobHouse::Store, Shard::numbered(1), [2; 8], digest)).put(slot);
        });
        assert_eq!(Fingerprint::of(&referring).unwrap(), print, "{}", event.kind());
        for whole in [event.clone(), referring] {
            let mut erased = whole;
            erased.erase().unwrap();
            assert_eq!(Fingerprint::read(erased.clone(), Reading::Erased).unwrap(), (print, true), "{}", event.kind());
            let mut data = 0;
            erased.data_mut(&mut |_| data += 1);
            assert_eq!(Fingerprint::of(&erased).unwrap() == print, data == 0, "{}", event.kind());
        }
    }
}

#[test]
fn what_a_user_wrote_like_a_mark_is_a_value() {
    let digest = Digest::of(b"\"x\"");
    let imitated = Event::Succeeded { output: json!({"$erased": digest}) };
    let real = Event::Succeeded { output: json!("x") };
    assert_ne!(Fingerprint::of(&imitated).unwrap(), Fingerprint::of(&real).unwrap());
}

#[test]
fn a_hash_stays_what_it_is() {
    // A chain that was written once is verified by every version to come.
    let event = Event::Leased { attempt: 1, worker: samples::worker() };
    let print = Fingerprint::of(&event).unwrap();
    let hash = EventHash::of(task(), None, 1, Timestamp::from_millis(5), &print);
    let text = hash.to_string();
    assert_eq!(text.parse(), Ok(hash));
    assert_eq!(text, "685dc183cb5645a5dbc6f826a96da064d5f18209bd8c27e266539eb029948372");
}

#[test]
fn a_whole_journal_has_no_faults_and_its_seal_holds() {
    let journal = journal(&events(12, 3), 1);
    let key = SealKey::from_seed(&[7; 32]).unwrap();
    let at = |seq: usize| journal[seq - 1].hash.unwrap();
    let seal = key.seal(task(), 12, at(12));
    let verified = look(&journal, 12, Some(seal), &[key.public()]);
    assert_eq!(verified.faults, []);
    assert_eq!((verified.events, verified.starts, verified.seal_holds), (12, Some(1), true));
    assert_eq!(verified.head, journal[11].hash);
    // It is of this journal, of this event, and of this key.
    let other = SealKey::from_seed(&[8; 32]).unwrap();
    let bad = look(&journal, 12, Some(key.seal(task(), 12, at(11))), &[key.public()]);
    assert_eq!(bad.faults, [Fault::BadSeal { version: 12 }]);
    let foreign = look(&journal, 12, Some(other.seal(task(), 12, at(12))), &[key.public()]);
    assert_eq!(foreign.faults, [Fault::UnknownKey { key: other.public().id() }]);
    let unchecked = look(&journal, 12, Some(seal), &[]);
    assert_eq!((unchecked.faults, unchecked.seal_holds, unchecked.sealed), (vec![], false, Some((12, seal.key))));
    let early = look(&journal, 12, Some(key.seal(task(), 9, at(9))), &[key.public()]);
    assert_eq!((early.faults, early.seal_holds, early.sealed), (vec![], true, Some((9, seal.key))));
}

#[test]
fn a_chain_says_where_it_starts() {
    let events = events(9, 1);
    let late = journal(&events, 4);
    assert_eq!((look(&late, 9, None, &[]).starts, faults(&late, 9)), (Some(4), vec![]));
    let never = journal(&events, 10);
    assert_eq!((look(&never, 9, None, &[]).starts, faults(&never, 9)), (None, vec![]));
}

#[test]
fn events_without_a_hash_are_covered_by_the_next_one_that_has_one() {
    // As they are that a script of a store wrote.
    let mut journal = journal(&events(9, 1), 1);
    journal[3].hash = None;
    assert_eq!(faults(&journal, 9), []);
    assert_eq!(look(&journal, 9, None, &[]).starts, Some(1));
    journal[3].at = Timestamp::from_millis(7);
    assert_eq!(faults(&journal, 9), [Fault::Altered { from: 4, to: 5 }]);
    journal.truncate(4);
    let (fourth, before) = (journal[3].clone(), journal[2].hash);
    let print = Fingerprint::of(&serde_json::from_str(&fourth.event).unwrap()).unwrap();
    assert_eq!(look(&journal, 4, None, &[]).head, Some(EventHash::of(task(), before, 4, fourth.at, &print)));
}

#[test]
fn a_chain_may_start_anew_behind_events_of_an_older_version_and_says_so() {
    let events = events(9, 1);
    let mut mixed = journal(&events, 1);
    for chained in &mut mixed[3..5] {
        chained.hash = None;
    }
    mixed.truncate(5);
    mixed.extend_from_slice(&journal(&events, 6)[5..]);
    let verified = look(&mixed, 9, None, &[]);
    assert_eq!((verified.faults, verified.starts), (vec![], Some(6)));
}

#[test]
fn hashes_that_were_taken_away_do_not_go_unnoticed() {
    let mut journal = journal(&events(9, 1), 1);
    for chained in &mut journal[..3] {
        chained.hash = None;
    }
    assert_eq!(faults(&journal, 9), [Fault::Altered { from: 4, to: 4 }]);
}

#[test]
fn it_is_said_what_was_done_and_where() {
    let whole = journal(&events(9, 5), 1);
    let mut altered = whole.clone();
    altered[3].event = serde_json::to_string(&Event::Succeeded { output: json!("other") }).unwrap();
    assert_eq!(faults(&altered, 9), [Fault::Altered { from: 4, to: 4 }]);
    let mut last = whole.clone();
    last[8].at = Timestamp::from_millis(1);
    assert_eq!(faults(&last, 9), [Fault::Altered { from: 9, to: 9 }]);
    let mut spaced = whole.clone();
    spaced[3].event = spaced[3].event.replacen(':', ": ", 1);
    assert_eq!(faults(&spaced, 9), [Fault::Rewritten { seq: 4 }]);
    let mut more = whole.clone();
    more[3].event = format!("{},\"note\":1}}", more[3].event.strip_suffix('}').unwrap());
    assert_eq!(faults(&more, 9), [Fault::Rewritten { seq: 4 }]);
    let mut broken = whole.clone();
    broken[3].event.truncate(5);
    assert!(matches!(faults(&broken, 9)[..], [Fault::Unreadable { seq: 4, .. }]));

    let mut holed = whole.clone();
    holed.drain(3..5);
    assert_eq!(faults(&holed, 9), [Fault::Missing { from: 4, to: 5 }]);
    let closed = renumbered(holed);
    assert_eq!(faults(&closed, 9), [Fault::Missing { from: 4, to: 5 }]);
    assert_eq!(faults(&whole[..7], 9), [Fault::CutOff { from: 8, to: 9 }]);
    assert_eq!(faults(&whole, 7), [Fault::Appended { from: 8, to: 9 }]);
    let key = SealKey::from_seed(&[7; 32]).unwrap();
    let seal = key.seal(task(), 9, whole[8].hash.unwrap());
    let cut = look(&whole[..7], 7, Some(seal), &[key.public()]);
    assert_eq!(cut.faults, [Fault::CutOff { from: 8, to: 9 }], "also when the head was changed with it");
    assert_eq!(faults(&renumbered(whole[1..].to_vec()), 9), [Fault::Missing { from: 1, to: 1 }]);

    let mut swapped = whole.clone();
    swapped.swap(3, 4);
    assert_eq!(faults(&renumbered(swapped), 9), [Fault::Moved { seq: 5, place: 4 }]);
    let mut carried = whole.clone();
    let third = carried.remove(2);
    carried.insert(7, third);
    let moved = |seq| Fault::Moved { seq, place: seq - 1 };
    assert_eq!(faults(&renumbered(carried), 9), (4..=8).map(moved).collect::<Vec<_>>());

    let mut inserted = whole.clone();
    inserted.insert(4, Chained { hash: whole[2].hash, ..whole[2].clone() });
    assert_eq!(faults(&renumbered(inserted), 9), [Fault::Inserted { place: 5 }]);
    let mut fitting = whole[3].clone();
    fitting.event = serde_json::to_string(&Event::Succeeded { output: json!("forged") }).unwrap();
    let print = Fingerprint::of(&serde_json::from_str(&fitting.event).unwrap()).unwrap();
    fitting.hash = Some(EventHash::of(task(), whole[3].hash, 5, fitting.at, &print));
    let mut forged = whole.clone();
    forged.insert(4, fitting);
    assert_eq!(faults(&renumbered(forged), 9), [Fault::Inserted { place: 5 }]);
}

#[test]
fn an_erased_journal_verifies_and_what_was_done_to_it_before_is_still_found() {
    let mut all = samples::events();
    all.push(Event::Erased { by: "ada".to_owned(), outcome: crate::task::Outcome::Succeeded });
    let whole = journal(&all, 1);
    let erase = |mut journal: Vec<Chained>| {
        for chained in &mut journal {
            let mut event: Event = serde_json::from_str(&chained.event).unwrap();
            event.erase().unwrap();
            chained.event = serde_json::to_string(&event).unwrap();
        }
        journal
    };
    let verified = look(&erase(whole.clone()), all.len() as u64, None, &[]);
    assert_eq!((verified.faults, verified.erased), (vec![], true));
    let mut altered = whole.clone();
    altered[0].event = altered[0].event.replace("{\"n\":1}", "{\"n\":2}");
    assert_ne!(altered[0].event, whole[0].event);
    assert_eq!(faults(&erase(altered), all.len()), [Fault::Altered { from: 1, to: 1 }]);
    let not_erased = faults(&whole, all.len());
    assert!(!not_erased.is_empty() && not_erased.iter().all(|fault| matches!(fault, Fault::Rewritten { .. })));
}

/// What somebody may do to a journal.
#[derive(Debug, Clone)]
enum Tampering {
    Edit(usize, u64),
    Time(usize),
    Hash(usize),
    NoHash(usize),
    Remove(usize, bool),
    Swap(usize, usize),
    Copy(usize, usize),
    Cut(usize),
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let n = 0..1_000_usize;
    prop_oneof![
        (n.clone(), any::<u64>()).prop_map(|(at, salt)| Tampering::Edit(at, salt)),
        n.clone().prop_map(Tampering::Time),
        n.clone().prop_map(Tampering::Hash),
        n.clone().prop_map(Tampering::NoHash),
        (n.clone(), any::<bool>()).prop_map(|(at, renumber)| Tampering::Remove(at, renumber)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Tampering::Swap(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Tampering::Copy(a, b)),
        n.prop_map(Tampering::Cut),
    ]
}

impl Tampering {
    fn apply(&self, mut journal: Vec<Chained>) -> Vec<Chained> {
        let length = journal.len();
        match *self {
            Self::Edit(at, salt) => {
                journal[at % length].event =
                    serde_json::to_string(&Event::Succeeded { output: json!({"edited": salt}) }).unwrap();
            }
            Self::Time(at) => journal[at % length].at = Timestamp::from_millis(1),
            Self::Hash(at) => journal[at % length].hash = Some(EventHash::from_bytes([9; 32])),
            // The last one may have been written by a script of a store.
            Self::NoHash(at) => journal[at % length].hash = None,
            Self::Remove(at, renumber) => {
                journal.remove(at % length);
                if renumber {
                    journal = renumbered(journal);
                }
            }
            Self::Swap(a, b) => {
                journal.swap(a % length, b % length);
                journal = renumbered(journal);
            }
            Self::Copy(from, to) => {
                journal.insert(to % (length + 1), journal[from % length].clone());
                journal = renumbered(journal);
            }
            Self::Cut(to) => journal.truncate(to % length),
        }
        journal
    }
}

proptest! {
    #[test]
    fn no_tampering_goes_unnoticed(
        count in 1_usize..40,
        salt in any::<u64>(),
        first in 1_u64..4,
        done in proptest::collection::vec(tampering(), 1..3),
    ) {
        let whole = journal(&events(count, salt), 1.max(first.min(count as u64)));
        prop_assert_eq!(faults(&whole, count), []);
        let mut tampered = whole.clone();
        for tampering in &done {
            if !tampered.is_empty() {
                tampered = tampering.apply(tampered);
            }
        }
        let key = SealKey::from_seed(&[7; 32]).unwrap();
        let seal = key.seal(task(), count as u64, whole.last().unwrap().hash.unwrap());
        let verified = look(&tampered, count as u64, Some(seal), &[key.public()]);
        // A hash that was only taken away takes nothing from what the next one, or the seal, says.
        let bare = |journal: &[Chained]| journal.iter().map(|c| (c.seq, c.at, c.event.clone())).collect::<Vec<_>>();
        let unchanged = bare(&tampered) == bare(&whole);
        let said = !verified.faults.is_empty() || !verified.seal_holds || verified.starts != Some(first.min(count as u64));
        // What no chain covered may have been changed.
        let covered = |journal: &[Chained]| bare(journal).split_off(usize::try_from(first.min(count as u64) - 1).unwrap().min(journal.len()));
        prop_assert!(said || unchanged || covered(&tampered) == covered(&whole), "{done:?}: {verified:?}");
        if unchanged && tampered.iter().zip(&whole).all(|(t, w)| t.hash == w.hash) {
            prop_assert_eq!(verified.faults, []);
        }
    }
}
