//! The invariants of the design as checks of what is left when all is over:
//! journals, heads, and what the outside world saw. Pure: whoever broke things,
//! by simulation or by `kill -9`, checks the same.
//!
//! Each check answers with what is wrong, in words for a person.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{ApprovalId, CallId, StepId, StepKey, TaskId};
use common::journal::{CallRecord, CallResult, Effect, Event, Recorded, Run, StepOutcome};
use common::task::Head;

/// What the outside world saw of one step of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The idempotency key of each call that came in, in order; empty for calls that carry none.
    pub keys: Vec<String>,
}

/// The head and the run are the folds of the journal (the one transition function accepts every event: numbers without
/// gaps, attempts in order, nothing written without a lease that only its holder may write), and nothing that was done
/// is done again (I2, I3, I4).
pub fn of_journal(head: &Head, journal: &[Recorded]) -> Vec<String> {
    let mut wrong = Vec::new();
    match Head::fold(head.id, journal) {
        Ok(folded) if folded == *head => {}
        Ok(folded) => wrong.push(format!(
            "I4: its head (version {}, {:?}) is not the fold of its journal (version {}, {:?})",
            head.version, head.state, folded.version, folded.state
        )),
        Err(illegal) => {
            let events = journal.iter().map(|recorded| format!("{} {}", recorded.seq, recorded.event.kind()));
            let events = events.collect::<Vec<_>>().join(", ");
            wrong.push(format!("I4: its journal is none: {illegal}; its head has version {}: {events}", head.version));
        }
    }
    match Run::fold(head.id, journal) {
        Ok(run) if run.head == *head => {}
        Ok(run) => wrong.push(format!("I4: its run has the version {}, its head {}", run.head.version, head.version)),
        Err(illegal) => wrong.push(format!("I4: no worker could take it up again: {illegal}")),
    }
    wrong.extend(done_again(journal));
    wrong
}

/// I4: it has come to an end.
pub fn of_end(head: &Head) -> Option<String> {
    (!head.state.is_terminal()).then(|| format!("I1: it has not come to an end: {:?}", head.state))
}

/// I3: a step or a call whose result is journaled is not begun, and has no result, a second time, unless a replay
/// reset its step, or reopened it since it had not succeeded. A decision is made once.
fn done_again(journal: &[Recorded]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut steps: BTreeMap<&StepKey, &StepOutcome> = BTreeMap::new();
    let mut calls: BTreeSet<(&StepKey, &CallId)> = BTreeSet::new();
    let mut decided: BTreeSet<&ApprovalId> = BTreeSet::new();
    for recorded in journal {
        let again = match &recorded.event {
            Event::StepStarted { step } => {
                steps.contains_key(step).then(|| format!("starts step {step}, which is done"))
            }
            Event::StepFinished { step, outcome } => {
                steps.insert(step, outcome).map(|_| format!("finishes step {step} again: {outcome:?}"))
            }
            Event::CallIntended { step, call: CallRecord { call, .. } } => {
                calls.contains(&(step, call)).then(|| format!("intends call {call} of step {step}, which was answered"))
            }
            Event::CallFinished { step, call, .. } => {
                (!calls.insert((step, call))).then(|| format!("has a second answer to call {call} of step {step}"))
            }
            Event::ApprovalDecided { approval, .. } => {
                (!decided.insert(approval)).then(|| format!("decides approval {approval} again"))
            }
            Event::Replayed { reset, .. } => {
                steps.retain(|step, outcome| {
                    !reset.contains(&step.step) && !matches!(outcome, StepOutcome::Failed { .. })
                });
                calls.retain(|(step, _)| !reset.contains(&step.step));
                None
            }
            _ => None,
        };
        wrong.extend(again.map(|again| format!("I3: event {} {again}", recorded.seq)));
    }
    wrong
}

