//! The token that stands for a private value.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvalidId;

/// Stands for a private value wherever text is kept or read: `private-email-k7x2m9qa4tz3w5yb`. Letters, digits, `-` and
/// `_` only, so that it survives URLs, file names, JSON, Markdown and the hands of a model; of a fixed length behind
/// its kind, so that it ends by itself wherever it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

const MARK: &str = "private";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const KIND_LIMIT: usize = 32;

impl Token {
    /// The characters behind the kind, five bits each.
    const BODY: usize = 16;

    /// The token of a kind with this body. A kind has lower-case letters, digits and `_`; anything else becomes `_`.
    pub fn new(kind: &str, body: [u8; 10]) -> Self {
        let mut text = format!("{MARK}-");
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        text.extend(kind.chars().take(KIND_LIMIT).map(plain));
        text.push('-');
        let bits = body.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        for place in (0..Self::BODY).rev() {
            let five = (bits >> (5 * place)) as usize & 31;
            text.push(char::from(ALPHABET[five]));
        }
        Self(text)
    }

    /// As it stands in text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of value it stands for.
    pub fn kind(&self) -> &str {
        self.0.split('-').nth(1).unwrap_or_default()
    }

    /// All tokens in a text, with their places. Upper case is read as lower.
    pub fn all_in(text: &str) -> impl Iterator<Item = (Range<usize>, Self)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            loop {
                let dash = from + text.as_bytes().get(from..)?.iter().position(|byte| *byte == b'-')?;
                from = dash + 1;
                if let Some(found) = at(text.as_bytes(), dash) {
                    from = found.end;
                    let token = text.get(found.clone())?.to_ascii_lowercase();
                    return Some((found, Self(token)));
                }
            }
        })
    }
}

/// The token whose first dash is here.
fn at(text: &[u8], dash: usize) -> Option<Range<usize>> {
    let start = dash.checked_sub(MARK.len())?;
    if !text.get(start..dash)?.eq_ignore_ascii_case(MARK.as_bytes()) {
        return None;
    }
    let rest = text.get(dash + 1..)?;
    let kind = rest.iter().take(KIND_LIMIT + 1).position(|byte| *byte == b'-')?;
    let is_kind = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if kind == 0 || !rest.get(..kind)?.iter().all(is_kind) {
        return None;
    }
    let body = rest.get(kind + 1..kind + 1 + Token::BODY)?;
    if !body.iter().all(|byte| ALPHABET.contains(&byte.to_ascii_lowercase())) {
        return None;
    }
    Some(start..dash + 1 + kind + 1 + Token::BODY)
}

impl FromStr for Token {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match Self::all_in(text).next() {
            Some((place, token)) if place == (0..text.len()) => Ok(token),
            _ => Err(InvalidId::new("token of a private value", text, "it looks like private-email-k7x2m9qa4tz3w5yb")),
        }
    }
}

impl TryFrom<String> for Token {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_is_found_wherever_it_stands() {
        let token = Token::new("birthDate!", *b"0123456789");
        assert_eq!(token.kind(), "birthdate_");
        let text = format!("a-{token}b{} private-{token}-x", token.as_str().to_ascii_uppercase());
        let found: Vec<_> = Token::all_in(&text).collect();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|(_, found)| *found == token));
        assert!(found.iter().all(|(place, _)| text[place.clone()].eq_ignore_ascii_case(token.as_str())));
        assert_eq!(token.as_str().parse::<Token>().unwrap(), token);
    }

    #[test]
    fn what_only_looks_like_a_token_is_none() {
        for text in [
            "private-email-",
            "private-email-k7x2m9qa4tz3w5y",
            "private--k7x2m9qa4tz3w5yb",
            "private-e mail-k7x2m9qa4tz3w5yb",
            "private-email-k7x2m9qa4tz3w501",
            "-",
            "é-private-",
        ] {
            assert_eq!(Token::all_in(text).count(), 0, "{text}");
            assert!(text.parse::<Token>().is_err());
        }
    }
}
