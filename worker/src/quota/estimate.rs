//! What the next model call of a conversation may use at most: pure. Rather too
//! much than too little: what is reserved in vain is given back, and what is not
//! reserved may be spent twice.

use common::config::Price;
use common::journal::{CallResult, Conversation, RequestHead, Usage};
use serde_json::Value;

/// Texts have three to four bytes a token, and code or other scripts fewer.
const BYTES_PER_TOKEN: usize = 2;
/// What a request has beside its texts.
const OVERHEAD: u64 = 200;
/// Tokens of an image or a document, where its bytes say nothing.
const ATTACHMENT: u64 = 5_000;
/// Writing to the cache for five minutes, as a part of the price of input.
const CACHE_WRITE: f64 = 1.25;

/// What a call may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Worst {
    /// Tokens, in and out.
    pub tokens: u64,
    /// Millionths of a dollar; `None`: nobody knows the price.
    pub micros: Option<u64>,
}

/// What the next call may use at most.
pub fn worst(conversation: &Conversation, price: Option<Price>) -> Worst {
    let (input, output) = (input(conversation), u64::from(conversation.head.max_tokens));
    let micros = price.map(|price| {
        let written = price.cache_write.unwrap_or(price.input * CACHE_WRITE).max(price.input);
        // Dollars per million tokens are millionths of a dollar per token.
        micros(float(input) * written + float(output) * price.output)
    });
    Worst { tokens: input.saturating_add(output), micros }
}

/// What a call has used, in millionths of a dollar.
pub fn used_micros(usage: &Usage) -> u64 {
    micros(usage.cost_usd * 1e6)
}

/// Dollars in millionths.
pub fn limit_micros(usd: f64) -> u64 {
    micros(usd * 1e6)
}

/// The most tokens of the next request. All that went out before is known from the last reply.
fn input(conversation: &Conversation) -> u64 {
    let Some(turn) = conversation.turns.last() else {
        let RequestHead { system, tools, output_schema, .. } = &*conversation.head;
        let values = tools.iter().chain(output_schema).map(size).sum::<u64>();
        return tokens(system.len() + conversation.prompt.len()) + values + OVERHEAD;
    };
    let usage = &turn.reply.usage;
    let known = usage.tokens();
    let results: u64 = turn.results.values().map(result).sum();
    let prompted = turn.prompted.as_ref().map_or(0, |prompted| tokens(prompted.text.len()));
    // A reply that says nothing of its tokens leaves the whole conversation to be counted.
    let whole = if known == 0 { conversation.messages().iter().map(size).sum() } else { 0 };
    known + results + prompted + whole + OVERHEAD
}

fn result(result: &CallResult) -> u64 {
    match result {
        CallResult::Done { content, .. } => size(content),
        CallResult::Failed { error } => tokens(error.message.len()),
    }
}

/// The tokens of a value that a request contains.
fn size(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
        Value::String(text) => tokens(text.len()),
        Value::Array(items) => items.iter().map(size).sum::<u64>() + 2,
        Value::Object(fields) if fields.contains_key("source") => ATTACHMENT,
        Value::Object(fields) => fields.iter().map(|(name, value)| tokens(name.len()) + size(value) + 2).sum(),
    }
}

fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN) as u64
}

#[expect(clippy::cast_precision_loss, reason = "tokens of one call are far below 2^53")]
fn float(tokens: u64) -> f64 {
    tokens as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "cut to what an amount may be"
)]
fn micros(micros: f64) -> u64 {
    // A sum of dollars is not exact to the last digit; what is a millionth by rounding is none.
    (micros - 1e-3).ceil().clamp(0.0, common::store::meter::LARGEST_AMOUNT as f64) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_call_may_use_all_that_is_said_and_the_longest_reply() {
        let price = Price { input: 3.0, output: 15.0, cache_read: None, cache_write: None };
        let head = RequestHead { max_tokens: 1_000, system: "Be brief.".to_owned(), ..RequestHead::default() };
        let conversation = Conversation::new(head, "x".repeat(10_000));
        let worst = worst(&conversation, Some(price));
        assert!((6_000..10_000).contains(&worst.tokens), "{worst:?}");
        let expected = 1_000 * 15 + (worst.tokens - 1_000) * 375 / 100;
        assert!(worst.micros.unwrap().abs_diff(expected) <= 1, "{worst:?} {expected}");
        assert_eq!(super::worst(&conversation, None).micros, None);
    }

    #[test]
    fn sums_of_dollars_are_whole_millionths() {
        assert_eq!(limit_micros(0.1 + 0.2), 300_000);
        assert_eq!(limit_micros(0.000_000_4), 1);
        assert_eq!(limit_micros(f64::MAX), common::store::meter::LARGEST_AMOUNT);
    }
}
