//! Results of tools that are too long to be shown to a model whole: the journal
//! keeps all of them, the model sees the beginning and reads on where it wants to.
//! The same result is always cut in the same place.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::record::CallResult;
use crate::id::CallId;

/// The tool by which a model reads on.
pub const READ_RESULT: &str = "ReadResult";

/// All of the text of a result.
pub fn whole(result: &CallResult) -> Cow<'_, str> {
    match result {
        CallResult::Failed { error } => Cow::Borrowed(&error.message),
        CallResult::Done { content: Value::String(text), .. } => Cow::Borrowed(text),
        CallResult::Done { content: Value::Array(blocks), .. } => {
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
            match texts.as_slice() {
                [text] => Cow::Borrowed(text),
                _ => Cow::Owned(texts.join("\n")),
            }
        }
        CallResult::Done { content, .. } => Cow::Owned(content.to_string()),
    }
}

/// What the model sees of a result that is longer than `limit` bytes; nothing for one that is not. Blocks that are no
/// text stay.
pub(super) fn cut(call: &CallId, result: &CallResult, limit: usize) -> Option<Value> {
    let text = whole(result);
    if text.len() <= limit {
        return None;
    }
    let text = part(call, &text, 0, limit);
    let others = match result {
        CallResult::Done { content: Value::Array(blocks), .. } => blocks.as_slice(),
        _ => &[],
    };
    let mut others = others.iter().filter(|block| !block["text"].is_string()).peekable();
    if others.peek().is_none() {
        return Some(Value::String(text));
    }
    Some(std::iter::once(json!({"type": "text", "text": text})).chain(others.cloned()).collect())
}

/// A part of a text: at most `limit` bytes from the character `offset`, and how to read on if that is not the end.
pub fn part(call: &CallId, text: &str, offset: usize, limit: usize) -> String {
    let start = text.char_indices().nth(offset).map_or(text.len(), |(at, _)| at);
    let rest = &text[start..];
    let mut end = rest.len().min(limit);
    while !rest.is_char_boundary(end) {
        end -= 1;
    }
    let shown = &rest[..end];
    if end == rest.len() {
        return shown.to_owned();
    }
    let next = offset + shown.chars().count();
    let total = offset + rest.chars().count();
    format!(
        "{shown}\n[Cut here: characters {offset} to {next} of {total} are shown. Read on with {READ_RESULT}, call {call:?}, \
         offset {next}.]",
        call = call.as_str()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn call() -> CallId {
        CallId::new("toolu_1").unwrap()
    }

    fn done(content: Value) -> CallResult {
        CallResult::Done { content, is_error: false }
    }

    #[test]
    fn what_fits_is_shown_as_it_is() {
        assert_eq!(cut(&call(), &done(json!("abc")), 3), None);
        assert_eq!(cut(&call(), &done(json!([{"type": "text", "text": "abc"}])), 3), None);
    }

    #[test]
    fn the_parts_of_a_long_text_are_the_text_and_no_character_is_torn() {
        let text = "aé".repeat(50);
        let (mut offset, mut read) = (0, String::new());
        loop {
            let part = part(&call(), &text, offset, 7);
            let (shown, more) = part.split_once("\n[Cut here").unwrap_or((&part, ""));
            read.push_str(shown);
            offset += shown.chars().count();
            if more.is_empty() {
                break;
            }
            assert!(more.contains(&format!("offset {offset}.")), "{more}");
        }
        assert_eq!(read, text);
        assert_eq!(part(&call(), &text, 1_000, 7), "");
    }

    #[test]
    fn pictures_stay_when_the_text_beside_them_is_cut() {
        let image = json!({"type": "image", "source": {}});
        let shown = cut(&call(), &done(json!([{"type": "text", "text": "abcdef"}, image])), 3).unwrap();
        assert!(shown[0]["text"].as_str().unwrap().starts_with("abc\n[Cut"));
        assert_eq!(shown[1], image);
    }
}
