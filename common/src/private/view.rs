//! A text as somebody would read it who undoes its escapes, with the way back
//! to the places in the text itself.

use std::borrow::Cow;
use std::ops::Range;

/// A text without escapes of JSON (at any depth), of URLs and of HTML's numbers.
pub(super) struct View<'t> {
    text: Cow<'t, str>,
    /// For each byte of the view, and for its end, the place in the text; empty if they are the same.
    places: Vec<u32>,
}

impl<'t> View<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        // Places are counted in 32 bits; no text of a journal is as long as that.
        if !text.contains(['\\', '%', '&']) || u32::try_from(text.len()).is_err() {
            return Self { text: Cow::Borrowed(text), places: Vec::new() };
        }
        let mut view = String::with_capacity(text.len());
        let mut places = Vec::with_capacity(text.len() + 1);
        let mut at = 0;
        while let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) {
            let (shown, length) = escape(&text.as_bytes()[at..]).unwrap_or((next, next.len_utf8()));
            view.push(shown);
            places.resize(view.len(), u32::try_from(at).unwrap_or(u32::MAX));
            at += length;
        }
        places.push(u32::try_from(at).unwrap_or(u32::MAX));
        Self { text: Cow::Owned(view), places }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where a part of the view stands in the text.
    pub(super) fn place(&self, part: Range<usize>) -> Range<usize> {
        let at = |index: usize| self.places.get(index).map_or(index, |place| *place as usize);
        at(part.start)..at(part.end)
    }
}

/// The character that is escaped here, and how many bytes that takes.
fn escape(text: &[u8]) -> Option<(char, usize)> {
    match text.first()? {
        b'%' => {
            let code = hex(text.get(1..3)?)?;
            (0x20..0x7f).contains(&code).then_some(())?;
            Some((char::from_u32(code)?, 3))
        }
        b'&' if text.get(1) == Some(&b'#') => {
            let end = text.iter().take(10).position(|byte| *byte == b';')?;
            let digits = text.get(2..end)?;
            let code = match digits.split_first()? {
                (b'x' | b'X', digits) => hex(digits)?,
                _ => std::str::from_utf8(digits).ok()?.parse().ok()?,
            };
            Some((char::from_u32(code).filter(|c| !c.is_control())?, end + 1))
        }
        b'\\' => {
            let depth = text.iter().take_while(|byte| **byte == b'\\').count();
            let shown = match text.get(depth)? {
                b'u' => {
                    let code = hex(text.get(depth + 1..depth + 5)?)?;
                    return Some((char::from_u32(code)?, depth + 5));
                }
                b'n' | b'r' => '\n',
                b't' | b'f' | b'b' => '\t',
                b'"' => '"',
                b'/' => '/',
                _ => return None,
            };
            Some((shown, depth + 1))
        }
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn escapes_are_undone_and_the_way_back_is_known() {
        for (text, read) in [
            ("plain é", "plain é"),
            (r"a\u0040b", "a@b"),
            (r"a\\u0040b", "a@b"),
            (r#"{\"a\":\"é\nb\"}"#, "{\"a\":\"é\nb\"}"),
            ("a%40b%2Bc", "a@b+c"),
            ("a&#64;b&#x40;", "a@b@"),
            (r"50% \x &amp; %4 \u00", r"50% \x &amp; %4 \u00"),
        ] {
            let view = View::of(text);
            assert_eq!(view.text(), read);
            assert_eq!(view.place(0..read.len()), 0..text.len());
            for (at, c) in read.char_indices() {
                let place = view.place(at..at + c.len_utf8());
                assert!(text.get(place.clone()).is_some_and(|part| part == c.to_string() || part.len() > 1), "{text}");
            }
        }
    }
}
