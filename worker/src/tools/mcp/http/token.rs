//! Access tokens for client credentials (RFC 6749, section 4.4): fetched once
//! for all calls, and anew before they expire or when a server does not accept
//! one. Neither secret nor token is ever part of a message.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::clock::{Clock, Timestamp};
use common::config::{ClientAuthentication, ClientCredentials};
use common::failure::{Failure, FailureClass};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::answer::ToolError;
use crate::http::{HttpClient, not_answered, refused, shown};

/// How long fetching a token may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most that the answer may have, in bytes.
const ANSWER: usize = 64 << 10;
/// A token is renewed so long before it expires, or a tenth of its life before if that is less.
const EARLY: Duration = Duration::from_secs(60);

type Fetching = Shared<BoxFuture<'static, Result<Arc<Token>, Failure>>>;

/// Where tokens for one server come from, and the one in use.
pub(in crate::tools::mcp) struct Tokens {
    server: String,
    credentials: ClientCredentials,
    /// Whom tokens are for.
    resource: String,
    http: HttpClient,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// The fetch that is under way; all callers wait for the same one.
    fetching: Option<Fetching>,
}

/// An access token.
#[derive(Debug)]
pub(super) struct Token {
    header: HeaderValue,
    /// When it is replaced; `None` if it lasts until it is refused.
    renew_at: Option<Timestamp>,
}

impl Token {
    /// What `Authorization` says.
    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("server", &self.server)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Tokens for a server; none is fetched yet.
    pub(in crate::tools::mcp) fn new(
        server: &str,
        url: &str,
        credentials: ClientCredentials,
        http: HttpClient,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let resource = credentials.resource.clone().unwrap_or_else(|| url.to_owned());
        Self { server: server.to_owned(), credentials, resource, http, clock, state: Mutex::default() }
    }

    /// A token that can be used now.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Arc<Token>, Failure> {
        let fetching = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.now();
            if let Some(token) = state.token.as_ref().filter(|token| token.renew_at.is_none_or(|at| now < at)) {
                return Ok(Arc::clone(token));
            }
            match &state.fetching {
                Some(fetching) if fetching.peek().is_none() => fetching.clone(),
                _ => state.fetching.insert(Arc::clone(self).fetching()).clone(),
            }
        };
        fetching.await
    }

    /// The token that was had last, if it was not refused.
    pub(super) fn in_use(&self) -> Option<Arc<Token>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).token.clone()
    }

    /// The server does not accept this token: it is not used again.
    pub(super) fn refused(&self, token: &Arc<Token>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Another caller may have had it replaced already.
        if state.token.as_ref().is_some_and(|current| Arc::ptr_eq(current, token)) {
            state.token = None;
        }
    }

    fn fetching(self: Arc<Self>) -> Fetching {
        // A task of its own, so that the fetch does not end with the caller that happened to be the first.
        let fetch = tokio::spawn(async move {
            let began = self.clock.now();
            let fetched = tokio::time::timeout(TIMEOUT, self.fetch()).await.unwrap_or_else(|_| {
                let message = format!("no answer within {} s", TIMEOUT.as_secs());
                Err(Failure::new(FailureClass::Timeout, message))
            });
            let token = fetched.and_then(|granted| granted.into_token(began)).map(Arc::new);
            let token = token.map_err(|failure| Failure {
                message: format!(
                    "MCP server {}: no access token from {}: {}",
                    self.server,
                    self.place(),
                    failure.message
                ),
                ..failure
            })?;
            self.state.lock().unwrap_or_else(PoisonError::into_inner).token = Some(Arc::clone(&token));
            Ok(token)
        });
        fetch
            .map(|ended| {
                ended.unwrap_or_else(|error| {
                    Err(Failure::new(FailureClass::Internal, format!("fetching a token broke down: {error}")))
                })
            })
            .boxed()
            .shared()
    }

    fn place(&self) -> String {
        shown(&self.credentials.token_url)
    }

    async fn fetch(&self) -> Result<Granted, Failure> {
        let secret = self.credentials.client_secret.clone();
        // A secret may be in a file.
        let secret = tokio::task::spawn_blocking(move || secret.resolve()).await;
        let secret = secret
            .map_err(|error| Failure::new(FailureClass::Internal, error.to_string()))?
            .map_err(|error| Failure::new(FailureClass::Configuration, format!("client_secret: {error}")))?;
        let request = self.http.inner().post(&self.credentials.token_url).header(ACCEPT, "application/json");
        let request = match self.credentials.method {
            ClientAuthentication::ClientSecretBasic => {
                // Each is form-encoded first (RFC 6749, section 2.3.1).
                request.basic_auth(encoded(&self.credentials.client_id), Some(encoded(secret.expose_secret())))
            }
            ClientAuthentication::ClientSecretPost => request,
        };
        let response = request
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(self.form(&secret))
            .send()
            .await
            .map_err(|error| failure(not_answered(&error, "the token endpoint")))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = bounded(response).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|_| {
                Failure::new(FailureClass::Protocol, "the answer is no access token (RFC 6749, section 5.1)")
            });
        }
        // What stands in the body beyond the code of the error may repeat what was sent.
        let code = error_code(&body);
        let refusal = failure(refused("the token endpoint", status, &headers, Vec::new()));
        let class = match (status.as_u16(), code.as_deref()) {
            (400 | 401 | 403, Some("invalid_client" | "unauthorized_client" | "invalid_grant")) => {
                FailureClass::Authentication
            }
            (400, _) => FailureClass::Configuration,
            _ => refusal.class,
        };
        let message = match code {
            Some(code) => format!("{}, {code}", refusal.message),
            None => refusal.message,
        };
        Err(Failure { class, message, detail: None, ..refusal })
    }

    fn form(&self, secret: &SecretString) -> String {
        let mut form = vec![("grant_type", "client_credentials"), ("resource", self.resource.as_str())];
        form.extend(self.credentials.scope.as_deref().map(|scope| ("scope", scope)));
        if self.credentials.method == ClientAuthentication::ClientSecretPost {
            form.push(("client_id", &self.credentials.client_id));
            form.push(("client_secret", secret.expose_secret()));
        }
        form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
    }
}

