#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::task::samples::{self, at, head, task};
use crate::task::{State, StateName};

use StateName::{Cancelled, Dead, Ready, Running, Scheduled, Succeeded, Waiting};

/// Where an event leads from a state; nothing where it is illegal. The table of the design.
fn expected(event: &Event, from: StateName) -> Option<StateName> {
    let unfinished = !from.is_terminal();
    match event {
        Event::Submitted(_) => None,
        Event::Leased { .. } => (from == Ready).then_some(Running),
        Event::Released { .. } | Event::LeaseExpired { .. } => (from == Running).then_some(Ready),
        Event::Parked { .. } => (from == Running).then_some(Waiting),
        Event::Woken { .. } => matches!(from, Scheduled | Waiting).then_some(Ready),
        Event::Succeeded { .. } => (from == Running).then_some(Succeeded),
        Event::Cancelled { .. } => unfinished.then_some(Cancelled),
        Event::Died { .. } => unfinished.then_some(Dead),
        Event::Replayed { .. } => matches!(from, Dead | Cancelled).then_some(Ready),
        // An answer wakes whoever waits for it, and is noted in every other unfinished state.
        Event::ApprovalDecided { .. }
        | Event::OutcomeResolved { .. }
        | Event::ChildFinished { .. }
        | Event::ModelBatchFailed { .. }
        | Event::TurnFinished { entry: Some(_), .. } => {
            unfinished.then_some(if from == Waiting { Ready } else { from })
        }
        Event::PrivateDataSealed { .. } => unfinished.then_some(from),
        // Everything else is the holder's own work.
        _ => (from == Running).then_some(Running),
    }
}

#[test]
fn every_event_in_every_state_is_legal_as_documented_or_refused_without_a_trace() {
    for from in StateName::ALL {
        for event in samples::events().into_iter().chain([samples::batched()]) {
            let mut after = head(from);
            let before = after.clone();
            let recorded = Recorded { seq: before.version + 1, at: at(10), event: event.clone() };
            let answer = after.apply(&recorded);
            let place = format!("{} in {from}", event.kind());
            if let Some(to) = expected(&event, from) {
                answer.unwrap_or_else(|error| panic!("{place}: {error}"));
                assert_eq!(after.state.name(), to, "{place}");
                assert_eq!((after.version, after.updated_at), (2, at(10)), "{place}");
            } else {
                assert!(answer.is_err(), "{place}");
                assert_eq!(after, before, "{place}");
            }
        }
    }
}

fn apply(head: &mut Head, millis: i64, event: Event) -> Result<(), IllegalEvent> {
    head.apply(&Recorded { seq: head.version + 1, at: at(millis), event })
}

#[test]
fn numbers_and_attempts_follow_without_gaps() {
    let mut ready = head(Ready);
    for seq in [0, 1, 3] {
        let event = Event::Cancelled { by: String::new(), reason: String::new() };
        assert!(ready.apply(&Recorded { seq, at: at(1), event }).is_err());
    }
    assert!(apply(&mut ready, 1, Event::Leased { attempt: 2, worker: samples::worker() }).is_err());
    assert!(apply(&mut ready, 1, Event::Leased { attempt: 1, worker: samples::worker() }).is_ok());
    assert_eq!(ready.attempts, 1);
}

#[test]
fn an_answer_to_a_question_that_was_not_asked_is_illegal() {
    let mut waiting = head(Waiting);
    waiting.open_approvals.clear();
    waiting.unknown_outcomes.clear();
    waiting.open_children.clear();
    waiting.open_entries.clear();
    for event in samples::events().into_iter().chain([samples::batched()]) {
        let kinds = ["approval_decided", "outcome_resolved", "child_finished", "model_batch_failed"];
        if kinds.contains(&event.kind()) || matches!(event, Event::TurnFinished { entry: Some(_), .. }) {
            assert!(apply(&mut waiting, 1, event).is_err());
        }
    }
}

#[test]
fn an_answer_wakes_only_who_waits_for_it() {
    let mut waiting = head(Waiting);
    waiting.state = State::Waiting {
        wait: super::super::Wait { on: vec![WaitOn::Timer { step: samples::step() }], until: None },
        since: at(0),
    };
    let event = Event::ApprovalDecided { approval: samples::approval(), decision: samples::decision() };
    apply(&mut waiting, 1, event).unwrap();
    assert_eq!(waiting.state.name(), Waiting);
    assert!(waiting.open_approvals.is_empty());
}

