//! HTTP requests with an effect: of `http` steps and HTTP tools.
//!
//! An answer is classed by what is known of the effect:
//!
//! | what came back | meaning |
//! |---|---|
//! | 2xx | it happened |
//! | no connection (DNS, refused, TLS) | it did not happen: `Failed`, `connection` |
//! | 401, 403 | it did not happen: `Failed`, `authentication`; 402 `billing`; 429 `rate_limited`; 408 `timeout`; other 4xx and 3xx `invalid_request` |
//! | 503 or 529 with `Retry-After` | the server says that it did not do it: `Failed`, `overloaded` |
//! | any other 5xx | nobody knows: `Lost`, `unavailable` or `overloaded` |
//! | timeout or a broken connection after sending | nobody knows: `Lost`, `timeout` or `connection` |
//! | an answer larger than the limit | it was answered, but that cannot be used: `Failed`, `limit` |
//!
//! Nothing is retried here, and whether a lost request may be repeated is
//! decided from its effect class.

use std::collections::BTreeMap;
use std::time::Duration;

use common::failure::{Failure, FailureClass};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::answer::ToolError;

/// Redirects that are followed, of GET and HEAD, within the same origin.
const REDIRECTS: usize = 5;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of an error's body that go into its detail.
const ERROR_BODY: usize = 4096;
/// Headers of an answer that steps see.
const SHOWN_HEADERS: [&str; 8] =
    ["content-type", "etag", "last-modified", "link", "location", "request-id", "retry-after", "x-request-id"];

/// A request that is to be made.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// GET, POST, PUT, PATCH, DELETE or HEAD.
    pub method: String,
    /// Where to: http or https.
    pub url: String,
    /// Headers; they may be secret.
    pub headers: Vec<(String, SecretString)>,
    /// The body, sent as JSON.
    pub json: Option<Value>,
    /// Sent as `Idempotency-Key`.
    pub key: Option<String>,
    /// The W3C trace context to hand on.
    pub traceparent: Option<String>,
    /// How long it may take in all.
    pub timeout: Duration,
    /// The most that the body of the answer may have, in bytes, uncompressed.
    pub response_limit: usize,
}

/// An answer with a status of success.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// Some headers, by name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body: JSON if it says so and is, else a text; `null` if it is empty.
    pub body: Value,
}

impl HttpAnswer {
    /// `{status, headers, body}`, as steps see it.
    pub fn into_value(self) -> Value {
        json!({"status": self.status, "headers": self.headers, "body": self.body})
    }
}

/// Makes requests. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct HttpClient(Client);

impl HttpClient {
    /// A client with its own pool of connections.
    ///
    /// # Errors
    /// `internal` if TLS cannot be set up.
    pub fn new() -> Result<Self, Failure> {
        Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .user_agent(concat!("teamster/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(|error| Failure::new(FailureClass::Internal, format!("no HTTP client can be made: {error}")))
    }

    /// The client itself, for protocols of their own on top of it. It follows no redirect.
    pub(crate) fn inner(&self) -> &Client {
        &self.0
    }

    /// Makes the request once.
    ///
    /// # Errors
    /// By the table above.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpAnswer, ToolError> {
        let timeout = request.timeout;
        let place = format!("{} {}", request.method, shown(&request.url));
        match tokio::time::timeout(timeout, self.exchange(request, &place)).await {
            Ok(answer) => answer,
            Err(_) => Err(ToolError::Lost(Failure::new(
                FailureClass::Timeout,
                format!("{place} was not answered within {} s", timeout.as_secs_f64()),
            ))),
        }
    }

    async fn exchange(&self, request: HttpRequest, place: &str) -> Result<HttpAnswer, ToolError> {
        let (method, mut url, headers) = prepare(&request, place).map_err(ToolError::Failed)?;
        let may_follow = method == Method::GET || method == Method::HEAD;
        let mut followed = 0;
        loop {
            let mut builder = self.0.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(body) = &request.json {
                builder = builder.json(body);
            }
            let response = builder.send().await.map_err(|error| not_answered(&error, place))?;
            let status = response.status();
            let answered = response.headers().clone();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let target = answered.get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| url.join(to).ok());
                match target {
                    Some(target) if may_follow && followed < REDIRECTS && target.origin() == url.origin() => {
                        followed += 1;
                        url = target;
                        continue;
                    }
                    target => return Err(ToolError::Failed(redirected(place, status, target.as_ref()))),
                }
            }
            let body = read_body(response, request.response_limit, place).await;
            if status.is_success() {
                let body = as_value(&answered, &body?);
                return Ok(HttpAnswer { status: status.as_u16(), headers: selected(&answered), body });
            }
            return Err(refused(place, status, &answered, body.unwrap_or_default()));
        }
    }
}

