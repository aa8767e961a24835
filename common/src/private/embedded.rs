//! Values of named fields in JSON that stands within a text: what a tool or a
//! model wrote, whole or in prose, escaped or not.

use std::collections::BTreeSet;
use std::ops::Range;

use regex::{Captures, Regex};

/// Finds fields in text.
pub(super) struct Embedded(Regex);

/// A value of a field in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldValue {
    /// The name, as it is written there.
    pub(super) name: String,
    /// The value: what is between its quotes, or all of it if it has none.
    pub(super) place: Range<usize>,
    /// The quotation mark with its backslashes, if the value has none: what a text in its place needs.
    pub(super) needs_quotes: Option<String>,
}

impl Embedded {
    pub(super) fn of(fields: &BTreeSet<String>) -> Result<Option<Self>, String> {
        if fields.is_empty() {
            return Ok(None);
        }
        let names: Vec<String> = fields.iter().map(|name| regex::escape(name)).collect();
        let form = format!(r#"(?i)(\\*)"({})(\\*)"\s*:\s*"#, names.join("|"));
        Regex::new(&form).map(|regex| Some(Self(regex))).map_err(|error| error.to_string())
    }

    /// All values of the fields in a text, in order; none within another.
    pub(super) fn all_in(&self, text: &str) -> Vec<FieldValue> {
        let mut found: Vec<FieldValue> = Vec::new();
        if !text.contains('"') {
            return found;
        }
        for hit in self.0.captures_iter(text) {
            let inside = found.last().is_some_and(|last| hit.get(0).is_some_and(|hit| hit.start() < last.place.end));
            if !inside && let Some(value) = value(text, &hit) {
                found.push(value);
            }
        }
        found
    }
}

fn value(text: &str, hit: &Captures<'_>) -> Option<FieldValue> {
    let depth = hit.get(1)?.len();
    // The same quotation mark on both sides: else it is something within a text.
    if hit.get(3)?.len() != depth {
        return None;
    }
    let (name, start) = (hit.get(2)?.as_str().to_owned(), hit.get(0)?.end());
    let quote = format!("{}\"", "\\".repeat(depth));
    let rest = text.get(start..)?;
    if rest.starts_with(&quote) {
        let from = start + quote.len();
        let to = closing(text, from, depth).unwrap_or(text.len());
        return (to > from).then_some(FieldValue { name, place: from..to, needs_quotes: None });
    }
    let length = match rest.bytes().next()? {
        b'{' | b'[' => balanced(rest, depth).unwrap_or(rest.len()),
        _ => rest.find([',', '}', ']', '\\', '"', ' ', '\t', '\r', '\n']).unwrap_or(rest.len()),
    };
    let scalar = rest.get(..length)?;
    if scalar.is_empty() || scalar == "null" {
        return None;
    }
    Some(FieldValue { name, place: start..start + length, needs_quotes: Some(quote) })
}

/// Where the text ends that begins here: at the next quotation mark of the same depth.
fn closing(text: &str, from: usize, depth: usize) -> Option<usize> {
    let mut backslashes = 0;
    for (at, byte) in text.bytes().enumerate().skip(from) {
        match byte {
            b'\\' => backslashes += 1,
            // Each level of escapes doubles those of the level within, and a backslash may itself stand before the end.
            b'"' if backslashes % (2 * (depth + 1)) == depth => return Some(at - depth),
            _ => backslashes = 0,
        }
    }
    None
}

/// The length of an object or a list.
fn balanced(text: &str, depth: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut open, mut at) = (0_usize, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => open += 1,
            b'}' | b']' => {
                open = open.saturating_sub(1);
                if open == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => at = closing(text, at + 1, depth)? + depth,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn values_of_fields_are_found_within_text() {
        let embedded = Embedded::of(&["ssn".to_owned(), "birth_date".to_owned()].into()).unwrap().unwrap();
        for (text, values) in [
            (r#"{"ssn": "1-2", "Birth_Date":"1980", "x": "ssn"}"#, vec!["1-2", "1980"]),
            (r#"It is {"ssn":123, "birth_date": null} so"#, vec!["123"]),
            (r#"{\"ssn\":\"1 \\\"2\\\" 3\",\"a\":1}"#, vec![r#"1 \\\"2\\\" 3"#]),
            (r#"{"ssn": {"a": ["}", "\"]"], "ssn": 1}, "b": 2}"#, vec![r#"{"a": ["}", "\"]"], "ssn": 1}"#]),
            (r#"{"ssn": "not closed"#, vec!["not closed"]),
            (r#"{"ssn": ""} "ssn": x"ssn\": 5 "#, vec!["x"]),
            (r#"{\\\"ssn\\\": \\\"7\\\"}"#, vec!["7"]),
            (r#"{"ssn": "a\\", "b": 1}"#, vec![r"a\\"]),
            (r#"{"passn": "1"}"#, vec![]),
        ] {
            let found: Vec<_> = embedded.all_in(text).into_iter().map(|value| &text[value.place]).collect();
            assert_eq!(found, values, "{text}");
        }
    }
}
