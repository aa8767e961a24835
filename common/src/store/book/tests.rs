//! What each operation makes of the tasks that it touches.
#![allow(clippy::unwrap_used, clippy::panic)]

mod random;

use serde_json::json;

use super::*;
use crate::id::AppendId;
use crate::journal::Event;
use crate::store::{Hint, Next, intake};
use crate::task::samples::{at, failure, finished, step, submitted, worker};
use crate::task::{Head, Outcome, Parent, Refusal, StateName, Wait, WaitOn};

const PARENT: u8 = 1;
const CHILD: u8 = 2;
const GRANDCHILD: u8 = 3;

fn id(n: u8) -> TaskId {
    TaskId::new(at(0), [n; 10])
}

fn token(n: u8) -> LeaseToken {
    LeaseToken::new([n; 16])
}

fn lease() -> Lease {
    Lease { token: token(1), expires: at(100) }
}

fn limits() -> Limits {
    Limits { barren_attempts: 2, ..Limits::default() }
}

fn book() -> Book {
    Book::new(at(10), limits())
}

/// A ready task; a child, if it has a parent.
fn ready(n: u8, parent: Option<u8>) -> Entry {
    let mut task = submitted();
    task.parent = parent.map(|parent| Parent { task: id(parent), step: step(), depth: 1 });
    Entry::open(Head::open(id(n), at(0), &task), 100, None)
}

fn running(n: u8, parent: Option<u8>) -> Entry {
    let mut entry = ready(n, parent);
    ledger::lease(&mut entry.head, &worker(), at(1)).unwrap();
    entry.lease = Some(lease());
    entry
}

fn waiting(n: u8, parent: Option<u8>, wait: Wait) -> Entry {
    let mut entry = running(n, parent);
    ledger::append(&mut entry.head, Vec::new(), Next::Park(wait), &[], at(2)).unwrap();
    entry.lease = None;
    entry
}

fn waiting_for(n: u8, child: u8) -> Entry {
    let mut entry = running(n, None);
    let events = vec![Event::ChildSubmitted { step: step(), child: id(child) }];
    let wait = Wait { on: vec![WaitOn::Child { task: id(child) }], until: None };
    ledger::append(&mut entry.head, events, Next::Park(wait), &[], at(2)).unwrap();
    entry.lease = None;
    entry.children = vec![id(child)];
    entry
}

fn load(book: &mut Book, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        book.load(entry.head.id, Known::Task(Box::new(entry)));
    }
}

fn request(entry: &Entry, n: u8, events: Vec<Event>, next: Next) -> Append {
    Append {
        task: entry.head.id,
        token: token(1),
        id: AppendId::new([n; 16]),
        expected: entry.head.version,
        events,
        next,
    }
}

fn append(book: &mut Book, append: &Append) -> Result<AppendAnswer, Stop<AppendError>> {
    book.append(append, &intake::append(append).unwrap())
}

fn succeed() -> Next {
    Next::Succeed { output: json!("done") }
}

fn cancel() -> Signal {
    Signal::Cancel { by: "ann".to_owned(), reason: "enough".to_owned() }
}

fn kinds(change: &Change) -> Vec<&'static str> {
    change.added.iter().map(|added| added.recorded.event.kind()).collect()
}

fn change_of(changes: &[Change], n: u8) -> &Change {
    changes.iter().find(|change| change.after.head.id == id(n)).unwrap()
}

fn needs<T: std::fmt::Debug, E: std::fmt::Debug>(answer: Result<T, Stop<E>>) -> Vec<TaskId> {
    match answer {
        Err(Stop::Needs(Needs(ids))) => ids,
        other => panic!("{other:?}"),
    }
}

