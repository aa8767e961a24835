//! Keeping a conversation within what its model can read: how long it is, when
//! its older part is summarised, and what stays as it is. Pure.

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{Compaction, Conversation, Event, HookDecision, ModelCall, RequestHead, StepOutcome};
use serde_json::Value;

use super::hook::Hooked;
use super::{Action, Deciding, Purpose, Way};
use crate::models::length::{self, Length};

/// Bytes of JSON that make about one token.
const BYTES_PER_TOKEN: usize = 4;
/// The part of the window that turns which stay verbatim may fill.
const KEPT_PART: f64 = 0.4;
/// The most bytes of a tool's result that a summary sees when the conversation did not fit.
const SUMMARISED_RESULT: usize = 4 << 10;

const INSTRUCTION: &str = "Stop here: this conversation is becoming too long and is about to be shortened. Do not go on \
    with the task. Write a summary from which you yourself can go on with it, for you will see nothing else of what \
    stands above but the first message. Say, in this order: the goals and every constraint that was given; what was \
    done and decided so far, and why; facts, names, paths, numbers and quotations that are still needed, exactly; \
    what failed and must not be tried again; what is open, and the next step.";

/// Whether the next turn can be asked for.
pub(super) enum Room {
    /// It can.
    Enough,
    /// The older part is summarised first.
    Compact(Purpose),
    /// It cannot.
    None(Failure),
}

/// Whether a conversation has room for another turn.
pub(super) fn room(conversation: &Conversation) -> Room {
    let Some(compaction) = conversation.head.context.compaction else { return Room::Enough };
    if conversation.overflowed {
        return overflow(conversation);
    }
    let Some(window) = conversation.head.settings.context_window else { return Room::Enough };
    let just_compacted = answered_since(conversation) == 0 && conversation.compacted.is_some();
    if just_compacted || estimate(conversation) < part_of(window, compaction.at) {
        return Room::Enough;
    }
    match kept_from(conversation, compaction.keep_turns as usize) {
        Some(kept_from) => Room::Compact(Purpose::Summary { kept_from, cut: false }),
        // Nothing is left to be summarised: the provider may see it otherwise.
        None => Room::Enough,
    }
}

/// What is done when the model says that the conversation is too long: it is summarised once, with whatever it takes.
pub(super) fn overflow(conversation: &Conversation) -> Room {
    let full = || {
        let window = conversation.head.settings.context_window.map_or_else(String::new, |n| format!(" of {n} tokens"));
        let message = format!(
            "the conversation does not fit the context window{window} of the model {}, also after it was shortened; give \
             the agent a shorter prompt, or fewer or smaller tool results",
            conversation.head.model
        );
        Room::None(Failure::new(FailureClass::ContextWindow, message))
    };
    let Some(Compaction { keep_turns, .. }) = conversation.head.context.compaction else { return full() };
    // A reply that the window cut off is none.
    let cut_off = usize::from(conversation.turns.last().is_some_and(|turn| turn.is_cut_by_window()));
    if conversation.compacted.is_some() && answered_since(conversation) <= cut_off {
        return full();
    }
    let left = conversation.turns.len() - begin(conversation).min(conversation.turns.len());
    match kept_from(conversation, (keep_turns as usize).min(left / 2)) {
        Some(kept_from) => Room::Compact(Purpose::Summary { kept_from, cut: true }),
        None => full(),
    }
}

/// Whether anything could be done about a conversation that is too long.
pub(super) fn can_be_shortened(conversation: &Conversation) -> bool {
    matches!(overflow(conversation), Room::Compact(_))
}

/// How many turns were answered since the conversation was last summarised.
fn answered_since(conversation: &Conversation) -> usize {
    conversation.turns.len() - conversation.compacted.as_ref().map_or(0, |before| before.at_turn)
}

/// The first turn that no summary stands for.
fn begin(conversation: &Conversation) -> usize {
    conversation.compacted.as_ref().map_or(0, |before| before.kept_from)
}

