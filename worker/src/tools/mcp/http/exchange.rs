//! One message and what comes back.

use std::time::Duration;

use common::failure::{Failure, FailureClass};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use rmcp::ErrorData;
use rmcp::model::{ErrorCode, JsonRpcMessage, ProtocolVersion, RequestId};
use serde_json::Value;

use super::super::connection::Unanswered;
use super::endpoint::session_id;
use super::{Incoming, Line, Outgoing, Session};
use crate::answer::ToolError;
use crate::http::{causes, redirected, refused};

/// The longest silence within the body of an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of a refusal that are read.
const REFUSAL: usize = 64 << 10;
/// The code of a refusal that has none of its own; in the range that JSON-RPC leaves to implementations.
const REFUSED: ErrorCode = ErrorCode(-32_091);

const INITIALIZE: &str = "initialize";
const DISCOVER: &str = "server/discover";

/// A message as it is sent.
struct Envelope {
    method: String,
    /// The version that the message itself names, as those of conversations without handshake do.
    version: Option<HeaderValue>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Envelope {
    fn of(message: &Outgoing, session: &Session) -> Result<Self, Unanswered> {
        let internal = |error: serde_json::Error| {
            Unanswered::failed(FailureClass::Internal, format!("a message cannot be written: {error}"))
        };
        let value = serde_json::to_value(message).map_err(internal)?;
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let method = text("/method").unwrap_or_default().to_owned();
        let version = text("/params/_meta/io.modelcontextprotocol~1protocolVersion");
        let version = version.and_then(|version| HeaderValue::from_str(version).ok());
        let mut headers = HeaderMap::new();
        let spoken = version.as_ref().or(session.version.as_ref()).and_then(|version| version.to_str().ok());
        if spoken.is_some_and(|version| version >= ProtocolVersion::STANDARD_HEADERS.as_str()) {
            let name = if method == "tools/call" { text("/params/name") } else { None };
            for (header, value) in [("mcp-method", Some(method.as_str())), ("mcp-name", name)] {
                if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                    headers.insert(HeaderName::from_static(header), value);
                }
            }
        }
        let body = serde_json::to_vec(&value).map_err(internal)?;
        Ok(Self { method, version, headers, body })
    }
}

impl Line {
    /// Sends a request; its answer, and what the server says before that, goes to the client.
    pub(super) async fn exchange(&self, id: &RequestId, message: &Outgoing) -> Result<(), Unanswered> {
        let mut session = self.session();
        let mut envelope = Envelope::of(message, &session)?;
        if envelope.version.is_some() {
            session.version.clone_from(&envelope.version);
        }
        let body = std::mem::take(&mut envelope.body);
        let response = self.endpoint.post(&session, &envelope.headers, body).await?;
        if !response.status().is_success() {
            return self.not_taken(response, id, &session, &envelope.method).await;
        }
        match envelope.method.as_str() {
            INITIALIZE => self.agree(|session| session.id = session_id(&response)),
            DISCOVER => self.agree(|session| session.version.clone_from(&envelope.version)),
            _ => {}
        }
        match media(&response) {
            "application/json" => {
                let body = self.whole(response).await?;
                self.take(&body, id, &envelope.method).await
            }
            "text/event-stream" => self.follow(response, id, &envelope.method).await,
            other => {
                let message = format!(
                    "{} answered {} with the content type {other:?}, and not with JSON or events; is the URL right?",
                    self.endpoint.shown(),
                    response.status()
                );
                Err(Unanswered::lost(FailureClass::Protocol, message))
            }
        }
    }

    /// Sends what has no answer.
    pub(super) async fn post_notice(&self, message: &Outgoing) -> Result<(), Unanswered> {
        let session = self.session();
        let envelope = Envelope::of(message, &session)?;
        let response = self.endpoint.post(&session, &envelope.headers, envelope.body).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let (status, headers) = (response.status(), response.headers().clone());
        if status == StatusCode::NOT_FOUND && session.id.is_some() {
            self.session_ended();
        }
        Err(refused(self.endpoint.shown(), status, &headers, Vec::new()).into())
    }

    /// A body that is one answer, or several messages with the answer among them.
    async fn take(&self, body: &[u8], id: &RequestId, method: &str) -> Result<(), Unanswered> {
        let strange = || {
            let message = format!("{} answered with something that is not the answer", self.endpoint.shown());
            Unanswered::lost(FailureClass::Protocol, message)
        };
        let is_batch = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        let messages: Vec<Incoming> = if is_batch {
            serde_json::from_slice(body).map_err(|_| strange())?
        } else {
            vec![serde_json::from_slice(body).map_err(|_| strange())?]
        };
        let mut answered = false;
        for message in messages {
            answered |= self.deliver(message, Some(id), method).await?;
        }
        if answered { Ok(()) } else { Err(strange()) }
    }

