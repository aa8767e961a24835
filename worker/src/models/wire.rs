//! One streaming request to a model's API: what all providers share.
//!
//! What it may cost in time and memory is bounded, and it is made once: trying
//! again is the step's affair. How a stream is read (`crate::sse`) and how failures
//! are classed (`errors`) is pure; only this file touches the network.

mod allowance;
pub(super) mod errors;
pub(super) mod json;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::failure::{Failure, FailureClass};
use common::journal::{ModelCall, RequestHead};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use self::errors::{Hints, Origin, StreamFault};
use super::Answered;
use super::price::{Prices, Tokens};
use crate::sse;

/// The longest body of a reply, in bytes: far above what `max_tokens` allows.
const REPLY_LIMIT: usize = 32 << 20;
/// The longest body of an error that is read, in bytes.
const ERROR_LIMIT: usize = 64 << 10;
/// As the official clients have it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are kept for the next call, over HTTP/1.1.
const IDLE_CONNECTIONS: usize = 32;
/// How long the end of an answered stream is waited for, so that its connection can be kept.
const TRAILER_WAIT: Duration = Duration::from_millis(100);

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The provider's name in `teamster.yaml`.
    pub name: String,
    /// Where the API is, without the path of a request.
    pub base_url: String,
    /// The API key; `None` where the server asks for none.
    pub key: Option<SecretString>,
    /// Where the key comes from, for messages: the name of a variable, the path of a file.
    pub key_origin: String,
    /// Headers sent with every request; they win over those of the provider.
    pub headers: BTreeMap<String, String>,
    /// How long the first byte, or silence between two, may take.
    pub idle_timeout: Duration,
    /// How long one call may take in all.
    pub timeout: Duration,
}

/// A whole reply, in the neutral form.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    /// The content blocks.
    pub content: Vec<Value>,
    /// Why the model stopped, in the words of the Messages API.
    pub stop_reason: String,
    /// The model that answered.
    pub model: String,
    /// The id of the reply.
    pub id: String,
    /// The tokens that it took.
    pub tokens: Tokens,
}

/// Puts a reply together from the events of its stream: pure.
pub(super) trait Assembly: Default + Send {
    /// Takes in one event.
    fn apply(&mut self, event: &sse::Event) -> Result<(), StreamFault>;
    /// Whether nothing more is to come.
    fn is_stopped(&self) -> bool;
    /// The reply, once the stream has ended.
    fn finish(self) -> Result<Reply, StreamFault>;
}

/// A client of one endpoint.
#[derive(Debug)]
pub(super) struct Wire {
    options: Options,
    endpoint: Url,
    headers: HeaderMap,
    client: reqwest::Client,
    prices: Arc<Prices>,
    clock: Arc<dyn Clock>,
}

impl Wire {
    /// Builds the client; sends nothing. `headers` are the provider's own, the key among them.
    ///
    /// # Errors
    /// `Configuration`, when the address or the machine's TLS setup is wrong.
    pub(super) fn new(
        options: Options,
        path: &str,
        headers: HeaderMap,
        prices: Arc<Prices>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let endpoint = endpoint(&options, path)?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_keepalive(Duration::from_secs(30))
            // A redirect would carry the key to another host.
            .redirect(redirect::Policy::none())
            // Compression holds back the small pieces of a stream.
            .no_gzip()
            .user_agent(concat!("teamster/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&endpoint) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| {
            misconfigured(
                &options,
                &format!("no HTTPS client: {}; are the system's CA certificates installed?", chain(&e)),
            )
        })?;
        Ok(Self { options, endpoint, headers, client, prices, clock })
    }

