//! Whether an agent gets anywhere: the same call again and again, two calls in
//! turns, nothing but errors. It is told once, and stopped if it goes on; what was
//! seen stands in the failure. Pure.

use common::failure::{Failure, FailureClass};
use common::journal::{CallResult, Conversation, ToolUse, Turn};
use common::pipeline::model::AgentLimits;
use serde_json::{Value, json};

use super::admission::{Refusal, tool_uses};

/// The calls that a failure shows.
const EVIDENCE: usize = 6;
/// The longest text of an answer in it, in characters.
const EXCERPT: usize = 200;

/// Whether a call is one too many of its kind.
pub(super) fn look(conversation: &Conversation, call: &ToolUse, limits: &AgentLimits) -> Result<(), Refusal> {
    let before: Vec<&ToolUse> = tool_uses(conversation).take_while(|other| other.id != call.id).collect();
    let most = limits.repetition as usize;
    let alike = before.iter().rev().take_while(|other| same(other, call)).count();
    if alike >= most {
        let what = format!("called {} {alike} times in a row with the same arguments (limits.repetition)", call.name);
        return tell_or_stop(conversation, call, alike > most, &what, "the answer would be the same");
    }
    let turns = in_turns(&before, call);
    if turns >= most {
        let other = before.last().map_or("", |other| other.name.as_str());
        let what = format!(
            "called {} and {other} {turns} times in turns with the same arguments (limits.repetition)",
            call.name
        );
        return tell_or_stop(conversation, call, turns > most, &what, "the answers would be the same");
    }
    let errors = errors(conversation, call);
    let most = limits.errors as usize;
    // After it was told, it has one more try.
    if errors == most || errors >= most + 2 {
        let what = format!("made {errors} calls in a row that failed (limits.errors)");
        return tell_or_stop(conversation, call, errors > most, &what, "one more failure ends your work");
    }
    Ok(())
}

/// How many of the last turns had no tool call.
pub(super) fn monologue(conversation: &Conversation) -> usize {
    let counted = conversation.turns.iter().skip(conversation.counted_from);
    counted.rev().take_while(|turn| turn.tool_uses.is_empty()).count()
}

fn tell_or_stop(
    conversation: &Conversation,
    call: &ToolUse,
    was_told: bool,
    what: &str,
    why: &str,
) -> Result<(), Refusal> {
    let limit = |message: String| Failure::new(FailureClass::Limit, message);
    if was_told {
        let failure = limit(format!("the agent gets nowhere: it {what}"));
        return Err(Refusal::Final(failure.with_detail(evidence(conversation, call))));
    }
    let message = format!(
        "{} was not called: you have {what}, and {why}. Do something else, or finish with what you have.",
        call.name
    );
    Err(Refusal::Told(limit(message)))
}

fn same(one: &ToolUse, other: &ToolUse) -> bool {
    one.name == other.name && one.input == other.input
}

/// How often this call and another one were made in turns right before.
fn in_turns(before: &[&ToolUse], call: &ToolUse) -> usize {
    let Some(other) = before.last().filter(|other| !same(other, call)) else { return 0 };
    let expected = [*other, call];
    let alternating = before.iter().rev().enumerate().take_while(|(place, made)| same(made, expected[place % 2]));
    alternating.count() / 2
}

/// How many calls right before this one failed.
fn errors(conversation: &Conversation, call: &ToolUse) -> usize {
    let turns = conversation.turns.iter().skip(conversation.counted_from);
    let answered: Vec<bool> = turns
        .flat_map(|turn| turn.tool_uses.iter().map(move |made| (turn, made)))
        .take_while(|(_, made)| made.id != call.id)
        .filter_map(|(turn, made)| turn.results.get(&made.id).map(failed))
        .collect();
    answered.iter().rev().take_while(|failed| **failed).count()
}

const fn failed(result: &CallResult) -> bool {
    matches!(result, CallResult::Failed { .. } | CallResult::Done { is_error: true, .. })
}