fn refused<T: std::fmt::Debug, E: std::fmt::Debug>(answer: Result<T, Stop<E>>) -> E {
    match answer {
        Err(Stop::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_append_adds_its_events_and_goes_on() {
    let mut book = book();
    let entry = running(1, None);
    load(&mut book, [entry.clone()]);
    let answer = append(&mut book, &request(&entry, 7, vec![finished()], Next::Continue)).unwrap();
    let AppendAnswer::Added(recorded) = answer else { panic!("{answer:?}") };
    assert_eq!(recorded.len(), 1);
    let changes = book.into_changes();
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(change.before, entry);
    assert_eq!(change.added[0].recorded, recorded[0]);
    assert_eq!(change.added[0].event, serde_json::to_string(&recorded[0].event).unwrap());
    assert_eq!(change.after.journal_bytes, 100 + change.added[0].event.len() as u64);
    assert_eq!(change.after.lease, Some(lease()));
    assert_eq!(change.after.last_append, Some(LastAppend { id: AppendId::new([7; 16]), from: 3, to: 4 }));
}

#[test]
fn a_repeated_append_is_answered_with_what_it_added_and_changes_nothing() {
    let mut entry = running(1, None);
    let request = request(&entry, 7, vec![finished()], succeed());
    let mut first = book();
    load(&mut first, [entry.clone()]);
    append(&mut first, &request).unwrap();
    assert_eq!(append(&mut first, &request).unwrap(), AppendAnswer::Repeated { from: 3, to: 5 }, "in the same book");
    entry = first.into_changes().remove(0).after;
    assert_eq!(entry.lease, None);
    let mut second = book();
    load(&mut second, [entry]);
    assert_eq!(append(&mut second, &request).unwrap(), AppendAnswer::Repeated { from: 3, to: 5 });
    assert_eq!(second.into_changes(), []);
}

#[test]
fn only_the_holder_appends_and_only_while_the_lease_lasts() {
    let entry = running(1, None);
    let good = request(&entry, 7, vec![finished()], Next::Continue);
    let lost = |book: &mut Book, append_request: &Append| matches!(refused(append(book, append_request)), AppendError::LeaseLost(task) if task == append_request.task);
    let mut book = book();
    load(&mut book, [entry, ready(2, None)]);
    book.load(id(3), Known::Missing);
    assert!(lost(&mut book, &Append { token: token(2), ..good.clone() }));
    assert!(lost(&mut book, &Append { task: id(2), ..good.clone() }), "nobody holds it");
    assert!(lost(&mut book, &Append { task: id(3), ..good.clone() }), "there is no such task");
    book.at(at(100));
    assert!(lost(&mut book, &good), "its time is over");
    book.at(at(99));
    append(&mut book, &good).unwrap();
    assert_eq!(book.into_changes().len(), 1);
}

#[test]
fn a_stale_version_is_a_conflict() {
    let entry = running(1, None);
    let mut book = book();
    load(&mut book, [entry.clone()]);
    let stale = Append { expected: 1, ..request(&entry, 7, vec![finished()], Next::Continue) };
    let error = refused(append(&mut book, &stale));
    assert!(matches!(error, AppendError::Conflict { expected: 1, actual: 2, .. }), "{error:?}");
    assert_eq!(book.into_changes(), []);
}

#[test]
fn a_full_journal_takes_nothing_but_its_end() {
    let entry = running(1, None);
    let mut book = Book::new(at(10), Limits { journal_bytes: 150, ..limits() });
    load(&mut book, [entry.clone()]);
    let error = refused(append(&mut book, &request(&entry, 7, vec![finished()], Next::Continue)));
    assert!(matches!(error, AppendError::JournalFull { limit: 150, .. }), "{error:?}");
    let die = Next::Die { reason: DeadReason::Limit, error: failure(), step: None };
    append(&mut book, &request(&entry, 8, Vec::new(), die)).unwrap();
    assert_eq!(book.entry(id(1)).unwrap().state(), StateName::Dead);
}

#[test]
fn an_event_that_cannot_follow_changes_nothing() {
    let entry = running(1, None);
    let mut book = book();
    load(&mut book, [entry.clone()]);
    let twice = vec![finished(), Event::Released { reason: "x".to_owned() }, finished()];
    let error = refused(append(&mut book, &request(&entry, 7, twice, Next::Continue)));
    assert!(matches!(error, AppendError::Illegal(_)), "{error:?}");
    assert_eq!(book.entry(id(1)), Some(&entry));
    assert_eq!(book.into_changes(), []);
}

#[test]
fn signals_are_kept_for_the_holder_and_taken_up_by_its_next_append() {
    let entry = running(1, None);
    let mut book = book();
    load(&mut book, [entry.clone()]);
    assert_eq!(book.signal(id(1), &cancel()).unwrap(), Signalled::Requested);
    assert_eq!(book.signal(id(1), &cancel()).unwrap(), Signalled::Requested);
    assert_eq!(book.entry(id(1)).unwrap().kept, [cancel()], "asked twice, kept once");
    let answer = append(&mut book, &request(&entry, 7, vec![finished()], Next::Continue)).unwrap();
    let AppendAnswer::Added(recorded) = answer else { panic!("{answer:?}") };
    assert_eq!(recorded.last().unwrap().event.kind(), "cancel_requested");
    let changes = book.into_changes();
    assert_eq!(kinds(&changes[0]), ["step_finished", "cancel_requested"]);
    assert_eq!(changes[0].before, entry, "as it was loaded");
    assert_eq!(changes[0].after.kept, []);
    assert_eq!(changes[0].after.last_append.unwrap().to, 5, "a repeated answer has it too");
}

#[test]
fn a_signal_to_a_task_at_rest_is_applied() {
    let mut book = book();
    load(&mut book, [ready(1, None)]);
    assert_eq!(book.signal(id(1), &cancel()).unwrap(), Signalled::Applied(StateName::Cancelled));
    let error = refused(book.signal(id(1), &cancel()));
    assert!(matches!(error, SignalError::Refused(Refusal::State { state: StateName::Cancelled, .. })), "{error:?}");
    book.load(id(9), Known::Missing);
    assert!(matches!(refused(book.signal(id(9), &cancel())), SignalError::NotFound(task) if task == id(9)));
    let changes = book.into_changes();
    assert_eq!(changes[0].after.ending, changes[0].added.last().map(|added| added.recorded.clone()));
}

#[test]
fn a_parent_is_told_how_its_child_ended() {
    let mut book = book();
    let child = running(CHILD, Some(PARENT));
    load(&mut book, [waiting_for(PARENT, CHILD), child.clone()]);
    append(&mut book, &request(&child, 7, Vec::new(), succeed())).unwrap();
    let changes = book.into_changes();
    let parent = change_of(&changes, PARENT);
    assert_eq!(kinds(parent), ["child_finished"]);
    let Event::ChildFinished { outcome, result, .. } = &parent.added[0].recorded.event else { panic!() };
    assert_eq!((*outcome, result), (Outcome::Succeeded, &json!("done")));
    let hint = Hint { task: id(PARENT), version: 5, queue: parent.after.head.queue.clone(), priority: 4 };
    assert_eq!(parent.hint(), Some(hint));
    assert_eq!(change_of(&changes, CHILD).hint(), None);
}

#[test]
fn a_parent_that_runs_keeps_the_word_of_its_child() {
    let mut book = book();
    let (parent, child) = (running(PARENT, None), running(CHILD, Some(PARENT)));
    load(&mut book, [parent, child.clone()]);
    append(&mut book, &request(&child, 7, Vec::new(), succeed())).unwrap();
    let changes = book.into_changes();
    assert!(matches!(change_of(&changes, PARENT).after.kept.as_slice(), [Signal::ChildFinished { .. }]));
    assert_eq!(change_of(&changes, PARENT).added, []);
}

#[test]
fn what_ends_a_task_stops_its_children_and_theirs() {
    let mut book = book();
    let mut parent = running(PARENT, None);
    parent.children = vec![id(CHILD)];
    let mut child =
        waiting(CHILD, Some(PARENT), Wait { on: vec![WaitOn::Timer { step: step() }], until: Some(at(50)) });
    child.children = vec![id(GRANDCHILD)];
    load(&mut book, [parent.clone(), child, running(GRANDCHILD, Some(CHILD))]);
    append(&mut book, &request(&parent, 7, Vec::new(), succeed())).unwrap();
    assert_eq!(book.entry(id(CHILD)).unwrap().state(), StateName::Cancelled);
    let grandchild = book.entry(id(GRANDCHILD)).unwrap();
    assert!(matches!(grandchild.kept.as_slice(), [Signal::Cancel { .. }]), "a running one is asked");
}

#[test]
fn a_child_that_ended_before_it_was_journaled_is_no_limbo() {
    let mut ended = running(CHILD, Some(PARENT));
    let recorded = ledger::append(&mut ended.head, Vec::new(), succeed(), &[], at(5)).unwrap();
    (ended.lease, ended.ending) = (None, recorded.last().cloned());
    let parent = running(PARENT, None);
    let wait = Wait { on: vec![WaitOn::Child { task: id(CHILD) }], until: None };
    let submitted = vec![Event::ChildSubmitted { step: step(), child: id(CHILD) }];
    let request = request(&parent, 7, submitted, Next::Park(wait));
    for (child, outcome) in [
        (Known::Task(Box::new(ended.clone())), Outcome::Succeeded),
        (Known::Task(Box::new(Entry { ending: None, ..ended.clone() })), Outcome::Dead),
        (Known::Task(Box::new(Entry { set_aside: true, ..ready(CHILD, Some(PARENT)) })), Outcome::Dead),
        (Known::Unreadable("from the future".to_owned()), Outcome::Dead),
    ] {
        let mut book = book();
        load(&mut book, [parent.clone()]);
        book.load(id(CHILD), child);
        append(&mut book, &request).unwrap();
        let after = book.entry(id(PARENT)).unwrap();
        assert_eq!(after.state(), StateName::Ready, "{outcome:?}");
        let changes = book.into_changes();
        let last = &changes[0].added.last().unwrap().recorded;
        assert!(matches!(&last.event, Event::ChildFinished { outcome: told, .. } if *told == outcome), "{last:?}");
        assert_eq!(changes[0].hint().map(|hint| hint.version), Some(last.seq));
    }
}

#[test]
fn a_lease_is_given_for_a_ready_task_only() {
    let mut book = book();
    load(&mut book, [ready(1, None), Entry { set_aside: true, ..ready(2, None) }]);
    book.load(id(3), Known::Missing);
    book.load(id(4), Known::Unreadable("?".to_owned()));
    assert!(book.lease(id(1), &worker(), lease()).unwrap());
    assert!(!book.lease(id(1), &worker(), Lease { token: token(2), ..lease() }).unwrap(), "it is held");
    assert!(!book.lease(id(2), &worker(), lease()).unwrap());
    assert!(!book.lease(id(3), &worker(), lease()).unwrap());
    assert!(matches!(refused(book.lease(id(4), &worker(), lease())), StoreError::Damaged(_)));
    let entry = book.entry(id(1)).unwrap();
    assert!(entry.is_held_by(token(1), at(99)) && !entry.is_held_by(token(1), at(100)));
    assert_eq!(entry.due_at(), Some(at(100)));
    assert_eq!(book.into_changes().len(), 1);
}

#[test]
fn timers_and_leases_end_in_their_time_and_not_before() {
    let mut book = book();
    let wait = Wait { on: vec![WaitOn::Timer { step: step() }], until: Some(at(50)) };
    load(&mut book, [waiting(1, None, wait), running(2, None), ready(3, None)]);
    for n in 1..=3 {
        assert_eq!(book.due(id(n)).unwrap(), DueAnswer::NotDue);
    }
    book.at(at(100));
    assert_eq!(book.due(id(1)).unwrap(), DueAnswer::Woken);
    assert_eq!(book.due(id(2)).unwrap(), DueAnswer::Expired);
    assert_eq!(book.due(id(3)).unwrap(), DueAnswer::NotDue);
    assert_eq!(book.due(id(1)).unwrap(), DueAnswer::NotDue, "once");
    let changes = book.into_changes();
    assert_eq!(change_of(&changes, 1).hint().map(|hint| hint.version), Some(4));
    assert_eq!(change_of(&changes, 2).hint().map(|hint| hint.version), Some(3));
}

#[test]
fn a_task_that_loses_worker_after_worker_is_poison() {
    let mut entry = running(1, None);
    ledger::expire(&mut entry.head, &[], 9, at(2)).unwrap();
    ledger::lease(&mut entry.head, &worker(), at(3)).unwrap();
    let mut book = book();
    load(&mut book, [entry]);
    book.at(at(100));
    assert_eq!(book.due(id(1)).unwrap(), DueAnswer::Poisoned);
    let changes = book.into_changes();
    assert_eq!(kinds(&changes[0]), ["lease_expired", "died"]);
    assert_eq!(changes[0].hint(), None);
}

#[test]
fn a_kept_request_is_taken_up_when_the_lease_is_lost() {
    let mut book = book();
    load(&mut book, [Entry { kept: vec![cancel()], ..running(1, None) }]);
    book.at(at(100));
    assert_eq!(book.due(id(1)).unwrap(), DueAnswer::Expired);
    let changes = book.into_changes();
    assert_eq!(kinds(&changes[0]), ["lease_expired", "cancelled"]);
    assert_eq!(changes[0].after.kept, []);
}

#[test]
fn a_holder_gives_up_what_it_cannot_read() {
    let mut book = book();
    load(&mut book, [waiting_for(PARENT, CHILD), running(CHILD, Some(PARENT))]);
    book.give_up(id(CHILD), token(2), "?").unwrap();
    assert_eq!(book.entry(id(CHILD)).unwrap().state(), StateName::Running, "not with another token");
    book.give_up(id(CHILD), token(1), "?").unwrap();
    let state = &book.entry(id(CHILD)).unwrap().head.state;
    assert!(matches!(state, State::Dead { reason: DeadReason::Unreadable, .. }), "{state:?}");
    assert_eq!(book.entry(id(PARENT)).unwrap().state(), StateName::Ready, "its parent is told");
}

#[test]
fn what_was_set_aside_says_so_when_it_is_replayed() {
    let mut book = book();
    load(&mut book, [Entry { set_aside: true, ..running(1, None) }]);
    assert_eq!(book.entry(id(1)).unwrap().state(), StateName::Dead);
    assert_eq!(book.entry(id(1)).unwrap().due_at(), None);
    let replay = Signal::Replay {
        by: "ann".to_owned(),
        reset: Vec::new(),
        input: None,
        sealed: crate::journal::SealedValues::default(),
    };
    assert_eq!(book.signal(id(1), &replay).unwrap(), Signalled::Applied(StateName::Ready));
    let changes = book.into_changes();
    assert_eq!(kinds(&changes[0]), ["died", "replayed"]);
    assert!(!changes[0].after.set_aside && changes[0].hint().is_some());
}

#[test]
fn what_cannot_be_read_is_damage_and_holds_up_no_family() {
    let mut book = book();
    let mut parent = running(PARENT, None);
    parent.children = vec![id(CHILD)];
    load(&mut book, [parent.clone()]);
    book.load(id(CHILD), Known::Unreadable("?".to_owned()));
    assert!(matches!(refused(book.signal(id(CHILD), &cancel())), SignalError::Store(StoreError::Damaged(_))));
    append(&mut book, &request(&parent, 7, Vec::new(), succeed())).unwrap();
    assert_eq!(book.into_changes().len(), 1);
}

#[test]
fn an_operation_that_needs_entries_changes_nothing() {
    let mut book = book();
    let mut parent = running(PARENT, None);
    parent.children = vec![id(CHILD)];
    let finish = request(&parent, 7, vec![finished()], succeed());
    assert_eq!(needs(append(&mut book, &finish)), [id(PARENT)]);
    load(&mut book, [parent.clone()]);
    assert_eq!(needs(append(&mut book, &finish)), [id(CHILD)]);
    assert_eq!(book.entry(id(PARENT)), Some(&parent));
    let mut child = ready(CHILD, Some(PARENT));
    child.children = vec![id(GRANDCHILD)];
    load(&mut book, [child.clone()]);
    assert_eq!(needs(append(&mut book, &finish)), [id(GRANDCHILD)]);
    assert_eq!((book.entry(id(PARENT)), book.entry(id(CHILD))), (Some(&parent), Some(&child)));
    book.load(id(GRANDCHILD), Known::Missing);
    append(&mut book, &finish).unwrap();
    assert_eq!(book.into_changes().len(), 2);
}

#[test]
fn operations_of_one_book_see_each_other() {
    let mut book = book();
    load(&mut book, [ready(PARENT, None), ready(CHILD, Some(PARENT))]);
    for n in [PARENT, CHILD] {
        assert!(book.lease(id(n), &worker(), lease()).unwrap());
    }
    let parent = book.entry(id(PARENT)).unwrap().clone();
    let events = vec![Event::ChildSubmitted { step: step(), child: id(CHILD) }];
    let wait = Wait { on: vec![WaitOn::Child { task: id(CHILD) }], until: None };
    append(&mut book, &request(&parent, 7, events, Next::Park(wait))).unwrap();
    let child = book.entry(id(CHILD)).unwrap().clone();
    append(&mut book, &request(&child, 8, Vec::new(), succeed())).unwrap();
    assert_eq!(book.entry(id(PARENT)).unwrap().state(), StateName::Ready);
    let changes = book.into_changes();
    assert_eq!(kinds(change_of(&changes, PARENT)), ["leased", "child_submitted", "parked", "child_finished"]);
    assert_eq!(kinds(change_of(&changes, CHILD)), ["leased", "succeeded"]);
    assert_eq!(change_of(&changes, PARENT).before, ready(PARENT, None));
}

#[test]
fn a_child_that_was_sent_on_its_way_again_in_the_same_book_stops_with_its_parent() {
    let mut book = book();
    let mut dead = running(CHILD, Some(PARENT));
    ledger::append(
        &mut dead.head,
        Vec::new(),
        Next::Die { reason: DeadReason::Failed, error: failure(), step: None },
        &[],
        at(5),
    )
    .unwrap();
    dead.lease = None;
    let parent = running(PARENT, None);
    load(&mut book, [parent.clone(), dead]);
    let replay = Signal::Replay {
        by: "ann".to_owned(),
        reset: Vec::new(),
        input: None,
        sealed: crate::journal::SealedValues::default(),
    };
    book.signal(id(CHILD), &replay).unwrap();
    append(&mut book, &request(&parent, 7, Vec::new(), succeed())).unwrap();
    assert_eq!(book.entry(id(CHILD)).unwrap().state(), StateName::Cancelled);
}
