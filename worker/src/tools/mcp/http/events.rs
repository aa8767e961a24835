//! Streams of events: that of a request, which ends with its answer, and the
//! server's own.

use std::collections::VecDeque;
use std::time::Duration;

use common::failure::FailureClass;
use reqwest::{Response, StatusCode};
use rmcp::model::RequestId;
use std::sync::Arc;

use super::super::connection::Unanswered;
use super::super::lines::{ENDS, answered_id};
use super::exchange::media;
use super::{Incoming, Line};
use crate::http::causes;
use crate::sse::{Decoder, Event};

/// How often in a row a broken stream is taken up without anything new.
const RESUMPTIONS: u32 = 5;
/// The pause before a stream is taken up, if the server names none; it doubles with each in a row.
const PAUSE: Duration = Duration::from_millis(500);
/// The shortest and the longest pause, whatever the server names.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest silence of a stream that can be taken up.
const SILENCE: Duration = Duration::from_secs(60);

impl Line {
    /// Follows the stream of a request to its answer.
    pub(super) async fn follow(&self, response: Response, id: &RequestId, method: &str) -> Result<(), Unanswered> {
        let mut stream = Stream::new(response, self.answer_limit);
        loop {
            let Some(why) = self.read(&mut stream, Some(id), method).await? else { return Ok(()) };
            let place = self.endpoint.shown();
            let Some(after) = stream.cursor.clone() else {
                let message = format!("{place}: the stream broke before the answer: {why}");
                return Err(Unanswered::lost(FailureClass::Connection, message));
            };
            stream = self.take_up(&stream, &after).await.map_err(|cannot| {
                let message =
                    format!("{place}: the stream broke before the answer ({why}) and cannot be taken up: {cannot}");
                Unanswered::lost(FailureClass::Connection, message)
            })?;
        }
    }

