//! What each operation of a store writes into a journal: pure functions that
//! every backend calls inside its own transaction.
//!
//! A function gets the head as it is, and either changes it and answers with
//! the events to be added, or leaves it alone and says why not. A backend then
//! writes exactly those events and that head.

use serde_json::json;

use super::model::Next;
use crate::clock::Timestamp;
use crate::failure::{Failure, FailureClass};
use crate::id::{TaskId, WorkerId};
use crate::journal::{Event, Recorded, WakeCause};
use crate::task::{Admission, DeadReason, Head, IllegalEvent, Outcome, Refusal, Signal, State, admit};

/// The first event of a journal, and the head that comes of it.
pub fn open(id: TaskId, submitted: crate::journal::Submitted, at: Timestamp) -> (Head, Recorded) {
    let head = Head::open(id, at, &submitted);
    (head, Recorded { seq: 1, at, event: Event::Submitted(Box::new(submitted)) })
}

/// Takes the lease on a ready task.
pub fn lease(head: &mut Head, worker: &WorkerId, at: Timestamp) -> Result<Vec<Recorded>, IllegalEvent> {
    let attempt = head.attempts + 1;
    add(head, vec![Event::Leased { attempt, worker: worker.clone() }], at)
}

/// What the holder of the lease appends, then `next`, then the signals that
/// were kept for the holder. The kept signals are used up.
pub fn append(
    head: &mut Head,
    events: Vec<Event>,
    next: Next,
    kept: &[Signal],
    at: Timestamp,
) -> Result<Vec<Recorded>, IllegalEvent> {
    let mut trial = head.clone();
    if !matches!(trial.state, State::Running { .. }) {
        return Err(IllegalEvent {
            event: "append",
            seq: head.version + 1,
            state: head.state.name(),
            why: "only a running task has a holder",
        });
    }
    if let Some(foreign) = events.iter().find(|event| event.is_of_life()) {
        return Err(IllegalEvent {
            event: foreign.kind(),
            seq: head.version + 1,
            state: head.state.name(),
            why: "a holder ends, parks or releases a task by the `next` of an append, and the store does the rest",
        });
    }
    let mut recorded = add(&mut trial, events, at)?;
    if let Some(event) = next.into_event() {
        recorded.extend(add(&mut trial, vec![event], at)?);
    }
    recorded.extend(take_up(&mut trial, kept, at));
    *head = trial;
    Ok(recorded)
}

/// A signal to a task that no worker holds is applied; to one that is held, it
/// is to be kept: `Ok(None)`.
pub fn signal(
    head: &mut Head,
    kept: &[Signal],
    signal: &Signal,
    at: Timestamp,
) -> Result<Option<Vec<Recorded>>, Refusal> {
    match admit(head, kept, signal)? {
        Admission::Keep => Ok(None),
        Admission::Apply(event) => {
            let state = head.state.name();
            // `admit` admits only what `apply` accepts; should they ever disagree, the signal is refused.
            add(head, vec![*event], at).map(Some).map_err(|illegal| Refusal::State { state, why: illegal.why })
        }
    }
}

/// The lease ran out: the task is ready again, or poison. The kept signals are used up.
pub fn expire(
    head: &mut Head,
    kept: &[Signal],
    barren_limit: u32,
    at: Timestamp,
) -> Result<Vec<Recorded>, IllegalEvent> {
    let State::Running { worker, .. } = &head.state else {
        return Err(IllegalEvent {
            event: "lease_expired",
            seq: head.version + 1,
            state: head.state.name(),
            why: "it has no lease",
        });
    };
    let worker = worker.clone();
    let mut recorded = add(head, vec![Event::LeaseExpired { worker: worker.clone() }], at)?;
    recorded.extend(take_up(head, kept, at));
    if matches!(head.state, State::Ready { .. }) && head.barren_attempts >= barren_limit {
        let error = Failure::new(
            FailureClass::Crash,
            format!(
                "{} workers in a row were lost with this task before they wrote anything (the last one: {worker}); \
                 look at their logs, then replay it",
                head.barren_attempts
            ),
        );
        recorded.extend(add(head, vec![Event::Died { reason: DeadReason::Poison, error, step: None }], at)?);
    }
    Ok(recorded)
}

/// A schedule or a wait that has come to its end makes the task ready.
pub fn wake(head: &mut Head, at: Timestamp) -> Result<Vec<Recorded>, IllegalEvent> {
    add(head, vec![Event::Woken { cause: WakeCause::Timer }], at)
}