/// The first turn that stays as it is, if any before it is not summarised yet: at most `keep` turns stay, and fewer if
/// they fill too much of the window.
fn kept_from(conversation: &Conversation, keep: usize) -> Option<usize> {
    let turns = &conversation.turns;
    let room = conversation.head.settings.context_window.map_or(u64::MAX, |window| part_of(window, KEPT_PART));
    let mut used = 0;
    let kept = turns.iter().rev().take(keep).take_while(|turn| {
        used += length::of_turn(turn, conversation.head.context.shown).div_ceil(BYTES_PER_TOKEN) as u64;
        used <= room
    });
    let kept_from = turns.len() - kept.count();
    let older = conversation.compacted.is_none() && !conversation.history.is_empty();
    (kept_from > begin(conversation) || older).then_some(kept_from)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of tokens are far below 2^53, and the part is between 0 and 1"
)]
fn part_of(window: u64, part: f64) -> u64 {
    (window as f64 * part) as u64
}

/// About how many tokens the next request has.
pub(super) fn estimate(conversation: &Conversation) -> u64 {
    Length::of(conversation).tokens(BYTES_PER_TOKEN)
}

/// The request for a summary: what the conversation's own requests begin with, so that it is still in the provider's
/// cache, and what is wanted of it now.
pub fn summary_request(conversation: &Conversation, kept_from: usize, cut: bool) -> (RequestHead, Vec<Value>) {
    let mut older = conversation.clone();
    older.turns.truncate(kept_from);
    if cut {
        let shown = older.head.context.shown.map_or(SUMMARISED_RESULT, |shown| shown.min(SUMMARISED_RESULT));
        std::sync::Arc::make_mut(&mut older.head).context.shown = Some(shown);
    }
    let mut messages = older.messages();
    messages.push(serde_json::json!({"role": "user", "content": INSTRUCTION}));
    (RequestHead { output_schema: None, ..(*older.head).clone() }, messages)
}

/// What is written down of a summary.
pub(super) fn summarised(step: &StepKey, call: ModelCall, kept_from: usize) -> Vec<Event> {
    let is_text =
        |block: &Value| block["type"] == "text" && block["text"].as_str().is_some_and(|t| !t.trim().is_empty());
    let (is_summary, stop_reason) = (call.content.iter().any(is_text), call.stop_reason.clone());
    let mut events = vec![Event::Compacted { step: step.clone(), call: Box::new(call), kept_from }];
    if !is_summary {
        let message =
            format!("the model was to summarise the conversation and wrote nothing (it stopped with {stop_reason})");
        let error = Failure::new(FailureClass::ContextWindow, message);
        events.push(Event::StepFinished { step: step.clone(), outcome: StepOutcome::Failed { error } });
    }
    events
}