#[test]
fn a_request_in_a_model_batch_is_answered_once_and_paid_for_also_while_nobody_holds_the_task() {
    let mut waiting = head(Waiting);
    apply(&mut waiting, 1, samples::batched()).unwrap();
    assert_eq!((waiting.state.name(), waiting.open_entries.len()), (Ready, 0));
    assert!(waiting.usage.cost_usd > 0.0);
    assert!(apply(&mut waiting, 2, samples::batched()).is_err());
    for end in [
        Event::Cancelled { by: "ann".to_owned(), reason: "enough".to_owned() },
        Event::Died { reason: super::super::DeadReason::Failed, error: samples::failure(), step: None },
    ] {
        let mut ended = head(Waiting);
        apply(&mut ended, 1, end).unwrap();
        assert!(ended.open_entries.is_empty() && apply(&mut ended, 2, samples::batched()).is_err());
    }
    let mut left = head(Running);
    apply(&mut left, 1, Event::ModelBatchLeft { step: samples::step(), entry: samples::entry() }).unwrap();
    assert!(apply(&mut left, 2, samples::batched()).is_err(), "a late answer is not taken");
}

#[test]
fn only_leases_without_a_word_of_their_holder_are_barren() {
    let mut held = head(Ready);
    for lost in 1..=2 {
        apply(&mut held, 1, Event::Leased { attempt: lost, worker: samples::worker() }).unwrap();
        let stranger = Event::CancelRequested { by: "x".to_owned(), reason: "y".to_owned() };
        apply(&mut held, 2, stranger).unwrap();
        apply(&mut held, 3, Event::LeaseExpired { worker: samples::worker() }).unwrap();
        assert_eq!(held.barren_attempts, lost);
    }
    apply(&mut held, 4, Event::Leased { attempt: 3, worker: samples::worker() }).unwrap();
    apply(&mut held, 5, Event::StepStarted { step: samples::step() }).unwrap();
    apply(&mut held, 6, Event::LeaseExpired { worker: samples::worker() }).unwrap();
    assert_eq!(held.barren_attempts, 0);
}

#[test]
fn working_time_is_the_time_under_leases() {
    let mut held = head(Ready);
    apply(&mut held, 100, Event::Leased { attempt: 1, worker: samples::worker() }).unwrap();
    assert_eq!(held.worked(at(150)), Duration::from_millis(50));
    apply(&mut held, 200, Event::Released { reason: "drain".to_owned() }).unwrap();
    assert_eq!(held.worked(at(999)), Duration::from_millis(100));
    apply(&mut held, 300, Event::Leased { attempt: 2, worker: samples::worker() }).unwrap();
    // A clock that was set back counts for nothing, rather than for a fortune.
    apply(&mut held, 250, Event::Released { reason: "drain".to_owned() }).unwrap();
    assert_eq!(held.worked_ms, 100);
}

#[test]
fn a_journal_starts_with_what_was_submitted() {
    assert!(Head::fold(task(), &[]).is_err());
    let leased = Recorded { seq: 1, at: at(0), event: Event::Leased { attempt: 1, worker: samples::worker() } };
    assert!(Head::fold(task(), &[leased]).is_err());
}

proptest! {
    #[test]
    fn any_events_in_any_order_are_applied_whole_or_not_at_all(
        history in prop::collection::vec((prop::sample::select(samples::events()), any::<i32>(), 0..10_u64), 0..60)
    ) {
        let mut head = Head::open(task(), at(0), &samples::submitted());
        let mut journal = vec![samples::first()];
        for (event, millis, skew) in history {
            let seq = if skew == 0 { head.version } else { head.version + 1 };
            let event = match event {
                // Attempts are counted; the rest of the events fit as they are, or do not.
                Event::Leased { worker, .. } => Event::Leased { attempt: head.attempts + 1, worker },
                event => event,
            };
            let before = head.clone();
            let recorded = Recorded { seq, at: at(i64::from(millis)), event };
            if head.apply(&recorded).is_ok() {
                prop_assert_eq!(head.version, before.version + 1);
                journal.push(recorded);
            } else {
                prop_assert_eq!(&head, &before);
            }
        }
        prop_assert_eq!(&Head::fold(task(), &journal).unwrap(), &head);
        let written = serde_json::to_string(&head).unwrap();
        prop_assert_eq!(serde_json::from_str::<Head>(&written).unwrap(), head);
    }
}
