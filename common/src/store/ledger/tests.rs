#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::journal::Submitted;
use crate::task::samples::{
    self, approval, at, child, decision, failure, finished, head, step, submitted, task, worker,
};
use crate::task::{Parent, StateName, Wait, WaitOn};

use StateName::{Cancelled, Dead, Ready, Running, Waiting};

fn kinds(recorded: &[Recorded]) -> Vec<&'static str> {
    recorded.iter().map(|r| r.event.kind()).collect()
}

fn cancel() -> Signal {
    Signal::Cancel { by: "ann".to_owned(), reason: "enough".to_owned() }
}

fn decide() -> Signal {
    Signal::Decide { approval: approval(), decision: decision() }
}

fn child_is_done() -> Signal {
    Signal::ChildFinished { child: child(), outcome: Outcome::Succeeded, result: json!(1) }
}

#[test]
fn the_first_event_and_the_head_agree() {
    let scheduled = Submitted { run_at: Some(at(10)), ..submitted() };
    let (head, first) = open(task(), scheduled, at(5));
    assert_eq!(Head::fold(task(), &[first]), Ok(head.clone()));
    assert_eq!(head.due_at(), Some(at(10)));
}

#[test]
fn only_a_ready_task_is_leased() {
    for state in StateName::ALL {
        let mut head = head(state);
        let before = head.clone();
        let leased = lease(&mut head, &worker(), at(1));
        assert_eq!(leased.is_ok(), state == Ready, "{state}");
        assert_eq!(leased.is_err(), head == before, "{state}");
    }
}

#[test]
fn an_append_is_added_whole_or_not_at_all() {
    let mut running = head(Running);
    let before = running.clone();
    let illegal = vec![finished(), Event::Leased { attempt: 9, worker: worker() }];
    assert!(append(&mut running, illegal, Next::Continue, &[cancel()], at(1)).is_err());
    assert_eq!(running, before);
    let nothing_to_wait_for = Next::Park(Wait { on: Vec::new(), until: None });
    assert!(append(&mut running, vec![finished()], nothing_to_wait_for, &[], at(1)).is_err());
    assert_eq!(running, before);
    let events = append(&mut running, vec![finished()], Next::Succeed { output: json!(1) }, &[], at(1)).unwrap();
    assert_eq!(kinds(&events), ["step_finished", "succeeded"]);
    assert!(events.iter().map(|r| r.seq).eq([2, 3]));
    for state in StateName::ALL.into_iter().filter(|state| *state != Running) {
        assert!(append(&mut head(state), Vec::new(), Next::Continue, &[], at(1)).is_err(), "{state}");
    }
}

#[test]
fn kept_signals_come_after_what_the_holder_says() {
    let mut running = head(Running);
    let events = append(&mut running, vec![finished()], Next::Continue, &[decide(), cancel()], at(1)).unwrap();
    assert_eq!(kinds(&events), ["step_finished", "approval_decided", "cancel_requested"]);
    // What comes while the holder parks for it makes the task ready at once.
    let mut running = head(Running);
    let wait = Next::Park(Wait { on: vec![WaitOn::Approval { approval: approval() }], until: None });
    append(&mut running, Vec::new(), wait, &[decide()], at(1)).unwrap();
    assert_eq!(running.state.name(), Ready);
    // What has lost its meaning is dropped.
    let mut running = head(Running);
    let events = append(&mut running, Vec::new(), Next::Succeed { output: json!(1) }, &[decide(), cancel()], at(1));
    assert_eq!(kinds(&events.unwrap()), ["succeeded"]);
    let mut running = head(Running);
    running.open_children.clear();
    assert!(append(&mut running, Vec::new(), Next::Continue, &[child_is_done()], at(1)).unwrap().is_empty());
}

#[test]
fn a_child_that_is_done_is_told_once_however_often_the_news_comes() {
    let mut running = head(Running);
    running.open_children.clear();
    let news = vec![Event::ChildSubmitted { step: step(), child: child() }];
    let kept = [child_is_done(), child_is_done()];
    let events = append(&mut running, news, Next::Continue, &kept, at(1)).unwrap();
    assert_eq!(kinds(&events), ["child_submitted", "child_finished"]);
}

#[test]
fn a_signal_is_applied_kept_or_refused() {
    let mut waiting = head(Waiting);
    let events = signal(&mut waiting, &[], &decide(), at(1)).unwrap().unwrap();
    assert_eq!((kinds(&events), waiting.state.name()), (vec!["approval_decided"], Ready));
    let mut running = head(Running);
    let before = running.clone();
    assert_eq!(signal(&mut running, &[], &decide(), at(1)), Ok(None));
    assert!(signal(&mut running, &[decide()], &decide(), at(1)).is_err());
    assert_eq!(running, before);
    assert!(signal(&mut head(Dead), &[], &cancel(), at(1)).is_err());
}

#[test]
fn a_lost_lease_takes_up_what_was_kept() {
    let mut running = head(Running);
    let events = expire(&mut running, &[cancel()], 1, at(1)).unwrap();
    assert_eq!(kinds(&events), ["lease_expired", "cancelled"], "and a cancelled task is no poison");
    assert!(expire(&mut head(Ready), &[], 1, at(1)).is_err());
}

