//! What the next model call of a conversation may use at most: pure. Rather too
//! much than too little: what is reserved in vain is given back, and what is not
//! reserved may be spent twice.

use common::config::Price;
use common::journal::{CacheTtl, Conversation, Usage};

use crate::models::length::Length;
use crate::models::price::{Tokens, cost};

/// Texts have three to four bytes a token, and code or other scripts fewer.
const BYTES_PER_TOKEN: usize = 2;
/// What a request has beside its texts; the order to summarise is in it.
const OVERHEAD: u64 = 600;

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
    // The dearest is that all of the input is new and goes to the cache.
    let written = match conversation.head.settings.cache {
        CacheTtl::Minutes => Tokens { cache_write_5m: input, ..Tokens::default() },
        CacheTtl::Hour => Tokens { cache_write_1h: input, ..Tokens::default() },
    };
    let micros = price.map(|price| {
        let read = cost(&price, Tokens { input, ..Tokens::default() }).max(cost(&price, written));
        limit_micros(read + cost(&price, Tokens { output, ..Tokens::default() }))
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

/// The most tokens of the next request.
fn input(conversation: &Conversation) -> u64 {
    Length::of(conversation).tokens(BYTES_PER_TOKEN) + OVERHEAD
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
    use std::sync::Arc;

    use common::config::Price;
    use common::journal::RequestHead;
    use serde_json::json;

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
        let mut lasting = conversation;
        Arc::make_mut(&mut lasting.head).settings.cache = CacheTtl::Hour;
        let expected = 1_000 * 15 + (worst.tokens - 1_000) * 6;
        assert!(super::worst(&lasting, Some(price)).micros.unwrap().abs_diff(expected) <= 1, "an hour in the cache");
    }

    #[test]
    fn what_a_session_brought_along_is_reserved_too() {
        let head = RequestHead { max_tokens: 1_000, ..RequestHead::default() };
        let mut conversation = Conversation::new(head, "Go on.".to_owned());
        let alone = worst(&conversation, None).tokens;
        conversation.history = vec![json!({"role": "user", "content": "h".repeat(20_000)})].into();
        assert!(worst(&conversation, None).tokens >= alone + 10_000);
    }

    #[test]
    fn sums_of_dollars_are_whole_millionths() {
        assert_eq!(limit_micros(0.1 + 0.2), 300_000);
        assert_eq!(limit_micros(0.000_000_4), 1);
        assert_eq!(limit_micros(f64::MAX), common::store::meter::LARGEST_AMOUNT);
    }
}