/// I5: what the outside world saw of a task's calls, against what its journal says.
///
/// - A call of class `once` came in at most once for each time that it was intended, and was intended again only
///   after a person had said that it did not happen, or an answer had said so.
/// - One that was answered came in.
/// - All repetitions of one call carry one key, which is the one that was journaled.
pub fn of_effects(journal: &[Recorded], seen: &BTreeMap<StepKey, Seen>) -> Vec<String> {
    let mut wrong = Vec::new();
    let stories = stories(journal);
    for ((step, _, _), story) in &stories {
        let keys = seen.get(*step).map(|seen| seen.keys.as_slice()).unwrap_or_default();
        // What carries no key may be any call of its step.
        let times = keys.iter().filter(|key| key.is_empty() || story.keys.contains(key.as_str())).count();
        let class = if story.effect == Effect::Once { "once" } else { "keyed" };
        if story.keys.len() > 1 {
            wrong
                .push(format!("I5: one call of step {step} of class {class} went out under the keys {:?}", story.keys));
        }
        if story.answered && times == 0 {
            wrong.push(format!("I5: step {step} of class {class} was answered by an outside world that knows nothing"));
        }
        if story.effect == Effect::Once && times > story.allowed {
            let allowed = story.allowed;
            wrong.push(format!("I5: step {step} of class once happened {times} times, where {allowed} are allowed"));
        }
        if story.effect == Effect::Once && story.blind > 0 {
            wrong.push(format!("I5: step {step} of class once was begun again while nobody knew what had happened"));
        }
    }
    for (step, seen) in seen {
        let journaled: BTreeSet<&str> =
            stories.iter().filter(|((of, _, _), _)| *of == step).flat_map(|(_, story)| story.keys.clone()).collect();
        let strange = |key: &&String| journaled.is_empty() || (!key.is_empty() && !journaled.contains(key.as_str()));
        for key in seen.keys.iter().filter(strange) {
            wrong.push(format!(
                "I5: the outside world saw step {step} under the key {key:?}, which was never intended: {journaled:?}"
            ));
        }
    }
    wrong
}

/// A call and all its repetitions: of which step, after how many resets of that step, and which, if its step (an
/// agent's) makes several. The tries of a step that is one call are that call again.
type CallName<'a> = (&'a StepKey, usize, Option<&'a CallId>);

/// How calls are named at some point of a journal.
#[derive(Debug, Default)]
struct Names<'a> {
    agents: BTreeSet<&'a StepKey>,
    /// Once for each time.
    resets: Vec<&'a StepId>,
}

impl<'a> Names<'a> {
    fn of(&self, step: &'a StepKey, call: &'a CallId) -> CallName<'a> {
        let generation = self.resets.iter().filter(|reset| **reset == &step.step).count();
        (step, generation, self.agents.contains(step).then_some(call))
    }
}

/// What a journal says of one call.
#[derive(Debug)]
struct Story<'a> {
    effect: Effect,
    /// How often a call of class `once` may have come in.
    allowed: usize,
    /// Whether the outside world itself answered one (a person's word is none).
    answered: bool,
    keys: BTreeSet<&'a str>,
    /// Whether nobody has said yet what became of the newest try.
    open: bool,
    /// Tries that were intended while nobody knew what had become of the one before.
    blind: usize,
}

impl Story<'_> {
    fn new(effect: Effect) -> Self {
        Self { effect, allowed: 0, answered: false, keys: BTreeSet::new(), open: false, blind: 0 }
    }
}

fn stories(journal: &[Recorded]) -> BTreeMap<CallName<'_>, Story<'_>> {
    let mut stories: BTreeMap<CallName<'_>, Story<'_>> = BTreeMap::new();
    let mut names = Names::default();
    for recorded in journal {
        match &recorded.event {
            Event::AgentStarted { step, .. } => {
                names.agents.insert(step);
            }
            Event::Replayed { reset, .. } => names.resets.extend(reset),
            Event::CallIntended { step, call } => {
                let story = stories.entry(names.of(step, &call.call)).or_insert_with(|| Story::new(call.effect));
                story.allowed += 1;
                story.blind += usize::from(story.open);
                story.open = true;
                story.keys.insert(&call.key);
            }
            Event::CallFinished { step, call, result, .. } => {
                if let Some(story) = stories.get_mut(&names.of(step, call)) {
                    story.answered |= matches!(result, CallResult::Done { .. });
                    story.open = false;
                }
            }
            Event::OutcomeResolved { step, call, .. } => {
                if let Some(story) = stories.get_mut(&names.of(step, call)) {
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
    (tasks.len() > 1).then(|| format!("I6: submits of key {key} were answered with several tasks: {tasks:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use common::clock::Timestamp;
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
