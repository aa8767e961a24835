#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::id::StepId;
use crate::task::samples::{self, answered, at, call, failure, finished, first, intended, step, task, worker};
use crate::task::{DeadReason, StateName};

/// A run whose task is held.
fn running() -> Run {
    let mut run = Run::fold(task(), &[first()]).unwrap();
    add(&mut run, Event::Leased { attempt: 1, worker: worker() });
    run
}

fn try_add(run: &mut Run, event: Event) -> Result<(), IllegalEvent> {
    let seq = run.head.version + 1;
    run.apply(&Recorded { seq, at: at(i64::try_from(seq).unwrap()), event })
}

fn add(run: &mut Run, event: Event) {
    try_add(run, event).unwrap_or_else(|error| panic!("{error}"));
}

fn of_kind(kind: &str) -> Event {
    samples::events().into_iter().find(|event| event.kind() == kind).unwrap()
}

fn refuses(run: &Run, event: Event) {
    let mut after = run.clone();
    assert!(try_add(&mut after, event).is_err());
    assert_eq!(&after, run);
}

#[test]
fn a_step_that_is_done_takes_no_more_events() {
    let mut run = running();
    add(&mut run, finished());
    let own = samples::events().into_iter().filter(|event| event.step() == Some(&step()));
    for event in own {
        refuses(&run, event);
    }
    assert_eq!(run.step(&step()).unwrap().outcome(), Some(&StepOutcome::Succeeded { output: json!(1) }));
}

#[test]
fn a_call_is_answered_once() {
    let mut run = running();
    add(&mut run, intended());
    add(&mut run, answered());
    refuses(&run, answered());
    refuses(&run, intended());
    refuses(&run, of_kind("outcome_unknown"));
}

#[test]
fn a_call_of_unknown_outcome_is_not_made_again_before_a_person_said_so() {
    let mut run = running();
    refuses(&run, of_kind("outcome_unknown"));
    add(&mut run, intended());
    add(&mut run, of_kind("outcome_unknown"));
    refuses(&run, intended());
    add(&mut run, Event::OutcomeResolved { step: step(), call: call(), by: "ann".to_owned(), happened: None });
    assert_eq!(run.step(&step()).unwrap().calls[&call()].state, CallState::Cleared);
    add(&mut run, intended());
    add(&mut run, of_kind("outcome_unknown"));
    let happened = Some(json!("sent"));
    add(&mut run, Event::OutcomeResolved { step: step(), call: call(), by: "ann".to_owned(), happened });
    assert!(matches!(run.step(&step()).unwrap().calls[&call()].state, CallState::Finished(_)));
    refuses(&run, intended());
}

#[test]
fn an_intent_knows_the_attempt_that_made_it() {
    let mut run = running();
    add(&mut run, intended());
    add(&mut run, Event::LeaseExpired { worker: worker() });
    add(&mut run, Event::Leased { attempt: 2, worker: worker() });
    assert_eq!(run.step(&step()).unwrap().calls[&call()].state, CallState::Intended { attempt: 1 });
    add(&mut run, intended());
    assert_eq!(run.step(&step()).unwrap().calls[&call()].state, CallState::Intended { attempt: 2 });
}

#[test]
fn an_agent_answers_its_calls_before_its_next_turn() {
    let mut run = running();
    refuses(&run, of_kind("turn_finished"));
    refuses(&run, of_kind("prompted"));
    add(&mut run, of_kind("agent_started"));
    refuses(&run, of_kind("agent_started"));
    add(&mut run, of_kind("turn_finished"));
    refuses(&run, of_kind("turn_finished"));
    add(&mut run, answered());
    refuses(&run, answered());
    let conversation = run.step(&step()).unwrap().conversation.as_ref().unwrap();
    assert_eq!(conversation.turns.len(), 1);
    assert!(conversation.open_calls().is_empty());
    assert_eq!(run.head.usage.cost_usd.to_bits(), 0.5_f64.to_bits());
}

