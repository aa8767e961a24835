//! How long the next request of a conversation is: what its last reply was billed
//! for, and the bytes that came since. Pure. How many tokens that makes is for the
//! caller to say: who shortens conversations wants the likely number, who reserves
//! money the largest.

use common::journal::{CallResult, Conversation, RequestHead, Turn, shown};
use serde_json::Value;

/// Bytes that an image or a document counts for at most: its own say nothing of its tokens.
const ATTACHMENT: usize = 20_000;

/// The length of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Tokens of which the last reply tells, its own among them.
    pub billed: u64,
    /// Bytes of which it cannot tell.
    pub bytes: usize,
}

impl Length {
    /// That of the next request.
    pub fn of(conversation: &Conversation) -> Self {
        // What was said before a summary is no longer in the request.
        let answered =
            conversation.turns.iter().skip(conversation.compacted.as_ref().map_or(0, |before| before.at_turn));
        let last = answered.rev().find(|turn| !turn.set_aside);
        match last.map(|turn| (turn, turn.reply.usage.tokens())) {
            Some((turn, billed)) if billed > 0 => Self { billed, bytes: added(turn, conversation.head.context.shown) },
            _ => {
                let RequestHead { system, tools, output_schema, .. } = &*conversation.head;
                let head = system.len() + tools.iter().chain(output_schema).map(size).sum::<usize>();
                Self { billed: 0, bytes: head + conversation.messages().iter().map(size).sum::<usize>() }
            }
        }
    }

    /// In tokens, if so many bytes make one.
    pub fn tokens(self, bytes_per_token: usize) -> u64 {
        self.billed.saturating_add(self.bytes.div_ceil(bytes_per_token.max(1)) as u64)
    }
}

/// The bytes of a turn, with what came behind its reply. Of each result, `shown` are shown.
pub fn of_turn(turn: &Turn, shown: Option<usize>) -> usize {
    turn.reply.content.iter().map(size).sum::<usize>() + added(turn, shown)
}

/// What came of a turn behind its reply.
fn added(turn: &Turn, shown: Option<usize>) -> usize {
    let results: usize = turn.results.values().map(|result| of_result(result, shown)).sum();
    let remarks: usize = turn.remarks.values().flatten().map(String::len).sum();
    results + remarks + turn.prompted.as_ref().map_or(0, |prompted| prompted.text.len())
}

fn of_result(result: &CallResult, shown: Option<usize>) -> usize {
    let text = shown::whole(result).len().min(shown.unwrap_or(usize::MAX));
    let others = match result {
        CallResult::Done { content: Value::Array(blocks), .. } => blocks.as_slice(),
        _ => &[],
    };
    text + others.iter().filter(|block| !block["text"].is_string()).map(size).sum::<usize>()
}

/// About the bytes of a value's JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::Object(fields) => {
            let all: usize = fields.iter().map(|(name, value)| name.len() + size(value) + 4).sum();
            if fields.contains_key("source") { all.min(ATTACHMENT) } else { all }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use common::id::CallId;
    use common::journal::{ContextRules, ModelCall, Usage};
    use serde_json::json;

    fn asked(shown: Option<usize>, result: Value) -> Conversation {
        let context = ContextRules { shown, ..ContextRules::default() };
        let mut conversation = Conversation::new(RequestHead { context, ..RequestHead::default() }, "x".repeat(1_000));
        conversation.answered(ModelCall {
            content: vec![json!({"type": "tool_use", "id": "a", "name": "Read", "input": {}})],
            stop_reason: "tool_use".to_owned(),
            model: String::new(),
            response_id: String::new(),
            usage: Usage { input_tokens: 90, output_tokens: 10, ..Usage::default() },
            duration_ms: 0,
        });
        let id = CallId::new("a").unwrap();
        let turn = conversation.turn_of(&id).unwrap();
        turn.results.insert(id.clone(), CallResult::Done { content: result, is_error: false });
        turn.remarks.insert(id, vec!["seen".to_owned()]);
        conversation
    }

    #[test]
    fn what_was_billed_is_known_and_what_came_since_is_counted_as_it_is_shown() {
        let long = json!("y".repeat(50_000));
        assert_eq!(Length::of(&asked(None, long.clone())), Length { billed: 100, bytes: 50_004 });
        assert_eq!(Length::of(&asked(Some(2_000), long)), Length { billed: 100, bytes: 2_004 });
        let image = json!([{"type": "image", "source": {"type": "base64", "data": "z".repeat(900_000)}}]);
        let bytes = Length::of(&asked(None, image)).bytes;
        assert!((ATTACHMENT / 2..2 * ATTACHMENT).contains(&bytes), "{bytes}");
        assert_eq!(Length { billed: 100, bytes: 7 }.tokens(4), 102);
    }

    #[test]
    fn a_first_request_has_the_head_the_prompt_and_what_a_session_brought_along() {
        let mut conversation = Conversation::new(RequestHead::default(), "x".repeat(1_000));
        let alone = Length::of(&conversation);
        assert!(alone.billed == 0 && (1_000..1_200).contains(&alone.bytes), "{alone:?}");
        conversation.history = vec![json!({"role": "user", "content": "h".repeat(5_000)})].into();
        assert!(Length::of(&conversation).bytes >= alone.bytes + 5_000);
    }
}
