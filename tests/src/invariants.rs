//! The invariants of the design as checks of what is left when all is over:
//! journals, heads, and what the outside world saw. Pure: whoever broke things,
//! by simulation or by `kill -9`, checks the same.
//!
//! Each check answers with what is wrong, in words for a person.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{CallId, StepKey, TaskId};
use common::journal::{CallResult, Effect, Event, Recorded, StepOutcome};
use common::task::Head;

/// What the outside world saw of one step of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The idempotency key of each call that came in, in order; empty for calls that carry none.
    pub keys: Vec<String>,
}

/// The head is the fold of the journal (the one transition function accepts every event: numbers without gaps,
/// attempts in order, nothing written without a lease that only its holder may write), and nothing that was done is
/// done again (I2, I3, I4).
pub fn of_journal(head: &Head, journal: &[Recorded]) -> Vec<String> {
    let mut wrong = Vec::new();
    match Head::fold(head.id, journal) {
        Ok(folded) if folded == *head => {}
        Ok(folded) => wrong.push(format!(
            "its head (version {}, {:?}) is not the fold of its journal (version {}, {:?})",
            head.version, head.state, folded.version, folded.state
        )),
        Err(illegal) => {
            let events = journal.iter().map(|recorded| format!("{} {}", recorded.seq, recorded.event.kind()));
            let events = events.collect::<Vec<_>>().join(", ");
            wrong.push(format!("its journal is none: {illegal}; its head has version {}: {events}", head.version));
        }
    }
    wrong.extend(done_again(journal));
    wrong
}

/// I4: it has come to an end.
pub fn of_end(head: &Head) -> Option<String> {
    (!head.state.is_terminal()).then(|| format!("it has not come to an end: {:?}", head.state))
}

/// I3: a step or a call whose result is journaled is not begun, and has no result, a second time, unless a replay
/// reset its step.
fn done_again(journal: &[Recorded]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut steps: BTreeSet<&StepKey> = BTreeSet::new();
    let mut calls: BTreeSet<(&StepKey, &CallId)> = BTreeSet::new();
    for recorded in journal {
        let seq = recorded.seq;
        match &recorded.event {
            Event::StepStarted { step } if steps.contains(step) => {
                wrong.push(format!("event {seq} starts step {step}, which is done"));
            }
            Event::StepFinished { step, outcome } => {
                if !steps.insert(step) {
                    wrong.push(format!("event {seq} finishes step {step} again: {outcome:?}"));
                }
            }
            Event::CallIntended { step, call } if calls.contains(&(step, &call.call)) => {
                wrong.push(format!("event {seq} intends call {} of step {step}, which was answered", call.call));
            }
            Event::CallFinished { step, call, .. } => {
                if !calls.insert((step, call)) {
                    wrong.push(format!("event {seq} has a second answer to call {call} of step {step}"));
                }
            }
            Event::Replayed { reset, .. } => {
                steps.retain(|step| !reset.contains(&step.step) && !failed(journal, step));
                calls.retain(|(step, _)| !reset.contains(&step.step));
            }
            _ => {}
        }
    }
    wrong
}

/// A replay gives steps that had failed new tries.
fn failed(journal: &[Recorded], step: &StepKey) -> bool {
    journal.iter().any(|recorded| {
        matches!(&recorded.event, Event::StepFinished { step: of, outcome: StepOutcome::Failed { .. } } if of == step)
    })
}

/// I5: what the outside world saw of a task's calls, against what its journal says.
///
/// - A call of class `once` came in at most once for each time that it was intended, and was intended again only
///   after a person had said that it did not happen, or an answer had said so.
/// - One that was answered came in.
/// - The calls of class `keyed` of one step all carry the key that was journaled.
pub fn of_effects(journal: &[Recorded], seen: &BTreeMap<StepKey, Seen>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (step, story) in stories(journal) {
        let keys = seen.get(&step).map(|seen| seen.keys.as_slice()).unwrap_or_default();
        match story.effect {
            Effect::Once => {
                if keys.len() > story.allowed {
                    let (times, allowed) = (keys.len(), story.allowed);
                    wrong
                        .push(format!("step {step} of class once happened {times} times, where {allowed} are allowed"));
                }
                if story.blind > 0 {
                    wrong
                        .push(format!("step {step} of class once was begun again while nobody knew what had happened"));
                }
                if story.answered && keys.is_empty() {
                    wrong
                        .push(format!("step {step} of class once was answered by an outside world that knows nothing"));
                }
            }
            Effect::Keyed => {
                let stray: BTreeSet<&String> = keys.iter().filter(|key| !story.keys.contains(*key)).collect();
                if !stray.is_empty() || story.keys.len() > 1 {
                    wrong.push(format!(
                        "the calls of step {step} of class keyed carry keys {keys:?}, and the journal says {:?}",
                        story.keys
                    ));
                }
                if story.answered && keys.is_empty() {
                    wrong.push(format!(
                        "step {step} of class keyed was answered by an outside world that knows nothing"
                    ));
                }
            }
            Effect::Read => {}
        }
    }
    for (step, seen) in seen {
        let intended =
            |recorded: &Recorded| matches!(&recorded.event, Event::CallIntended { step: of, .. } if of == step);
        if !seen.keys.is_empty() && !journal.iter().any(intended) {
            wrong.push(format!("the outside world saw step {step}, which was never intended"));
        }
    }
    wrong
}