    /// A stream that goes on behind an event; why not, if that cannot be had.
    async fn take_up(&self, broken: &Stream, after: &str) -> Result<Stream, String> {
        let mut misses = broken.misses;
        let mut why = "it breaks again and again".to_owned();
        while misses < RESUMPTIONS {
            tokio::time::sleep(pause(broken.retry, misses)).await;
            misses += 1;
            match self.endpoint.events(&self.session(), Some(after)).await {
                Ok(response) if response.status().is_success() && media(&response) == "text/event-stream" => {
                    return Ok(Stream {
                        cursor: broken.cursor.clone(),
                        retry: broken.retry,
                        misses,
                        ..Stream::new(response, self.answer_limit)
                    });
                }
                Ok(response) if response.status().is_server_error() => {
                    why = format!("the server answers {}", response.status());
                }
                Ok(response) => {
                    if response.status() == StatusCode::NOT_FOUND {
                        self.session_ended();
                    }
                    return Err(format!("the server answers {}", response.status()));
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// Reads a stream up to the awaited answer: `None`. Else why there is no more of it.
    async fn read(
        &self,
        stream: &mut Stream,
        awaited: Option<&RequestId>,
        method: &str,
    ) -> Result<Option<String>, Unanswered> {
        loop {
            let message = match stream.next().await {
                Next::Message(message) => message,
                Next::TooLarge(answered) => {
                    let message =
                        format!("{}: the answer is larger than {} bytes", self.endpoint.shown(), self.answer_limit);
                    match (answered, awaited) {
                        (Some(answered), Some(id)) if answered == id.to_string() => {
                            return Err(Unanswered::failed(FailureClass::Limit, message));
                        }
                        // That of another request, or news: it is not ours to fail for.
                        (Some(_), _) | (None, None) => continue,
                        (None, Some(_)) => return Err(Unanswered::lost(FailureClass::Limit, message)),
                    }
                }
                Next::Broke(why) => return Ok(Some(why)),
            };
            let Ok(message) = serde_json::from_str::<Incoming>(&message) else {
                let message = format!("{} sent an event that is no message of the protocol", self.endpoint.shown());
                match awaited {
                    Some(_) => return Err(Unanswered::lost(FailureClass::Protocol, message)),
                    None => continue,
                }
            };
            if self.deliver(message, awaited, method).await? {
                return Ok(None);
            }
        }
    }

    /// Listens to what the server has to say beside its answers, if it offers that.
    pub(super) async fn listen(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.hear() => {}
        }
    }

    async fn hear(&self) {
        let (mut cursor, mut retry, mut misses) = (None::<String>, None, 0);
        loop {
            match self.endpoint.events(&self.session(), cursor.as_deref()).await {
                Ok(response) if response.status().is_success() && media(&response) == "text/event-stream" => {
                    let mut stream =
                        Stream { cursor: cursor.take(), retry, misses, ..Stream::new(response, self.answer_limit) };
                    if self.read(&mut stream, None, "").await.is_err() {
                        return;
                    }
                    (cursor, retry, misses) = (stream.cursor, stream.retry, stream.misses);
                }
                Ok(response) if response.status() == StatusCode::NOT_FOUND && self.session().id.is_some() => {
                    return self.session_ended();
                }
                Ok(response) if response.status().is_server_error() => {}
                // 405: it offers none.
                Ok(_) => return,
                Err(error) => tracing::debug!(server = %self.name, %error, "no events from an MCP server"),
            }
            tokio::time::sleep(pause(retry, misses)).await;
            misses = misses.saturating_add(1);
        }
    }
}

/// How long to wait before a stream is asked for again.
fn pause(retry: Option<Duration>, misses: u32) -> Duration {
    let doubled = PAUSE.saturating_mul(2_u32.saturating_pow(misses));
    retry.unwrap_or(doubled).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

enum Next {
    Message(String),
    /// With the id of the request that it answers, if that can be told.
    TooLarge(Option<String>),
    Broke(String),
}

/// The events of one response.
struct Stream {
    response: Response,
    decoder: Decoder,
    ready: VecDeque<Event>,
    limit: usize,
    /// The last bytes that came.
    tail: Vec<u8>,
    /// The beginning of an event that is too large and not over.
    too_large: Option<TooLarge>,
    /// The id of the last event that had one.
    cursor: Option<String>,
    retry: Option<Duration>,
    /// How often in a row nothing new came.
    misses: u32,
}

struct TooLarge {
    head: String,
    end: BlankLine,
}

impl Stream {
    fn new(response: Response, limit: usize) -> Self {
        Self {
            response,
            decoder: Decoder::default(),
            ready: VecDeque::new(),
            limit,
            tail: Vec::new(),
            too_large: None,
            cursor: None,
            retry: None,
            misses: 0,
        }
    }

    async fn next(&mut self) -> Next {
        loop {
            while let Some(event) = self.ready.pop_front() {
                self.misses = 0;
                if event.data.len() > self.limit {
                    let (head, tail) = ends(event.data.as_bytes());
                    return Next::TooLarge(answered(head, tail));
                }
                // An event without data only says how far the stream is.
                if !event.data.trim().is_empty() {
                    return Next::Message(event.data);
                }
            }
            let chunk = if self.cursor.is_some() {
                match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                    Ok(chunk) => chunk,
                    Err(_) => return Next::Broke(format!("nothing came for {} s", SILENCE.as_secs())),
                }
            } else {
                // It could not be taken up: the caller's patience is the limit.
                self.response.chunk().await
            };
            let mut bytes = match chunk {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Next::Broke("it ended".to_owned()),
                Err(error) => return Next::Broke(causes(&error)),
            };
            if let Some(too_large) = &mut self.too_large {
                let Some(end) = too_large.end.find(&bytes) else {
                    self.remember(&bytes);
                    continue;
                };
                let rest = bytes.split_off(end);
                self.remember(&bytes);
                let head = self.too_large.take().map(|too_large| too_large.head).unwrap_or_default();
                let tail = std::mem::take(&mut self.tail);
                if let Some(broke) = self.decode(&rest) {
                    return broke;
                }
                return Next::TooLarge(answered(head.as_bytes(), tail.trim_ascii_end()));
            }
            if let Some(broke) = self.decode(&bytes) {
                return broke;
            }
        }
    }

    fn decode(&mut self, bytes: &[u8]) -> Option<Next> {
        let Ok(events) = self.decoder.push(bytes) else { return Some(Next::Broke("it is not UTF-8".to_owned())) };
        self.ready.extend(events);
        self.remember(bytes);
        self.cursor = self.decoder.last_id().map(str::to_owned).or(self.cursor.take());
        self.retry = self.decoder.retry().or(self.retry);
        if self.decoder.held() > self.limit {
            let head = self.decoder.beginning(ENDS);
            self.too_large = Some(TooLarge { head, end: BlankLine::default() });
            self.decoder = Decoder::default();
        }
        None
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(ENDS)..]);
        self.tail.drain(..self.tail.len().saturating_sub(ENDS));
    }
}

fn ends(data: &[u8]) -> (&[u8], &[u8]) {
    (&data[..data.len().min(ENDS)], &data[data.len().saturating_sub(ENDS)..])
}

fn answered(head: &[u8], tail: &[u8]) -> Option<String> {
    answered_id(head, tail).map(|id| id.to_string())
}

/// Looks for the empty line that ends an event, from the middle of a line on.
#[derive(Default)]
struct BlankLine {
    at_start: bool,
    after_return: bool,
}

impl BlankLine {
    /// How many of these bytes belong to the event, if it ends within them.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            let follows_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if follows_return => {}
                b'\n' | b'\r' if self.at_start => return Some(at + 1),
                b'\n' | b'\r' => self.at_start = true,
                _ => self.at_start = false,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line_whatever_ends_its_lines() {
        for (text, end) in [
            (&b"rest\n\nnext"[..], Some(6)),
            (b"rest\r\n\r\nnext", Some(7)),
            (b"rest\r\rnext", Some(6)),
            (b"rest\ndata: more\n", None),
            (b"rest\r\nmore", None),
        ] {
            assert_eq!(BlankLine::default().find(text), end, "{}", String::from_utf8_lossy(text));
            let mut pieces = BlankLine::default();
            let whole = text.iter().position(|byte| pieces.find(&[*byte]).is_some()).map(|at| at + 1);
            assert_eq!(whole, end, "byte by byte");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_unless_the_server_names_one() {
        let millis = [0, 1, 2, 10, u32::MAX].map(|misses| pause(None, misses).as_millis());
        assert_eq!(millis, [500, 1000, 2000, 60_000, 60_000]);
        assert_eq!(pause(Some(Duration::from_millis(250)), 4), Duration::from_millis(250));
        assert_eq!(pause(Some(Duration::ZERO), 4), SHORTEST_PAUSE);
        assert_eq!(pause(Some(Duration::from_secs(3600)), 0), LONGEST_PAUSE);
    }
}
