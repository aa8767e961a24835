//! Random operations on a family of tasks, each in a book of its own and all in
//! one book: every change is a fold, and the two ways come to the same end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::journal::chain::{self, Witness};
use crate::journal::{EventHash, Fingerprint};

/// A task, and then its children and theirs: the parent of each.
const FAMILY: [Option<u8>; 5] = [None, Some(0), Some(0), Some(1), None];
/// Operations in a history.
const LENGTH: usize = 40;

#[derive(Debug, Clone)]
enum Operation {
    Lease(u8),
    Append { task: u8, next: u8, token: u8, child: u8 },
    Signal { task: u8, kind: u8 },
    Due(u8),
    GiveUp(u8),
    Wait(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let task = 0..u8::try_from(FAMILY.len()).unwrap();
    prop_oneof![
        3 => task.clone().prop_map(Operation::Lease),
        4 => (task.clone(), 0..8_u8, 0..8_u8, task.clone())
            .prop_map(|(task, next, token, child)| Operation::Append { task, next, token, child }),
        2 => (task.clone(), 0..4_u8).prop_map(|(task, kind)| Operation::Signal { task, kind }),
        2 => task.clone().prop_map(Operation::Due),
        1 => task.prop_map(Operation::GiveUp),
        1 => (0..120_u8).prop_map(Operation::Wait),
    ]
}

/// What a backend keeps.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    tasks: BTreeMap<TaskId, (Entry, Vec<(Recorded, EventHash)>)>,
}

impl Kept {
    fn new() -> Self {
        let tasks = FAMILY.iter().zip(0..).map(|(parent, n)| {
            let mut task = submitted();
            task.parent = parent.map(|parent| Parent { task: id(parent), step: step(), depth: 1 });
            let (head, first) = ledger::open(id(n), task, at(0));
            let bytes = serde_json::to_string(&first.event).unwrap().len() as u64;
            let print = Fingerprint::of(&first.event).unwrap();
            let hash = EventHash::of(id(n), None, first.seq, first.at, &print);
            (id(n), (Entry::open(head, bytes, Some(hash)), vec![(first, hash)]))
        });
        Self { tasks: tasks.collect() }
    }

    fn load(&self, book: &mut Book, task: TaskId) {
        let (mut entry, _) = self.tasks[&task].clone();
        let unfinished = |(other, _): &&(Entry, Vec<(Recorded, EventHash)>)| {
            !other.head.state.is_terminal() && other.head.parent.as_ref().is_some_and(|parent| parent.task == task)
        };
        entry.children = self.tasks.values().filter(unfinished).map(|(other, _)| other.head.id).collect();
        book.load(task, Known::Task(Box::new(entry)));
    }

    fn write(&mut self, changes: Vec<Change>) {
        for Change { before, mut after, added, .. } in changes {
            let (entry, journal) = self.tasks.get_mut(&after.head.id).unwrap();
            assert_eq!((&before.head, &before.kept, before.lease), (&entry.head, &entry.kept, entry.lease));
            journal.extend(added.into_iter().map(|added| (added.recorded, added.hash)));
            after.children.clear();
            *entry = after;
        }
    }

    fn verify(&self) {
        for (task, (entry, journal)) in &self.tasks {
            let chained: Vec<Chained> = journal
                .iter()
                .map(|(Recorded { seq, at, event }, hash)| Chained {
                    seq: *seq,
                    at: *at,
                    event: serde_json::to_string(event).unwrap(),
                    hash: Some(*hash),
                })
                .collect();
            let witness = Witness { task: *task, version: entry.head.version, seal: None, keys: &[] };
            let verified = chain::verify(&witness, &chained);
            assert_eq!((verified.faults, verified.starts, verified.head), (vec![], Some(1), entry.hash));
            let journal: &[Recorded] = &journal.iter().map(|(recorded, _)| recorded.clone()).collect::<Vec<_>>();
            assert_eq!(entry.head, Head::fold(*task, journal).unwrap());
            assert_eq!(entry.lease.is_some(), matches!(entry.head.state, State::Running { .. }));
            let bytes: usize = journal.iter().map(|r| serde_json::to_string(&r.event).unwrap().len()).sum();
            assert_eq!(entry.journal_bytes, bytes as u64);
            assert_eq!(entry.ending.is_some(), entry.head.state.is_terminal());
            if entry.head.state.is_terminal() {
                let ended = ledger::ended(*task, journal);
                assert_eq!(ledger::ended(*task, entry.ending.as_slice()), ended);
            }
            assert!(entry.kept.is_empty() || entry.lease.is_some(), "signals are kept for a holder");
        }
    }
}