    /// Makes one request, and bills it.
    pub(super) async fn call<A: Assembly>(
        &self,
        head: &RequestHead,
        body: &Value,
        traceparent: Option<&str>,
    ) -> Result<Answered, Failure> {
        let started = Instant::now();
        let body = serde_json::to_vec(body)
            .map_err(|e| Failure::new(FailureClass::Internal, format!("the request cannot be written: {e}")))?;
        let Ok(answer) = timeout(self.options.timeout, self.exchange::<A>(body, traceparent)).await else {
            let text = format!("the reply was not whole within {:?} (timeout)", self.options.timeout);
            return Err(errors::failure(self.origin(), FailureClass::Timeout, &text, &Hints::default()));
        };
        let (reply, hints) = answer.map_err(|failure| self.without_key(failure))?;
        let usage = self.prices.bill(&head.alias, &head.model, reply.tokens, self.clock.now());
        let pause = hints.allowance.pause_after(&usage);
        let call = ModelCall {
            content: reply.content,
            stop_reason: reply.stop_reason,
            model: reply.model,
            response_id: reply.id,
            usage,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Answered { call, pause })
    }

    pub(super) fn origin(&self) -> Origin<'_> {
        Origin { provider: &self.options.name, key: &self.options.key_origin }
    }

    async fn exchange<A: Assembly>(&self, body: Vec<u8>, traceparent: Option<&str>) -> Result<(Reply, Hints), Failure> {
        let mut send = self.client.post(self.endpoint.clone()).headers(self.headers.clone()).body(body);
        if let Some(value) = traceparent.and_then(|text| HeaderValue::from_str(text).ok()) {
            send = send.header("traceparent", value);
        }
        let response = match timeout(self.options.idle_timeout, send.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.silent("no first byte", &Hints::default())),
        };
        let hints = Hints::read(response.headers(), self.clock.now());
        tracing::debug!(
            provider = self.options.name,
            status = response.status().as_u16(),
            request = hints.request_id.as_deref().unwrap_or(""),
            "the model API answered"
        );
        if response.status() != StatusCode::OK {
            return Err(self.refused(response, &hints).await);
        }
        let reply = self.read::<A>(response, &hints).await?;
        Ok((reply, hints))
    }

    /// Reads a reply to its end.
    async fn read<A: Assembly>(&self, mut response: Response, hints: &Hints) -> Result<Reply, Failure> {
        let broken = |fault: &StreamFault| errors::broken(self.origin(), fault, hints);
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("none");
        if !kind.starts_with("text/event-stream") {
            let why = format!("the content type is {kind:?}, not text/event-stream; is base_url right?");
            return Err(broken(&StreamFault::Malformed(why)));
        }
        let mut decoder = sse::Decoder::default();
        let mut accumulator = A::default();
        let mut room = REPLY_LIMIT;
        while !accumulator.is_stopped() {
            let Some(bytes) = self.next_bytes(&mut response, hints).await? else {
                if let Some(event) = decoder.finish() {
                    // An event that is not whole is no reason of its own: the stream is cut off either way.
                    let _ = accumulator.apply(&event);
                }
                break;
            };
            room = room.checked_sub(bytes.len()).ok_or_else(|| {
                broken(&StreamFault::Malformed(format!("the reply is larger than {} MiB", REPLY_LIMIT >> 20)))
            })?;
            let events = decoder
                .push(&bytes)
                .map_err(|sse::NotUtf8| broken(&StreamFault::Malformed("the stream is not UTF-8".to_owned())))?;
            for event in &events {
                accumulator.apply(event).map_err(|fault| broken(&fault))?;
            }
        }
        let reply = accumulator.finish().map_err(|fault| broken(&fault))?;
        // The answer is whole whatever comes now: this is for the connection only.
        let _ = timeout(TRAILER_WAIT, response.chunk()).await;
        Ok(reply)
    }

    async fn refused(&self, mut response: Response, hints: &Hints) -> Failure {
        let mut body = Vec::new();
        // A body that breaks off still has its status.
        while let Ok(Some(bytes)) = self.next_bytes(&mut response, hints).await {
            let room = ERROR_LIMIT - body.len();
            body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if body.len() == ERROR_LIMIT {
                break;
            }
        }
        errors::refused(self.origin(), response.status(), hints, &body)
    }

    async fn next_bytes(&self, response: &mut Response, hints: &Hints) -> Result<Option<bytes::Bytes>, Failure> {
        match timeout(self.options.idle_timeout, response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => {
                let text = format!("the connection broke before the reply was whole: {}", chain(&error));
                Err(errors::failure(self.origin(), FailureClass::Connection, &text, hints))
            }
            Err(_) => Err(self.silent("nothing more", hints)),
        }
    }

    fn silent(&self, what: &str, hints: &Hints) -> Failure {
        let text = format!("{what} came within {:?} (idle_timeout)", self.options.idle_timeout);
        errors::failure(self.origin(), FailureClass::Timeout, &text, hints)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let host = self.endpoint.host_str().unwrap_or("?");
        let text = if error.is_connect() || error.is_timeout() {
            format!("cannot connect to {host}: {}; check the network and the provider's base_url", chain(error))
        } else {
            format!("the connection to {host} broke before an answer: {}", chain(error))
        };
        errors::failure(self.origin(), FailureClass::Connection, &text, &Hints::default())
    }

    /// No message repeats the key, whatever the other side wrote into it.
    fn without_key(&self, mut failure: Failure) -> Failure {
        let Some(key) = &self.options.key else { return failure };
        let key = key.expose_secret();
        let quotes_key = |text: &str| text.contains(key);
        if quotes_key(&failure.message) {
            failure.message = failure.message.replace(key, "[key]");
        }
        if failure.detail.as_ref().is_some_and(|detail| quotes_key(&detail.to_string())) {
            failure.detail = None;
        }
        failure
    }
}

