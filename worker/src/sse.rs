//! Server-sent events, decoded from bytes as they arrive: pure.
//!
//! After the HTML standard, section 9.2.6. Whether a stream that broke is resumed
//! is the caller's affair: the id of the last event and the wait that the server
//! asks for are kept for that. The caller bounds the number of bytes; each is
//! looked at once, so that one endless line costs no more than many short ones.

use std::mem;
use std::time::Duration;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name; empty where the sender gave none.
    pub name: String,
    /// Its data, lines joined by a line feed.
    pub data: String,
}

/// The stream is no UTF-8, which the standard demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotUtf8;

/// What is known of the stream between two pushes.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    /// The byte order mark can only stand before the first line.
    past_first_line: bool,
    name: String,
    data: Option<String>,
    /// The id that the event under way will have.
    id: String,
    last_id: String,
    retry: Option<Duration>,
}

impl Decoder {
    /// Takes in bytes and gives the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, NotUtf8> {
        let mut events = Vec::new();
        for &byte in bytes {
            let follows_return = mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if follows_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    /// The event that the end of the stream completes: some servers leave out the
    /// empty line behind the last one. The standard would drop it; the caller
    /// takes it only if it is whole.
    pub(crate) fn finish(mut self) -> Option<Event> {
        // The line that the end cut off, if any, and then the missing empty one.
        self.end_line().ok()?.or(self.end_line().ok()?)
    }

    /// The id of the last event, if it had one.
    pub(crate) fn last_id(&self) -> Option<&str> {
        Some(self.last_id.as_str()).filter(|id| !id.is_empty())
    }

    /// How long the server asks to wait before the stream is asked for again, if it does.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Bytes that are held of the event under way.
    pub(crate) fn held(&self) -> usize {
        self.line.len() + self.data.as_ref().map_or(0, String::len)
    }

    /// The beginning of the data of the event under way, at most about so many bytes.
    pub(crate) fn beginning(&self, bytes: usize) -> String {
        let line = self.line.strip_prefix(b"data:").unwrap_or_default();
        let data = self.data.as_deref().unwrap_or_default().bytes().chain(line.iter().copied());
        String::from_utf8_lossy(&data.take(bytes).collect::<Vec<u8>>()).trim_start().to_owned()
    }

    fn end_line(&mut self) -> Result<Option<Event>, NotUtf8> {
        let bytes = mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&bytes).map_err(|_| NotUtf8)?;
        if !mem::replace(&mut self.past_first_line, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            let name = mem::take(&mut self.name);
            self.last_id.clone_from(&self.id);
            return Ok(self.data.take().map(|data| Event { name, data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry);
            }
            // A comment (an empty field), or a field that means nothing here.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut decoder = Decoder::default();
        pieces.iter().flat_map(|piece| decoder.push(piece).unwrap()).map(|e| (e.name, e.data)).collect()
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn every_line_ending_ends_a_line() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("event: a{end}data: 1{end}data:2{end}{end}data{end}{end}");
            assert_eq!(decode(&[text.as_bytes()]), [event("a", "1\n2"), event("", "")], "{end:?}");
        }
    }

    #[test]
    fn comments_unknown_fields_and_the_byte_order_mark_are_skipped() {
        let text = "\u{feff}: hello\nid: 7\nretry: 1\nevent: a\ndata: x\n\nevent: lost\n\n";
        assert_eq!(decode(&[text.as_bytes()]), [event("a", "x")]);
    }

    #[test]
    fn an_id_counts_once_its_event_is_whole_and_lasts_until_the_next() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"id: 1\n").unwrap(), []);
        assert_eq!((decoder.last_id(), decoder.retry()), (None, None));
        assert_eq!(decoder.push(b"retry: 250\n\ndata: x\n\n").unwrap().len(), 1);
        assert_eq!((decoder.last_id(), decoder.retry()), (Some("1"), Some(Duration::from_millis(250))));
        assert_eq!(decoder.push(b"id: a\0b\nretry: soon\nretry:\n\n").unwrap(), []);
        assert_eq!((decoder.last_id(), decoder.retry()), (Some("1"), Some(Duration::from_millis(250))));
    }

    #[test]
    fn what_is_held_of_an_event_is_counted_and_its_beginning_known() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"data: one\ndata: tw").unwrap(), []);
        assert_eq!((decoder.held(), decoder.beginning(5).as_str()), (3 + 8, "one t"));
        decoder.push(b"o\n\n").unwrap();
        assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn only_an_empty_line_or_the_end_completes_an_event() {
        for text in [&b"event: a\ndata: x\n"[..], b"event: a\ndata: x"] {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.push(text).unwrap(), []);
            let last = decoder.finish().unwrap();
            assert_eq!((last.name, last.data), event("a", "x"));
        }
        assert_eq!(Decoder::default().finish(), None);
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error() {
        assert_eq!(Decoder::default().push(b"data: \xff\n"), Err(NotUtf8));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_split_makes_no_difference(
            text in "(event: [a-c]|data: ?[é☃x]{0,5}|: c|x|\u{feff}){0,3}(\r|\n|\r\n){0,3}",
            at in 0_usize..64,
        ) {
            let text = text.repeat(3);
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(decode(&[head, tail]), decode(&[bytes]));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Decoder::default().push(&bytes);
        }
    }
}