/// Does it, loading what it needs; answers in words.
fn perform(book: &mut Book, kept: &Kept, operation: &Operation, number: u8) -> String {
    loop {
        let before: Vec<_> = kept.tasks.keys().map(|task| book.entry(*task).cloned()).collect();
        let (answer, needs) = match attempt(book, operation, number) {
            Ok(answer) => (answer, Vec::new()),
            Err(needs) => (String::new(), needs),
        };
        if needs.is_empty() {
            return answer;
        }
        assert!(kept.tasks.keys().map(|task| book.entry(*task).cloned()).eq(before), "it changed nothing");
        for task in needs {
            assert!(!book.knows(task), "it asks for what it was not given");
            kept.load(book, task);
        }
    }
}

fn attempt(book: &mut Book, operation: &Operation, number: u8) -> Result<String, Vec<TaskId>> {
    match operation {
        Operation::Lease(task) => {
            let expires = book.now.plus(std::time::Duration::from_millis(60));
            words(book.lease(id(*task), &worker(), Lease { token: token(1), expires }))
        }
        Operation::Append { task, next, token: lease, child } => {
            let expected = match book.entry(id(*task)) {
                Some(entry) => entry.head.version,
                None => return Err(vec![id(*task)]),
            };
            let mut events = vec![finished()];
            let mut on = vec![WaitOn::Timer { step: step() }];
            let next = match next {
                0 => succeed(),
                1 => Next::Die { reason: DeadReason::Failed, error: failure(), step: None },
                2 => Next::Release { reason: "drain".to_owned() },
                3 | 4 => {
                    events.push(Event::ChildSubmitted { step: step(), child: id(*child) });
                    on.push(WaitOn::Child { task: id(*child) });
                    let until = Some(book.now.plus(std::time::Duration::from_millis(30)));
                    Next::Park(Wait { on, until })
                }
                _ => Next::Continue,
            };
            let token = token(u8::from(*lease > 0));
            let request = Append { task: id(*task), token, id: AppendId::new([number; 16]), expected, events, next };
            words(append(book, &request))
        }
        Operation::Signal { task, kind } => {
            let signal = match kind {
                0 => cancel(),
                1 => Signal::Wake,
                _ => Signal::Replay {
                    by: "ann".to_owned(),
                    reset: Vec::new(),
                    input: None,
                    sealed: crate::journal::SealedValues::default(),
                },
            };
            words(book.signal(id(*task), &signal))
        }
        Operation::Due(task) => words(book.due(id(*task))),
        Operation::GiveUp(task) => words(book.give_up(id(*task), token(1), "?")),
        Operation::Wait(millis) => {
            let now = book.now.plus(std::time::Duration::from_millis(u64::from(*millis)));
            book.at(now);
            Ok(String::new())
        }
    }
}

fn words<T: std::fmt::Debug, E: std::fmt::Debug>(answer: Result<T, Stop<E>>) -> Result<String, Vec<TaskId>> {
    match answer {
        Ok(answer) => Ok(format!("{answer:?}")),
        Err(Stop::Refused(error)) => Ok(format!("{error:?}")),
        Err(Stop::Needs(Needs(ids))) => Err(ids),
    }
}

proptest! {
    #[test]
    fn one_book_or_many_come_to_the_same_end(operations in prop::collection::vec(operation(), 1..LENGTH)) {
        let (start, mut many) = (Kept::new(), Kept::new());
        let mut one = Book::new(at(10), limits());
        let mut now = at(10);
        for (operation, number) in operations.iter().zip(0..) {
            let in_one = perform(&mut one, &start, operation, number);
            let mut book = Book::new(now, limits());
            let in_many = perform(&mut book, &many, operation, number);
            now = book.now;
            let changes = book.into_changes();
            for change in &changes {
                let became = change.before.ready_since().is_none() && change.after.ready_since().is_some();
                prop_assert_eq!(change.hint().is_some(), became, "{:?}", change);
            }
            many.write(changes);
            many.verify();
            prop_assert_eq!(in_one, in_many);
        }
        let mut all = start;
        all.write(one.into_changes());
        prop_assert_eq!(all, many);
    }
}
