//! Revealing: values back in the places of their tokens. A token that the task
//! does not know, or whose value was erased, stays as it is.

use std::fmt::Write;
use std::ops::Range;

use serde_json::{Map, Value};

use super::Private;
use super::keys::Plain;
use crate::id::Token;
use crate::journal::SealedValues;

/// How deep values may stand within values.
const DEPTH: usize = 4;

impl Private {
    /// JSON with the values.
    #[must_use]
    pub fn reveal(&self, value: &Value, sealed: &SealedValues) -> Value {
        self.opened(value, sealed, DEPTH)
    }

    /// A text with the values.
    #[must_use]
    pub fn reveal_text(&self, text: &str, sealed: &SealedValues) -> String {
        self.opened_text(text, sealed, DEPTH, &|value| value)
    }

    /// An address with the values, each escaped so that it stays where it is put.
    #[must_use]
    pub fn reveal_url(&self, url: &str, sealed: &SealedValues) -> String {
        // The whole address may be private itself.
        if let Ok(token) = url.parse::<Token>() {
            return self.opened_token(&token, sealed).map_or_else(|| url.to_owned(), plain_text);
        }
        self.opened_text(url, sealed, DEPTH, &|value| percent_encoded(&value))
    }

    fn opened(&self, value: &Value, sealed: &SealedValues, depth: usize) -> Value {
        match value {
            Value::String(text) => match text.parse::<Token>().ok().and_then(|token| self.opened_token(&token, sealed))
            {
                Some(Plain::Text(plain)) if depth > 0 => {
                    Value::String(self.opened_text(&plain, sealed, depth - 1, &|v| v))
                }
                Some(Plain::Text(plain)) => Value::String(plain),
                Some(Plain::Json(json)) => serde_json::from_str(&json).unwrap_or(Value::String(json)),
                None => Value::String(self.opened_text(text, sealed, depth, &|value| value)),
            },
            Value::Array(items) => Value::Array(items.iter().map(|item| self.opened(item, sealed, depth)).collect()),
            Value::Object(fields) => {
                let opened = |(key, value): (&String, &Value)| {
                    (self.opened_text(key, sealed, depth, &|value| value), self.opened(value, sealed, depth))
                };
                Value::Object(fields.iter().map(opened).collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    fn opened_text(&self, text: &str, sealed: &SealedValues, depth: usize, write: &dyn Fn(String) -> String) -> String {
        let mut opened = String::with_capacity(text.len());
        let mut from = 0;
        for (place, token) in Token::all_in(text) {
            let Some(plain) = self.opened_token(&token, sealed) else { continue };
            let place = if matches!(plain, Plain::Json(_)) { with_quotes(text, place, from) } else { place };
            let plain = plain_text(plain);
            let plain = if depth > 0 { self.opened_text(&plain, sealed, depth - 1, &|value| value) } else { plain };
            opened.push_str(&text[from..place.start]);
            opened.push_str(&write(plain));
            from = place.end;
        }
        opened.push_str(&text[from..]);
        opened
    }

    fn opened_token(&self, token: &Token, sealed: &SealedValues) -> Option<Plain> {
        self.keys.open(token, sealed.get(token)?)
    }
}

fn plain_text(plain: Plain) -> String {
    match plain {
        Plain::Text(text) | Plain::Json(text) => text,
    }
}

/// The place of a token with the quotation marks around it, which JSON that is no text does not have.
fn with_quotes(text: &str, place: Range<usize>, from: usize) -> Range<usize> {
    let Some(before) = text[from..place.start].strip_suffix('"') else { return place };
    let depth = before.len() - before.trim_end_matches('\\').len();
    let quote = format!("{}\"", "\\".repeat(depth));
    if text[place.end..].starts_with(&quote) { place.start - quote.len()..place.end + quote.len() } else { place }
}

/// A value as a part of an address. What is escaped already stays so.
fn percent_encoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut encoded = String::with_capacity(value.len());
    for (at, byte) in bytes.iter().enumerate() {
        let escaped =
            *byte == b'%' && bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if escaped || byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(*byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