impl Deciding<'_> {
    /// Asks the model: for the next turn, or for a summary before it. Everything that is paid for a conversation passes
    /// here.
    pub(super) fn call_model(&mut self, key: &StepKey, room: Room) {
        let Some(room) = self.heed_compaction_hooks(key, room) else { return };
        if !matches!(room, Room::None(_)) && !self.cleared(key, None) {
            return;
        }
        match room {
            Room::Enough => match self.way(key) {
                // There may be no room for it, or no money, whatever there is of budgets and limits here.
                Way::Batch { .. } if self.is_held_back(key) => {}
                Way::Batch { until } => self.act(Action::JoinBatch { step: key.clone(), until }),
                Way::Direct => self.act(Action::CallModel { step: key.clone(), purpose: Purpose::Turn }),
            },
            Room::Compact(purpose) => self.act(Action::CallModel { step: key.clone(), purpose }),
            Room::None(error) => self.decision.fail_step(key, error),
        }
    }

    /// What is done after hooks were asked about a summary; nothing yet while they are.
    fn heed_compaction_hooks(&mut self, key: &StepKey, room: Room) -> Option<Room> {
        let Room::Compact(Purpose::Summary { cut, .. }) = room else { return Some(room) };
        let run = self.run;
        let known = run.step(key)?;
        match self.before_compaction(key, known) {
            Hooked::Pending => None,
            Hooked::Ruled(ruling) if ruling.decision == HookDecision::Deny && cut => {
                let reason = ruling.reason.as_deref().unwrap_or("it did not say why");
                let message = format!(
                    "the conversation does not fit, and a PreCompact hook does not let it be shortened: {reason}"
                );
                Some(Room::None(Failure::new(FailureClass::Rejected, message)))
            }
            Hooked::Ruled(ruling) if ruling.decision == HookDecision::Deny => Some(Room::Enough),
            Hooked::Silent | Hooked::Ruled(_) => Some(room),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use common::journal::{ContextRules, ModelSettings, Usage};
    use serde_json::json;

    use super::*;

    fn conversation(window: u64, turns: &[u64]) -> Conversation {
        let head = RequestHead {
            settings: ModelSettings { context_window: Some(window), ..ModelSettings::default() },
            context: ContextRules { compaction: Some(Compaction { at: 0.8, keep_turns: 2 }), shown: None },
            ..RequestHead::default()
        };
        let mut conversation = Conversation::new(head, "Go.".to_owned());
        for tokens in turns {
            conversation.answered(reply(*tokens, "hm", "end_turn"));
        }
        conversation
    }

    fn reply(tokens: u64, text: &str, stop_reason: &str) -> ModelCall {
        ModelCall {
            content: vec![json!({"type": "text", "text": text})],
            stop_reason: stop_reason.to_owned(),
            model: "m".to_owned(),
            response_id: "r".to_owned(),
            usage: Usage { input_tokens: tokens, ..Usage::default() },
            duration_ms: 1,
        }
    }

    fn purpose(conversation: &Conversation) -> Option<(usize, bool)> {
        match room(conversation) {
            Room::Compact(Purpose::Summary { kept_from, cut }) => Some((kept_from, cut)),
            _ => None,
        }
    }

    #[test]
    fn an_estimate_is_what_was_billed_last_and_a_token_for_each_four_bytes_since() {
        let mut known = conversation(1_000, &[100, 300]);
        assert_eq!(estimate(&known), 300);
        let turn = std::sync::Arc::make_mut(known.turns.last_mut().unwrap());
        turn.prompted = Some(common::journal::Prompted { text: "x".repeat(40), reason: "continue".to_owned() });
        assert_eq!(estimate(&known), 310);
        let unanswered = conversation(1_000, &[]);
        assert!((5..50).contains(&estimate(&unanswered)), "{}", estimate(&unanswered));
    }

    #[test]
    fn a_conversation_is_summarised_at_its_threshold_but_for_its_last_turns() {
        assert_eq!(purpose(&conversation(1_000, &[100, 200, 300, 799])), None);
        assert_eq!(purpose(&conversation(1_000, &[100, 200, 300, 800])), Some((2, false)));
        assert_eq!(purpose(&conversation(1_000, &[100, 900])), None, "there is nothing but the turns that stay");
    }

    #[test]
    fn turns_that_fill_the_window_by_themselves_do_not_stay() {
        let mut known = conversation(1_000, &[100, 200]);
        known.answered(reply(900, &"x".repeat(4_000), "end_turn"));
        assert_eq!(purpose(&known), Some((3, false)));
    }

    #[test]
    fn it_is_not_summarised_again_before_anything_was_answered() {
        let mut known = conversation(10, &[100, 200, 300]);
        assert_eq!(purpose(&known), Some((3, false)));
        known.compact(&reply(5, "so far", "end_turn"), 3);
        assert_eq!(purpose(&known), None);
        known.answered(reply(100, "hm", "end_turn"));
        assert_eq!(purpose(&known), Some((4, false)));
    }

    #[test]
    fn what_does_not_fit_is_summarised_once_and_then_fails() {
        let mut known = conversation(1_000, &[100]);
        known.overflowed = true;
        assert_eq!(purpose(&known), Some((1, true)));
        known.compact(&reply(5, "so far", "end_turn"), 1);
        assert!(matches!(room(&known), Room::Enough));
        known.overflowed = true;
        assert!(matches!(room(&known), Room::None(_)));
        let mut nothing = conversation(1_000, &[]);
        nothing.overflowed = true;
        assert!(matches!(room(&nothing), Room::None(_)));
    }

    #[test]
    fn a_summary_stands_for_the_older_turns_and_the_rest_is_verbatim() {
        let mut known = conversation(1_000, &[1, 2, 3]);
        let before = known.messages();
        known.compact(&reply(5, " so far ", "end_turn"), 2);
        let after = known.messages();
        assert_eq!(after.len(), 2);
        assert_eq!(after[1], before[3]);
        let opening = after[0]["content"].as_str().unwrap();
        assert!(opening.starts_with("Go.\n\n<summary>") && opening.contains("\n\nso far\n</summary>"), "{opening}");
        assert_eq!(known.usage().input_tokens, 11, "a summary is paid for");
    }

    #[test]
    fn the_request_for_a_summary_begins_as_the_conversation_does() {
        let known = conversation(1_000, &[1, 2, 3]);
        let (head, messages) = summary_request(&known, 2, false);
        assert_eq!(messages[..3], known.messages()[..3]);
        assert_eq!((messages.len(), head.system.as_str()), (4, ""));
    }
}