#[test]
fn a_retry_counts_and_the_last_error_stays() {
    let mut run = running();
    add(&mut run, Event::StepRetrying { step: step(), error: failure(), not_before: at(99) });
    let known = run.step(&step()).unwrap();
    assert_eq!((known.failed_tries, &known.status), (1, &StepStatus::Retrying { not_before: at(99) }));
    add(&mut run, finished());
    let known = run.step(&step()).unwrap();
    assert_eq!((known.failed_tries, known.last_error.as_ref()), (1, Some(&failure())));
}

#[test]
fn a_question_and_a_child_are_one_each() {
    for kind in ["approval_requested", "child_submitted", "expanded"] {
        let mut run = running();
        add(&mut run, of_kind(kind));
        refuses(&run, of_kind(kind));
    }
    let mut run = running();
    add(&mut run, of_kind("approval_requested"));
    let approval = run.step(&step()).unwrap().approval.clone().unwrap();
    assert_eq!(approval.id, ApprovalId { task: task(), seq: 3 });
    add(&mut run, Event::ApprovalDecided { approval: approval.id, decision: samples::decision() });
    let answer = run.step(&step()).unwrap().approval.clone().unwrap().answer;
    assert_eq!(answer, Some(ApprovalAnswer::Decided(samples::decision())));
    let mut run = running();
    add(&mut run, of_kind("child_submitted"));
    add(&mut run, of_kind("child_finished"));
    assert_eq!(run.step(&step()).unwrap().child.clone().unwrap().ended, Some((Outcome::Succeeded, json!(1))));
}

#[test]
fn a_replay_keeps_what_succeeded_and_gives_new_tries_to_the_rest() {
    let named = |name: &str| StepKey::of(StepId::new(name).unwrap());
    let done =
        |name: &str| Event::StepFinished { step: named(name), outcome: StepOutcome::Succeeded { output: json!(name) } };
    let mut run = running();
    add(&mut run, done("kept"));
    add(&mut run, done("reset"));
    add(&mut run, intended());
    add(&mut run, answered());
    add(&mut run, Event::StepFinished { step: step(), outcome: StepOutcome::Failed { error: failure() } });
    add(&mut run, Event::Died { reason: DeadReason::Failed, error: failure(), step: Some(step()) });
    let reset = vec![StepId::new("reset").unwrap()];
    add(
        &mut run,
        Event::Replayed {
            by: "ann".to_owned(),
            reset,
            input: Some(json!(7)),
            sealed: crate::journal::SealedValues::default(),
        },
    );
    assert_eq!((run.head.state.name(), &*run.input), (StateName::Ready, &json!(7)));
    assert!(run.step(&named("kept")).unwrap().is_done());
    let reset = run.step(&named("reset")).unwrap();
    assert_eq!((&reset.status, reset.generation), (&StepStatus::Pending, 1));
    let failed = run.step(&step()).unwrap();
    assert_eq!((&failed.status, failed.failed_tries), (&StepStatus::Started, 0));
    assert!(failed.calls.contains_key(&call()), "an answered call is not made again");
}

proptest! {
    #[test]
    fn any_events_in_any_order_are_applied_whole_or_not_at_all(
        history in prop::collection::vec(prop::sample::select(samples::events()), 0..80)
    ) {
        let mut run = running();
        let mut journal =
            vec![first(), Recorded { seq: 2, at: at(2), event: Event::Leased { attempt: 1, worker: worker() } }];
        for event in history {
            let event = match event {
                Event::Leased { worker, .. } => Event::Leased { attempt: run.head.attempts + 1, worker },
                Event::ApprovalDecided { decision, .. } => match run.head.open_approvals.first() {
                    Some(approval) => Event::ApprovalDecided { approval: *approval, decision },
                    None => continue,
                },
                event => event,
            };
            let before = run.clone();
            let seq = run.head.version + 1;
            let recorded = Recorded { seq, at: at(i64::try_from(seq).unwrap()), event };
            if run.apply(&recorded).is_ok() {
                journal.push(recorded);
            } else {
                prop_assert_eq!(&run, &before);
            }
        }
        prop_assert_eq!(&Run::fold(task(), &journal).unwrap(), &run);
        prop_assert_eq!(&Head::fold(task(), &journal).unwrap(), &run.head);
        // And through the file format.
        let written = serde_json::to_string(&journal).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<Recorded>>(&written).unwrap(), journal);
    }
}