/// What a journal says of the calls of a step.
#[derive(Debug)]
struct Story {
    effect: Effect,
    /// How often a call of class `once` may have come in.
    allowed: usize,
    /// Whether the outside world itself answered one (a person's word is none).
    answered: bool,
    keys: BTreeSet<String>,
    /// Whether nobody has said yet what became of the newest call.
    open: bool,
    /// Calls that were intended while nobody knew what had become of the one before.
    blind: usize,
}

fn stories(journal: &[Recorded]) -> BTreeMap<StepKey, Story> {
    let mut stories: BTreeMap<StepKey, Story> = BTreeMap::new();
    for recorded in journal {
        match &recorded.event {
            Event::CallIntended { step, call } => {
                let fresh = || Story {
                    effect: call.effect,
                    allowed: 0,
                    answered: false,
                    keys: BTreeSet::new(),
                    open: false,
                    blind: 0,
                };
                let story = stories.entry(step.clone()).or_insert_with(fresh);
                story.allowed += 1;
                story.blind += usize::from(story.open);
                story.open = true;
                story.keys.insert(call.key.clone());
            }
            Event::CallFinished { step, result, .. } => {
                if let Some(story) = stories.get_mut(step) {
                    story.answered |= matches!(result, CallResult::Done { .. });
                    story.open = false;
                }
            }
            Event::OutcomeResolved { step, .. } => {
                if let Some(story) = stories.get_mut(step) {
                    story.open = false;
                }
            }
            _ => {}
        }
    }
    stories
}

/// I6: the tasks that submits of one idempotency key were answered with.
pub fn of_answers(key: &str, tasks: &BTreeSet<TaskId>) -> Option<String> {
    (tasks.len() > 1).then(|| format!("submits of key {key} were answered with several tasks: {tasks:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use common::clock::Timestamp;
    use common::id::StepId;
    use common::journal::CallRecord;
    use serde_json::json;

    use super::*;

    fn step() -> StepKey {
        StepKey::of(StepId::new("charge").unwrap())
    }

    fn call(effect: Effect, number: u32) -> Event {
        let call = CallRecord {
            call: CallId::new(format!("http-{number}")).unwrap(),
            tool: "http".to_owned(),
            arguments: json!({}),
            effect,
            key: "k".to_owned(),
        };
        Event::CallIntended { step: step(), call }
    }

    fn answered(number: u32) -> Event {
        Event::CallFinished {
            step: step(),
            call: CallId::new(format!("http-{number}")).unwrap(),
            tool: "http".to_owned(),
            result: CallResult::Done { content: json!(1), is_error: false },
            duration_ms: 1,
        }
    }

    fn journal(events: Vec<Event>) -> Vec<Recorded> {
        let at = Timestamp::from_millis(0).plus(Duration::from_secs(1));
        events.into_iter().zip(1..).map(|(event, seq)| Recorded { seq, at, event }).collect()
    }

    fn seen(keys: &[&str]) -> BTreeMap<StepKey, Seen> {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        [(step(), Seen { keys })].into()
    }

    #[test]
    fn a_second_effect_of_class_once_is_found() {
        let journal = journal(vec![call(Effect::Once, 1), answered(1)]);
        assert_eq!(of_effects(&journal, &seen(&["k"])), Vec::<String>::new());
        assert_eq!(of_effects(&journal, &seen(&["k", "k"])).len(), 1);
        assert_eq!(of_effects(&journal, &seen(&[])).len(), 1, "an answer needs an effect");
    }

    #[test]
    fn a_repeated_keyed_call_has_one_key() {
        let journal = journal(vec![call(Effect::Keyed, 1), answered(1)]);
        assert_eq!(of_effects(&journal, &seen(&["k", "k", "k"])), Vec::<String>::new());
        assert_eq!(of_effects(&journal, &seen(&["k", "other"])).len(), 1);
    }

    #[test]
    fn what_was_never_intended_is_found() {
        assert_eq!(of_effects(&journal(vec![]), &seen(&["k"])).len(), 1);
    }

    #[test]
    fn a_second_answer_is_found() {
        let twice = journal(vec![call(Effect::Keyed, 1), answered(1), call(Effect::Keyed, 1), answered(1)]);
        assert_eq!(done_again(&twice).len(), 2);
        let finished = Event::StepFinished { step: step(), outcome: StepOutcome::Skipped };
        assert_eq!(done_again(&journal(vec![finished.clone(), finished])).len(), 1);
    }
}
