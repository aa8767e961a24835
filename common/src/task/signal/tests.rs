#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::clock::Timestamp;
use crate::journal::Recorded;
use crate::task::Wait;
use crate::task::samples::{self, approval, call, child, decision, head, step};

use StateName::{Cancelled, Dead, Running, Scheduled, Waiting};

fn signals() -> Vec<Signal> {
    vec![
        Signal::Cancel { by: "ann".to_owned(), reason: "enough".to_owned() },
        Signal::Wake,
        Signal::Decide { approval: approval(), decision: decision() },
        Signal::Resolve { step: step(), call: call(), by: "ann".to_owned(), happened: None },
        Signal::ChildFinished { child: child(), outcome: Outcome::Dead, result: json!(1) },
        Signal::Replay {
            by: "ann".to_owned(),
            reset: Vec::new(),
            input: None,
            sealed: crate::journal::SealedValues::default(),
        },
        Signal::ModelAnswered { step: step(), entry: samples::entry(), call: Box::new(samples::model_call()) },
        Signal::ModelFailed { step: step(), entry: samples::entry(), error: samples::failure() },
        Signal::Unhalt,
        Signal::Room,
        Signal::Raise { by: "ann".to_owned(), usd: Some(1.0), tokens: None },
        Signal::Seal { entries: samples::sealed() },
    ]
}

#[test]
fn what_is_admitted_can_be_applied_and_the_rest_is_refused() {
    for state in StateName::ALL {
        for signal in signals() {
            let head = head(state);
            let legal = match signal {
                Signal::Wake => matches!(state, Scheduled | Waiting),
                Signal::Replay { .. } => matches!(state, Dead | Cancelled),
                // Of the samples, none waits for that.
                Signal::Unhalt => false,
                Signal::Room => state == Running,
                Signal::Raise { .. } => !matches!(state, StateName::Succeeded | Cancelled),
                // Questions are answered as long as they are open; a task that ends closes them.
                Signal::Decide { .. }
                | Signal::Resolve { .. }
                | Signal::ModelAnswered { .. }
                | Signal::ModelFailed { .. }
                    if state.is_terminal() =>
                {
                    continue;
                }
                _ => !state.is_terminal(),
            };
            match admit(&head, &[], &signal) {
                Ok(Admission::Apply(event)) => {
                    assert!(legal && state != Running, "{signal:?} in {state}");
                    let recorded = Recorded { seq: head.version + 1, at: Timestamp::from_millis(1), event: *event };
                    assert_eq!(head.clone().apply(&recorded), Ok(()), "{signal:?} in {state}");
                }
                Ok(Admission::Keep) => assert!(legal && state == Running, "{signal:?} in {state}"),
                Err(_) => assert!(!legal, "{signal:?} in {state}"),
            }
        }
    }
}

#[test]
fn a_question_is_answered_once_also_while_the_first_answer_waits() {
    let running = head(Running);
    for question in signals()[2..4].iter().chain(&signals()[6..8]) {
        assert_eq!(admit(&running, &[], question), Ok(Admission::Keep));
        let again = admit(&running, std::slice::from_ref(question), question);
        assert!(matches!(again, Err(Refusal::Decided(_))), "{again:?}");
    }
}

#[test]
fn a_question_that_is_not_open_is_unknown() {
    let mut waiting = head(Waiting);
    waiting.open_approvals.clear();
    waiting.unknown_outcomes.clear();
    waiting.open_children.clear();
    waiting.open_entries.clear();
    for signal in signals()[2..5].iter().chain(&signals()[6..8]) {
        let answer = admit(&waiting, &[], signal);
        assert!(matches!(answer, Err(Refusal::Unknown(_))), "{answer:?}");
    }
}

#[test]
fn a_holder_is_asked_to_cancel_where_a_task_at_rest_is_cancelled() {
    let cancel = &signals()[0];
    let kind = |state| cancel.take_up(&head(state)).map(|event| event.kind());
    assert_eq!(kind(Running), Some("cancel_requested"));
    assert_eq!(kind(Waiting), Some("cancelled"));
    assert_eq!(kind(Dead), None);
}

#[test]
fn what_is_taken_up_can_be_applied() {
    for state in StateName::ALL {
        for signal in signals() {
            let mut head = head(state);
            let is_answer = matches!(signal, Signal::ModelAnswered { .. } | Signal::ModelFailed { .. });
            if state.is_terminal() && (is_answer || matches!(signal, Signal::Decide { .. } | Signal::Resolve { .. })) {
                continue;
            }
            if let Some(event) = signal.take_up(&head) {
                let recorded = Recorded { seq: head.version + 1, at: samples::at(1), event };
                assert_eq!(head.apply(&recorded), Ok(()), "{signal:?} in {state}");
            }
        }
    }
}

#[test]
fn the_end_of_a_halt_wakes_only_what_waits_for_it() {
    let mut waiting = head(Waiting);
    assert!(admit(&waiting, &[], &Signal::Unhalt).is_err());
    let wait = Wait { on: vec![WaitOn::Halt], until: None };
    waiting.state = State::Waiting { wait, since: Timestamp::from_millis(0) };
    let woken = Event::Woken { cause: WakeCause::Unhalted };
    assert_eq!(admit(&waiting, &[], &Signal::Unhalt), Ok(Admission::Apply(Box::new(woken))));
}