/// The last calls with what came of them, for the dead letter.
fn evidence(conversation: &Conversation, call: &ToolUse) -> Value {
    let shown = |turn: &Turn, made: &ToolUse| {
        let answer = match turn.results.get(&made.id) {
            Some(CallResult::Done { content, .. }) => {
                content.as_str().map_or_else(|| content.to_string(), str::to_owned)
            }
            Some(CallResult::Failed { error }) => error.message.clone(),
            None => String::new(),
        };
        let answer: String = answer.chars().take(EXCERPT).collect();
        json!({"tool": made.name, "input": made.input, "answer": answer})
    };
    let turns = conversation.turns.iter();
    let made: Vec<(&Turn, &ToolUse)> = turns
        .flat_map(|turn| turn.tool_uses.iter().map(move |made| (turn.as_ref(), made)))
        .take_while(|(_, made)| made.id != call.id)
        .collect();
    let last = made.iter().skip(made.len().saturating_sub(EVIDENCE)).map(|(turn, made)| shown(turn, made));
    json!({"wanted": {"tool": call.name, "input": call.input}, "before": last.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use common::id::CallId;
    use common::journal::{ModelCall, RequestHead, Usage};

    /// A conversation with a call a turn: `a` answers, `!` fails; the last is still open.
    fn talk(calls: &str) -> Conversation {
        let head = RequestHead::default();
        let mut conversation = Conversation::new(head, String::new());
        let count = calls.chars().count();
        for (number, name) in calls.chars().enumerate() {
            // Each failing call is another one, so that only the failing counts.
            let input = if name == '!' { json!({"n": number}) } else { json!({}) };
            let id = format!("c{number}");
            conversation.answered(ModelCall {
                content: vec![json!({"type": "tool_use", "id": id, "name": name.to_string(), "input": input})],
                stop_reason: "tool_use".to_owned(),
                model: "m".to_owned(),
                response_id: String::new(),
                usage: Usage::default(),
                duration_ms: 0,
            });
            if number + 1 < count {
                let id = CallId::new(id).unwrap();
                let content = json!("ok");
                let turn = conversation.turn_of(&id).unwrap();
                turn.results.insert(id, CallResult::Done { content, is_error: name == '!' });
            }
        }
        conversation
    }

    /// What becomes of the last call: `+` made, `n` nudged, `x` the end.
    fn verdict(calls: &str) -> char {
        let conversation = talk(calls);
        let call = tool_uses(&conversation).last().unwrap();
        let limits = AgentLimits { repetition: 3, errors: 4, ..AgentLimits::default() };
        match look(&conversation, call, &limits) {
            Ok(()) => '+',
            Err(Refusal::Told(_)) => 'n',
            Err(Refusal::Final(_)) => 'x',
        }
    }

    #[test]
    fn loops_are_told_once_and_then_stopped() {
        for (calls, expected) in [
            ("a", '+'),
            ("aaa", '+'),
            ("aaaa", 'n'),
            ("aaaaa", 'x'),
            ("aaabaaa", '+'),
            ("baaaa", 'n'),
            // In turns: a and b three times, then a once more.
            ("ababab", '+'),
            ("abababa", 'n'),
            ("ababababa", 'x'),
            ("abcabcabc", '+'),
            ("cabababa", 'n'),
            ("ababacababa", '+'),
            // Errors, each of another call.
            ("!!!!", '+'),
            ("!!!!!", 'n'),
            ("!!!!!!", '+'),
            ("!!!!!!!", 'x'),
            ("!!!a!!!", '+'),
        ] {
            assert_eq!(verdict(calls), expected, "{calls}");
        }
    }

    #[test]
    fn the_evidence_shows_the_last_calls() {
        let conversation = talk("aaaaa");
        let call = tool_uses(&conversation).last().unwrap();
        let Err(Refusal::Final(failure)) = look(&conversation, call, &AgentLimits::default()) else { panic!("made") };
        let detail = failure.detail.unwrap();
        assert_eq!(detail["wanted"]["tool"], "a");
        assert_eq!(detail["before"].as_array().unwrap().len(), 4);
        assert_eq!(detail["before"][0]["answer"], "ok");
    }
}
