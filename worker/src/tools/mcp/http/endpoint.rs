//! Requests to a server's URL: what every one of them carries.

use common::failure::{Failure, FailureClass};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

use super::Session;
use super::token::Tokens;
use crate::answer::ToolError;
use crate::http::{HttpClient, not_answered, shown};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A server's URL, and how we show there who we are.
#[derive(Debug)]
pub(in crate::tools::mcp) struct Endpoint {
    client: Client,
    url: Url,
    /// The URL without what may be secret.
    shown: String,
    headers: HeaderMap,
    tokens: Option<Arc<Tokens>>,
}

impl Endpoint {
    /// A URL with the headers that every request has.
    ///
    /// # Errors
    /// `configuration`, without the values of headers.
    pub(in crate::tools::mcp) fn new(
        http: &HttpClient,
        url: &str,
        configured: Vec<(String, SecretString)>,
        tokens: Option<Arc<Tokens>>,
    ) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::new(FailureClass::Configuration, what);
        let url = Url::parse(url).map_err(|error| wrong(format!("the URL is not valid: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("the URL is neither http nor https".to_owned()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in configured {
            let parsed = HeaderName::from_bytes(name.as_bytes());
            let parsed = parsed.map_err(|_| wrong(format!("{name:?} is not the name of a header")))?;
            let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| {
                wrong(format!("the value of the header {name} has characters that a header cannot have"))
            })?;
            value.set_sensitive(true);
            headers.insert(parsed, value);
        }
        let shown = shown(url.as_str());
        Ok(Self { client: http.inner().clone(), url, shown, headers, tokens })
    }

    /// The URL, for messages.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// What a server said, without our secrets in it: some repeat what they were sent.
    pub(super) fn without_secrets(&self, said: &[u8]) -> Vec<u8> {
        /// Shorter values are words like any other.
        const SHORTEST: usize = 8;
        let token = self.tokens.as_ref().and_then(|tokens| tokens.in_use());
        let values = self.headers.values().cloned().chain(token.map(|token| token.header()));
        let mut text = String::from_utf8_lossy(said).into_owned();
        for value in values {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let secret = value.strip_prefix("Bearer ").unwrap_or(&value);
            if secret.len() >= SHORTEST {
                text = text.replace(secret, "[secret]");
            }
        }
        text.into_bytes()
    }

    /// Posts a message.
    pub(super) async fn post(
        &self,
        session: &Session,
        headers: &HeaderMap,
        body: Vec<u8>,
    ) -> Result<Response, ToolError> {
        let body = bytes::Bytes::from(body);
        self.send(|| {
            let request = self.client.request(Method::POST, self.url.clone()).headers(headers.clone());
            self.carry(request.header(ACCEPT, BOTH).header(CONTENT_TYPE, JSON), session).body(body.clone())
        })
        .await
    }

    /// Asks for a stream of events: the server's own, or one that broke, behind the event with this id.
    pub(super) async fn events(&self, session: &Session, after: Option<&str>) -> Result<Response, ToolError> {
        let after = after.and_then(|id| HeaderValue::from_str(id).ok());
        self.send(|| {
            let request = self.client.request(Method::GET, self.url.clone()).header(ACCEPT, EVENTS);
            let request = match &after {
                Some(id) => request.header(LAST_EVENT_ID, id.clone()),
                None => request,
            };
            self.carry(request, session)
        })
        .await
    }

    /// Ends the session.
    pub(super) async fn delete(&self, session: &Session) -> Result<Response, ToolError> {
        self.send(|| self.carry(self.client.request(Method::DELETE, self.url.clone()), session)).await
    }

    fn carry(&self, request: RequestBuilder, session: &Session) -> RequestBuilder {
        let mut request = request.headers(self.headers.clone());
        if let Some(id) = &session.id {
            request = request.header(SESSION_ID, id.clone());
        }
        if let Some(version) = &session.version {
            request = request.header(PROTOCOL_VERSION, version.clone());
        }
        request
    }

    /// Sends a request; once more with another token if the first one is not accepted: then nothing has happened.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, ToolError> {
        let Some(tokens) = &self.tokens else { return self.once(request()).await };
        let token = tokens.get().await.map_err(ToolError::Failed)?;
        let response = self.once(request().header(AUTHORIZATION, token.header())).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        tokens.refused(&token);
        let token = tokens.get().await.map_err(ToolError::Failed)?;
        self.once(request().header(AUTHORIZATION, token.header())).await
    }

    async fn once(&self, request: RequestBuilder) -> Result<Response, ToolError> {
        request.send().await.map_err(|error| not_answered(&error, &self.shown))
    }
}

/// The session's id that the server gives, if it is one: visible characters of ASCII, and not without end.
pub(super) fn session_id(response: &Response) -> Option<HeaderValue> {
    const LONGEST: usize = 1024;
    let id = response.headers().get(SESSION_ID)?;
    let is_visible = !id.is_empty() && id.as_bytes().iter().all(u8::is_ascii_graphic);
    if !is_visible || id.len() > LONGEST {
        return None;
    }
    let mut id = id.clone();
    // Whoever has it can speak in our name.
    id.set_sensitive(true);
    Some(id)
}