/// The answer of a token endpoint (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<Value>,
}

impl Granted {
    fn into_token(self, now: Timestamp) -> Result<Token, Failure> {
        let unusable = |what: &str| Failure::new(FailureClass::Protocol, what);
        if !self.token_type.eq_ignore_ascii_case("bearer") {
            return Err(unusable("the token is of a type that is not supported; only Bearer is"));
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {}", self.access_token))
            .map_err(|_| unusable("the token has characters that a header cannot have"))?;
        header.set_sensitive(true);
        // Some servers write the number as a text.
        let seconds = self.expires_in.and_then(|lifetime| match lifetime {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        });
        Ok(Token { header, renew_at: seconds.map(|seconds| renew_at(now, Duration::from_secs(seconds))) })
    }
}

/// When a token with this lifetime is replaced.
fn renew_at(now: Timestamp, lifetime: Duration) -> Timestamp {
    now.plus(lifetime.saturating_sub(EARLY.min(lifetime / 10)))
}

/// The code of an error (RFC 6749, section 5.2), if it looks like one.
fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    let Refused { error } = serde_json::from_slice(body).ok()?;
    let is_code = (1..=40).contains(&error.len()) && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_code.then_some(error)
}

async fn bounded(mut response: reqwest::Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| failure(not_answered(&error, "the token endpoint")))?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > ANSWER {
            return Err(Failure::new(FailureClass::Limit, format!("the answer is larger than {ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
}

/// Whether a token was granted is of no consequence: another one can be had.
fn failure(error: ToolError) -> Failure {
    match error {
        ToolError::Failed(failure) | ToolError::Lost(failure) => failure,
    }
}

/// As in a form (`application/x-www-form-urlencoded`).
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn token(answer: Value) -> Result<Token, Failure> {
        serde_json::from_value::<Granted>(answer).unwrap().into_token(Timestamp::from_millis(0))
    }

    #[test]
    fn a_token_is_renewed_a_minute_before_it_expires_or_a_tenth_of_a_short_life() {
        for (lifetime, seconds) in [(3600, 3540), (600, 540), (100, 90), (0, 0)] {
            let at = renew_at(Timestamp::from_millis(0), Duration::from_secs(lifetime));
            assert_eq!(at.as_millis(), seconds * 1000, "{lifetime}");
        }
        let answer = |expires: Value| json!({"access_token": "t", "token_type": "bearer", "expires_in": expires});
        assert_eq!(token(answer(json!("100"))).unwrap().renew_at, Some(Timestamp::from_millis(90_000)));
        assert_eq!(token(answer(Value::Null)).unwrap().renew_at, None);
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = token(json!({"access_token": "canary", "token_type": "Bearer"})).unwrap();
        assert_eq!(token.header().to_str().unwrap(), "Bearer canary");
        assert!(!format!("{token:?}").contains("canary"));
    }

    #[test]
    fn what_is_no_bearer_token_is_refused_without_being_repeated() {
        for (value, kind) in [("canary", "mac"), ("canary\n", "bearer")] {
            let failure = token(json!({"access_token": value, "token_type": kind})).unwrap_err();
            assert!(!failure.message.contains("canary"), "{failure}");
        }
    }

    #[test]
    fn only_the_code_of_an_error_is_told() {
        assert_eq!(error_code(br#"{"error": "invalid_client"}"#).as_deref(), Some("invalid_client"));
        for body in [&br#"{"error": "secret hunter2 is wrong"}"#[..], b"", b"hunter2", br#"{"error": ""}"#] {
            assert_eq!(error_code(body), None);
        }
    }
}