    /// Hands a message to the client; whether it is the answer that is waited for.
    pub(super) async fn deliver(
        &self,
        mut message: Incoming,
        awaited: Option<&RequestId>,
        method: &str,
    ) -> Result<bool, Unanswered> {
        let answers = match (&mut message, awaited) {
            (JsonRpcMessage::Response(response), Some(id)) => same(&response.id, id),
            (JsonRpcMessage::Error(error), Some(id)) => {
                // One that could not read the id leaves it out.
                same(error.id.get_or_insert_with(|| id.clone()), id)
            }
            _ => false,
        };
        if answers
            && method == INITIALIZE
            && let JsonRpcMessage::Response(response) = &message
        {
            let result = serde_json::to_value(&response.result).unwrap_or_default();
            let version = result["protocolVersion"].as_str().and_then(|version| HeaderValue::from_str(version).ok());
            self.agree(|session| session.version = version);
        }
        let closed = |_| Unanswered::lost(FailureClass::Connection, "the connection was closed");
        self.to_client.send(message).await.map_err(closed)?;
        Ok(answers)
    }

    /// A status of failure: an answer nevertheless, or what is known of the request.
    async fn not_taken(
        &self,
        response: Response,
        id: &RequestId,
        session: &Session,
        method: &str,
    ) -> Result<(), Unanswered> {
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_redirection() {
            let target = headers.get(reqwest::header::LOCATION).and_then(|to| to.to_str().ok());
            let target = target.and_then(|to| response.url().join(to).ok());
            return Err(ToolError::Failed(redirected(self.endpoint.shown(), status, target.as_ref())).into());
        }
        let body = self.endpoint.without_secrets(&beginning(response).await);
        let said = match serde_json::from_slice::<Incoming>(&body) {
            Ok(JsonRpcMessage::Error(error)) => Some(error),
            _ => None,
        };
        let is_about_us = said.as_ref().and_then(|error| error.id.as_ref()).is_some_and(|about| same(about, id));
        let is_about_rights = matches!(status.as_u16(), 401 | 402 | 403 | 408 | 429);
        if let Some(error) = &said
            && is_about_us
            && !is_about_rights
        {
            self.deliver(JsonRpcMessage::Error(error.clone()), Some(id), method).await?;
            return Ok(());
        }
        let words = said.as_ref().map(|error| error.error.message.chars().take(500).collect::<String>());
        let mut refusal = refused(self.endpoint.shown(), status, &headers, body);
        let (ToolError::Failed(failure) | ToolError::Lost(failure)) = &mut refusal;
        if let Some(words) = words {
            *failure = Failure { message: format!("{}: {words}", failure.message), ..failure.clone() };
        }
        if session.id.is_some() && matches!(status.as_u16(), 400 | 404) {
            self.session_ended();
            return Err(Unanswered::NoSession(failure.clone()));
        }
        if status == StatusCode::UNAUTHORIZED {
            // Secrets are read again for the next connection.
            self.session_ended();
        }
        if method == DISCOVER && !is_about_rights {
            // One that knows no conversation without handshake refuses it in its own way.
            let error = said.map_or_else(|| ErrorData::new(REFUSED, failure.message.clone(), None), |said| said.error);
            self.deliver(JsonRpcMessage::error(error, Some(id.clone())), Some(id), method).await?;
            return Ok(());
        }
        Err(refusal.into())
    }

    async fn whole(&self, mut response: Response) -> Result<Vec<u8>, Unanswered> {
        let place = self.endpoint.shown();
        let mut body = Vec::new();
        loop {
            match tokio::time::timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(chunk))) if body.len() + chunk.len() > self.answer_limit => {
                    let message = format!("{place}: the answer is larger than {} bytes", self.answer_limit);
                    return Err(Unanswered::failed(FailureClass::Limit, message));
                }
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(body),
                Ok(Err(error)) => {
                    let message = format!("{place}: the answer broke off: {}", causes(&error));
                    return Err(Unanswered::lost(FailureClass::Connection, message));
                }
                Err(_) => {
                    let message = format!("{place}: nothing more of the answer came within {} s", SILENCE.as_secs());
                    return Err(Unanswered::lost(FailureClass::Timeout, message));
                }
            }
        }
    }
}

/// Some servers turn numbers into texts.
fn same(left: &RequestId, right: &RequestId) -> bool {
    left == right || left.to_string() == right.to_string()
}

/// The media type, in the form in which it is compared.
pub(super) fn media(response: &Response) -> &'static str {
    let media = response.headers().get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let known = ["application/json", "text/event-stream"];
    known.into_iter().find(|known| media.eq_ignore_ascii_case(known)).unwrap_or("another one")
}

/// As much of a body as comes soon and is small.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(SILENCE, response.chunk()).await {
        let room = REFUSAL - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == REFUSAL {
            break;
        }
    }
    body
}