fn endpoint(options: &Options, path: &str) -> Result<Url, Failure> {
    let mut url: Url =
        options.base_url.parse().map_err(|e| misconfigured(options, &format!("base_url is no address: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(misconfigured(options, "base_url must begin with https:// or http://"));
    }
    let path = format!("{}{path}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// Adds what the operator wants sent.
///
/// # Errors
/// `Configuration`, when that is no header.
pub(super) fn with_configured(mut headers: HeaderMap, options: &Options) -> Result<HeaderMap, Failure> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &options.headers {
        let parsed = name.parse::<reqwest::header::HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
        let (header, mut value) =
            parsed.ok_or_else(|| misconfigured(options, &format!("the header {name:?} is not a valid HTTP header")))?;
        value.set_sensitive(header == AUTHORIZATION);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// A key as a header, with what stands before it there.
///
/// # Errors
/// `Configuration`, when it has characters that no header has.
pub(super) fn key_header(options: &Options, before: &str, key: &SecretString) -> Result<HeaderValue, Failure> {
    let text = format!("{before}{}", key.expose_secret());
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        misconfigured(options, &format!("the key in {} has characters that no key has", options.key_origin))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

fn misconfigured(options: &Options, text: &str) -> Failure {
    Failure::new(FailureClass::Configuration, format!("provider {}: {text}", options.name))
}

/// An error with its causes; without the address, which may carry credentials.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    if text.is_empty() { "no further reason is known".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use common::clock::SystemClock;

    use super::*;
    use crate::models::samples::options;

    #[test]
    fn the_endpoint_is_below_the_base_url() {
        for (base, endpoint_url) in [
            ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
            ("https://gateway.example/anthropic/", "https://gateway.example/anthropic/v1/messages"),
        ] {
            let options = Options { base_url: base.to_owned(), ..options() };
            assert_eq!(endpoint(&options, "/v1/messages").unwrap().as_str(), endpoint_url);
        }
        for base in ["", "api.anthropic.com", "file:///etc", "https://"] {
            let options = Options { base_url: base.to_owned(), ..options() };
            assert_eq!(endpoint(&options, "/v1/messages").unwrap_err().class, FailureClass::Configuration, "{base:?}");
        }
    }

    #[test]
    fn nothing_that_is_printed_shows_the_key() {
        let client =
            Wire::new(options(), "/x", HeaderMap::new(), Arc::new(Prices::shipped().unwrap()), Arc::new(SystemClock))
                .unwrap();
        assert!(!format!("{client:?}").contains("sk-secret"));
        let failure = Failure::new(FailureClass::Authentication, "sk-secret is wrong");
        assert_eq!(client.without_key(failure).message, "[key] is wrong");
    }

    #[test]
    fn loopback_addresses_are_not_proxied() {
        for (url, loopback) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("https://api.example.com", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), loopback, "{url}");
        }
    }
}
