//! Exchanges of whole JSON documents, and of lines of JSON, beside the streams.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use common::failure::{Failure, FailureClass};
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::errors::{self, Hints, StreamFault};
use super::{REPLY_LIMIT, Wire, chain};

/// An exchange that came to nothing.
#[derive(Debug)]
pub(in crate::models) struct Unanswered {
    /// What went wrong.
    pub failure: Failure,
    /// The status, if there was an answer.
    pub status: Option<StatusCode>,
}

impl Wire {
    /// Asks for a document. `path` goes behind that of the endpoint.
    pub(in crate::models) async fn document(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Value, Unanswered> {
        let asked = async {
            let mut response = self.ask(method, path, query, body).await?;
            let hints = Hints::read(response.headers(), self.clock.now());
            let mut text = BytesMut::new();
            let read = |failure| Unanswered { failure, status: None };
            while let Some(bytes) = self.next_bytes(&mut response, &hints).await.map_err(read)? {
                if text.len() + bytes.len() > REPLY_LIMIT {
                    let fault = StreamFault::Malformed(format!("a document larger than {} MiB", REPLY_LIMIT >> 20));
                    return Err(read(errors::broken(self.origin(), &fault, &hints)));
                }
                text.extend_from_slice(&bytes);
            }
            serde_json::from_slice(&text).map_err(|error| {
                let fault = StreamFault::Malformed(format!("no JSON: {error}"));
                read(errors::broken(self.origin(), &fault, &hints))
            })
        };
        let answer = timeout(self.options.timeout, asked).await.unwrap_or_else(|_| {
            let text = format!("there was no answer within {:?} (timeout)", self.options.timeout);
            let failure = errors::failure(self.origin(), FailureClass::Timeout, &text, &Hints::default());
            Err(Unanswered { failure, status: None })
        });
        answer.map_err(|Unanswered { failure, status }| Unanswered { failure: self.without_key(failure), status })
    }

    /// Asks for lines. How long all of them may take is not bounded, but the silence between them is.
    pub(in crate::models) async fn lines(
        self: std::sync::Arc<Self>,
        path: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let response =
            self.ask(Method::GET, path, &[], None).await.map_err(|answer| self.without_key(answer.failure))?;
        let lines = Lines { wire: self, response, buffer: BytesMut::new(), ready: VecDeque::new(), ended: false };
        let next = |mut lines: Lines| async move { Ok(lines.next().await?.map(|line| (line, lines))) };
        Ok(stream::try_unfold(lines, next).boxed())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Response, Unanswered> {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}{path}", self.endpoint.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut send = self.client.request(method, url).headers(self.headers.clone());
        if let Some(body) = body {
            send = send.body(body);
        }
        let unanswered = |failure| Unanswered { failure, status: None };
        // A large body goes out before the first byte comes: the whole exchange has its own bound.
        let response = match timeout(self.options.timeout, send.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unanswered(self.unreachable(&error))),
            Err(_) => return Err(unanswered(self.silent("no first byte", &Hints::default()))),
        };
        let (status, hints) = (response.status(), Hints::read(response.headers(), self.clock.now()));
        tracing::debug!(provider = self.options.name, path, status = status.as_u16(), "the model API answered");
        if !status.is_success() {
            return Err(Unanswered { failure: self.refused(response, &hints).await, status: Some(status) });
        }
        Ok(response)
    }
}

/// A body that is read line by line.
struct Lines {
    wire: std::sync::Arc<Wire>,
    response: Response,
    buffer: BytesMut,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            let idle = self.wire.options.idle_timeout;
            let bytes = match timeout(idle, self.response.chunk()).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => return Err(self.broken(&format!("the connection broke: {}", chain(&error)))),
                Err(_) => return Err(self.wire.silent("nothing more", &Hints::default())),
            };
            if let Some(bytes) = bytes {
                self.take(&bytes)?;
            } else {
                self.ended = true;
                let rest = std::mem::take(&mut self.buffer).freeze();
                self.ready.extend((!rest.trim_ascii().is_empty()).then_some(rest));
            }
        }
    }

    fn take(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.buffer.len() + piece.len() > REPLY_LIMIT {
                return Err(self.broken(&format!("a line is longer than {} MiB", REPLY_LIMIT >> 20)));
            }
            self.buffer.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.buffer).freeze();
                if !line.trim_ascii().is_empty() {
                    self.ready.push_back(line);
                }
            }
        }
        Ok(())
    }

    fn broken(&self, text: &str) -> Failure {
        errors::failure(self.wire.origin(), FailureClass::Connection, text, &Hints::default())
    }
}