#[test]
fn poison_is_found_at_the_limit() {
    let mut task = head(Ready);
    for lost in 1..=3 {
        lease(&mut task, &worker(), at(1)).unwrap();
        let events = expire(&mut task, &[], 3, at(2)).unwrap();
        assert_eq!(kinds(&events).last() == Some(&"died"), lost == 3);
    }
    assert!(matches!(task.state, State::Dead { reason: DeadReason::Poison, .. }));
}

#[test]
fn a_timer_wakes_what_waits_for_it_and_nothing_else() {
    for state in StateName::ALL {
        let woken = wake(&mut head(state), at(1));
        assert_eq!(woken.is_ok(), matches!(state, StateName::Scheduled | Waiting), "{state}");
    }
}

#[test]
fn what_cannot_be_read_is_set_aside_whatever_it_did() {
    for state in StateName::ALL {
        let mut head = head(state);
        let set_aside = set_aside(&mut head, failure(), at(1));
        assert_eq!(set_aside.is_ok(), !state.is_terminal(), "{state}");
        assert!(set_aside.is_err() || matches!(head.state, State::Dead { reason: DeadReason::Unreadable, .. }));
    }
}

#[test]
fn a_parent_is_told_how_its_child_ended_and_only_then() {
    let ends = [
        (Next::Succeed { output: json!({"x": 1}) }, Outcome::Succeeded, json!({"x": 1})),
        (
            Next::Cancel { by: "ann".to_owned(), reason: "enough".to_owned() },
            Outcome::Cancelled,
            json!({"reason": "enough"}),
        ),
        (
            Next::Die { reason: DeadReason::Failed, error: failure(), step: None },
            Outcome::Dead,
            json!({"reason": "failed", "class": "tool", "message": "it broke"}),
        ),
    ];
    for (next, outcome, result) in ends {
        let mut before = head(Running);
        before.parent = Some(Parent { task: child(), step: step(), depth: 1 });
        let mut after = before.clone();
        let events = append(&mut after, Vec::new(), next, &[], at(1)).unwrap();
        let told = Signal::ChildFinished { child: task(), outcome, result };
        assert_eq!(notice(&before, &after, &events), Some((child(), told.clone())));
        assert_eq!(ended(task(), &events), Some(told));
        assert_eq!(notice(&after, &after, &events), None, "it is told once");
        let orphan = Head { parent: None, ..after };
        assert_eq!(notice(&before, &orphan, &events), None);
    }
    assert_eq!(ended(task(), &[samples::first()]), None);
}

/// What a store may be asked to do, in any order.
#[derive(Debug, Clone)]
enum Operation {
    Lease,
    Append(Vec<Event>, Next),
    Signal(Signal),
    Expire,
    Wake,
}

fn operation() -> impl Strategy<Value = Operation> {
    let event = prop::sample::select(samples::events());
    let next = prop::sample::select(vec![
        Next::Continue,
        Next::Continue,
        Next::Park(samples::wait()),
        Next::Release { reason: "drain".to_owned() },
        Next::Succeed { output: json!(1) },
        Next::Cancel { by: "x".to_owned(), reason: "y".to_owned() },
        Next::Die { reason: DeadReason::Failed, error: failure(), step: None },
    ]);
    let replay = Signal::Replay {
        by: "ann".to_owned(),
        reset: vec![step().step],
        input: None,
        sealed: crate::journal::SealedValues::default(),
    };
    let signal = prop::sample::select(vec![cancel(), decide(), child_is_done(), Signal::Wake, replay]);
    prop_oneof![
        2 => Just(Operation::Lease),
        4 => (prop::collection::vec(event, 0..3), next).prop_map(|(events, next)| Operation::Append(events, next)),
        2 => signal.prop_map(Operation::Signal),
        1 => Just(Operation::Expire),
        1 => Just(Operation::Wake),
    ]
}

proptest! {
    #[test]
    fn whatever_is_asked_the_head_is_the_fold_of_the_journal(
        operations in prop::collection::vec(operation(), 0..60)
    ) {
        let (mut head, first) = open(task(), submitted(), at(0));
        let mut journal = vec![first];
        let mut kept: Vec<Signal> = Vec::new();
        for (index, operation) in operations.into_iter().enumerate() {
            let now = at(i64::try_from(index).unwrap());
            let before = head.clone();
            let added = match operation {
                Operation::Lease => lease(&mut head, &worker(), now).ok(),
                Operation::Append(events, next) => {
                    let added = append(&mut head, events, next, &kept, now).ok();
                    if added.is_some() {
                        kept.clear();
                    }
                    added
                }
                Operation::Signal(given) => match signal(&mut head, &kept, &given, now) {
                    Ok(Some(added)) => Some(added),
                    Ok(None) => {
                        kept.push(given);
                        None
                    }
                    Err(_) => None,
                },
                Operation::Expire => {
                    let added = expire(&mut head, &kept, 2, now).ok();
                    if added.is_some() {
                        kept.clear();
                    }
                    added
                }
                Operation::Wake => wake(&mut head, now).ok(),
            };
            if let Some(added) = added {
                journal.extend(added);
            } else {
                prop_assert_eq!(&head, &before);
            }
            prop_assert!(kept.is_empty() || head.state.name() == Running, "only a holder has an inbox");
        }
        prop_assert_eq!(Head::fold(task(), &journal).unwrap(), head.clone());
        prop_assert!(!matches!(head.state.name(), Cancelled) || head.open_approvals.is_empty());
    }
}