fn prepare(request: &HttpRequest, place: &str) -> Result<(Method, Url, HeaderMap), Failure> {
    let invalid = |what: String| Failure::new(FailureClass::InvalidRequest, format!("{place}: {what}"));
    let method = match request.method.to_ascii_uppercase().as_str() {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => return Err(invalid("the method is none of GET, HEAD, POST, PUT, PATCH and DELETE".to_owned())),
    };
    let url = Url::parse(&request.url).map_err(|error| invalid(format!("the URL is not valid: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("the URL is neither http nor https".to_owned()));
    }
    let mut headers = HeaderMap::new();
    let ours = [("idempotency-key", &request.key), ("traceparent", &request.traceparent)];
    for (name, value) in ours {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).map_err(|_| invalid(format!("{name} is not a header value")))?;
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    for (name, value) in &request.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let parsed = parsed.map_err(|_| invalid(format!("{name:?} is not the name of a header")))?;
        // The value may be a secret: it is not repeated in the message.
        let mut value = HeaderValue::from_str(value.expose_secret())
            .map_err(|_| invalid(format!("the value of the header {name} has characters that a header cannot have")))?;
        value.set_sensitive(true);
        headers.insert(parsed, value);
    }
    if !url.username().is_empty() && headers.contains_key(AUTHORIZATION) {
        return Err(invalid("the URL has a user name and the headers have Authorization; use one of them".to_owned()));
    }
    Ok((method, url, headers))
}

/// Why a request got no answer, by whether it may have arrived.
pub(crate) fn not_answered(error: &reqwest::Error, place: &str) -> ToolError {
    let message = format!("{place}: {}", causes(error));
    if error.is_connect() {
        ToolError::Failed(Failure::new(FailureClass::Connection, message))
    } else if error.is_builder() {
        ToolError::Failed(Failure::new(FailureClass::InvalidRequest, message))
    } else if error.is_timeout() {
        ToolError::Lost(Failure::new(FailureClass::Timeout, message))
    } else {
        ToolError::Lost(Failure::new(FailureClass::Connection, message))
    }
}

/// An answer that points elsewhere, where that is not followed.
pub(crate) fn redirected(place: &str, status: StatusCode, target: Option<&Url>) -> Failure {
    let target = target.map_or_else(|| "nowhere".to_owned(), |url| shown(url.as_str()));
    Failure::new(
        FailureClass::InvalidRequest,
        format!("{place} answered {status} and points to {target}, which is not followed; use that URL"),
    )
}

/// An answer with a status of failure, by the table above.
pub(crate) fn refused(place: &str, status: StatusCode, headers: &HeaderMap, mut body: Vec<u8>) -> ToolError {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let wait = text(RETRY_AFTER).and_then(|value| retry_after(value, text(DATE)));
    let (class, known) = match status.as_u16() {
        401 | 403 => (FailureClass::Authentication, true),
        402 => (FailureClass::Billing, true),
        408 => (FailureClass::Timeout, true),
        429 => (FailureClass::RateLimited, true),
        503 | 529 => (FailureClass::Overloaded, headers.contains_key(RETRY_AFTER)),
        500.. => (FailureClass::Unavailable, false),
        _ => (FailureClass::InvalidRequest, true),
    };
    body.truncate(ERROR_BODY);
    let mut failure = Failure::new(class, format!("{place} answered {status}"))
        .with_detail(json!({"status": status.as_u16(), "body": as_value(headers, &body)}));
    if let Some(wait) = wait {
        failure = failure.with_retry_after(wait);
    }
    if known { ToolError::Failed(failure) } else { ToolError::Lost(failure) }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3), up to a day.
/// A date is taken against the server's own clock, its `Date`.
fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(86_400);
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let [at, now] = [value, date?].map(|text| jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp()));
    Some(Duration::try_from(at?.duration_since(now?)).unwrap_or_default().min(LONGEST))
}

async fn read_body(mut response: reqwest::Response, limit: usize, place: &str) -> Result<Vec<u8>, ToolError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                let message = format!("{place}: the answer is larger than {limit} bytes");
                return Err(ToolError::Failed(Failure::new(FailureClass::Limit, message)));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => {
                let message = format!("{place}: the answer broke off: {}", causes(&error));
                return Err(ToolError::Lost(Failure::new(FailureClass::Connection, message)));
            }
        }
    }
}

fn as_value(headers: &HeaderMap, body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    let media = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if (media == "application/json" || media.ends_with("+json"))
        && let Ok(value) = serde_json::from_slice(body)
    {
        return value;
    }
    Value::String(String::from_utf8_lossy(body).into_owned())
}

fn selected(headers: &HeaderMap) -> BTreeMap<String, String> {
    SHOWN_HEADERS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), headers.get(*name)?.to_str().ok()?.to_owned())))
        .collect()
}

/// A URL for messages: without user, password, query and fragment, which may hold secrets.
pub(crate) fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        Err(_) => url.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect(),
    }
}

/// An error with its causes, in one line and without the URL, which may hold secrets.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(this) = cause {
        causes.push(this.to_string());
        cause = this.source();
    }
    if causes.is_empty() { "the request failed".to_owned() } else { causes.join(": ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let (early, late) = (Some("Wed, 21 Oct 2015 07:28:00 GMT"), Some("Wed, 21 Oct 2015 07:28:30 GMT"));
        assert_eq!(retry_after("7", None), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:30 GMT", early), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", late), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999", None), Some(Duration::from_secs(86_400)));
        assert_eq!((retry_after("soon", early), retry_after("Wed, 21 Oct 2015 07:28:30 GMT", None)), (None, None));
    }

    #[test]
    fn messages_do_not_show_what_may_be_secret() {
        assert_eq!(shown("https://me:pw@example.com/a?token=x#y"), "https://example.com/a");
        assert_eq!(shown("not a url?token=x"), "not a url");
    }
}