/// The data of a task is erased: its newest event says so. None after it.
pub fn erase(head: &mut Head, by: &str, at: Timestamp) -> Result<Vec<Recorded>, Refusal> {
    let refuse = |why| Refusal::State { state: head.state.name(), why };
    let Some(outcome) = head.state.outcome() else {
        return Err(refuse("only the data of a task that is done can be erased; cancel it first"));
    };
    let state = head.state.name();
    add(head, vec![Event::Erased { by: by.to_owned(), outcome }], at)
        .map_err(|illegal| Refusal::State { state, why: illegal.why })
}

/// What others must be told when a task went from `before` to `after`: its
/// parent, if it is done now. (A store also cancels the unfinished children of
/// a task that is done: it knows them, with [`cancel_child`].)
pub fn notice(before: &Head, after: &Head, recorded: &[Recorded]) -> Option<(TaskId, Signal)> {
    if before.state.is_terminal() || !after.state.is_terminal() {
        return None;
    }
    let parent = after.parent.as_ref()?;
    Some((parent.task, ended(after.id, recorded)?))
}

/// How a task ended, as its parent is told, from the newest events of its
/// journal. (A store also tells a parent that says that it has a child which is
/// done already: the two may come in either order.)
pub fn ended(task: TaskId, newest: &[Recorded]) -> Option<Signal> {
    let (outcome, result) = newest.iter().rev().find_map(|r| match &r.event {
        Event::Succeeded { output } => Some((Outcome::Succeeded, output.clone())),
        Event::Cancelled { reason, .. } => Some((Outcome::Cancelled, json!({"reason": reason}))),
        Event::Died { reason, error, .. } => {
            Some((Outcome::Dead, json!({"reason": reason, "class": error.class, "message": error.message})))
        }
        Event::Erased { outcome, .. } => Some((*outcome, json!({"reason": "its data was erased"}))),
        _ => None,
    })?;
    Some(Signal::ChildFinished { child: task, outcome, result })
}

/// The journal or the head cannot be read by this version: the task goes where
/// a person finds it, and stops no other.
pub fn set_aside(head: &mut Head, error: Failure, at: Timestamp) -> Result<Vec<Recorded>, IllegalEvent> {
    add(head, vec![Event::Died { reason: DeadReason::Unreadable, error, step: None }], at)
}

/// The failure of a task that cannot be read.
pub fn unreadable(why: impl std::fmt::Display) -> Failure {
    Failure::new(
        FailureClass::Internal,
        format!("{why}; its journal is kept as it is: replay the task with a version that can read it"),
    )
}

/// What a parent is told of a child that cannot be read.
pub fn lost_child(child: TaskId, why: &str) -> Signal {
    let result = json!({"reason": DeadReason::Unreadable, "class": FailureClass::Internal, "message": why});
    Signal::ChildFinished { child, outcome: Outcome::Dead, result }
}

/// A task that comes from another store: its head, and the events that are added
/// here. Nobody holds it any more.
pub fn restore(id: TaskId, journal: &[Recorded], at: Timestamp) -> Result<(Head, Vec<Recorded>), IllegalEvent> {
    let mut head = Head::fold(id, journal)?;
    let mut added = Vec::new();
    if matches!(head.state, State::Running { .. }) {
        added = add(&mut head, vec![Event::Released { reason: "moved to another store".to_owned() }], at)?;
    }
    Ok((head, added))
}

/// The signal for the unfinished children of a task that is done.
pub fn cancel_child(parent: TaskId) -> Signal {
    Signal::Cancel { by: format!("task {parent}"), reason: "its parent is done".to_owned() }
}

/// The signal for older tasks of a group of which only the newest is wanted.
pub fn supersede(newer: TaskId) -> Signal {
    Signal::Cancel { by: format!("task {newer}"), reason: "superseded by a newer task of the same group".to_owned() }
}

/// Signals that were kept for the holder, in the state that the task is in now.
/// Those that have lost their meaning are dropped.
fn take_up(head: &mut Head, kept: &[Signal], at: Timestamp) -> Vec<Recorded> {
    let mut recorded = Vec::new();
    for signal in kept {
        if let Some(event) = signal.take_up(head)
            && let Ok(added) = add(head, vec![event], at)
        {
            recorded.extend(added);
        }
    }
    recorded
}

/// Numbers events and applies them, all or none.
fn add(head: &mut Head, events: Vec<Event>, at: Timestamp) -> Result<Vec<Recorded>, IllegalEvent> {
    let mut trial = head.clone();
    let mut recorded = Vec::with_capacity(events.len());
    for event in events {
        let next = Recorded { seq: trial.version + 1, at, event };
        trial.apply(&next)?;
        recorded.push(next);
    }
    *head = trial;
    Ok(recorded)
}

#[cfg(test)]
mod tests;
