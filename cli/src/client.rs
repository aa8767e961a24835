//! The client of the scheduler's HTTP API.

use std::fmt::Write;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use scheduler::wire::Problem;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{CommandError, Exit};

/// Where a scheduler listens when nobody says otherwise.
pub(crate) const DEFAULT_API: &str = "http://127.0.0.1:7070";

/// How long an answer may take; streams are exempt.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A scheduler's API.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<SecretString>,
}

impl Client {
    /// A client of the API at `base`.
    pub(crate) fn new(base: &str, token: Option<SecretString>) -> Result<Self, CommandError> {
        let url = reqwest::Url::parse(base)
            .map_err(|error| CommandError::usage(format!("--api {base:?} is not a URL ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(CommandError::usage(format!("--api {base:?} must be an http:// or https:// URL")));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("teamster/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CommandError::new(Exit::Failed, format!("no HTTP client could be made: {error}")))?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token })
    }

    /// The API's address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// A request to a path of the API, with its token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// Sends a request; an answer that is no success becomes an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, CommandError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        Err(refusal(status, &body))
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CommandError> {
        let response = self.send(request.timeout(TIMEOUT)).await?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map_err(|error| {
            CommandError::new(
                Exit::Failed,
                format!(
                    "{} gave an answer that this version of teamster does not understand ({error}); \
                     is it a scheduler of the same version?",
                    self.base
                ),
            )
        })
    }

    /// GET with a query.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, CommandError> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    /// POST with a JSON body.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CommandError> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// Whether a scheduler answers.
    pub(crate) async fn answers(&self) -> bool {
        let request = self.request(Method::GET, "/healthz").timeout(Duration::from_secs(2));
        request.send().await.is_ok_and(|response| response.status().is_success())
    }

    fn unreachable(&self, error: &reqwest::Error) -> CommandError {
        if error.is_connect() {
            return CommandError::unavailable(format!(
                "no scheduler answers at {}; start one with `teamster dev` or `teamster scheduler`, \
                 name another with --api URL, or open a store directly with --store URL",
                self.base
            ));
        }
        if error.is_timeout() {
            return CommandError::unavailable(format!("{} did not answer in time; try again", self.base));
        }
        CommandError::unavailable(format!("the connection to {} broke: {}", self.base, root_cause(error)))
    }
}

/// An answer that is no success, as the scheduler words it.
fn refusal(status: StatusCode, body: &[u8]) -> CommandError {
    let exit = match status.as_u16() {
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        400..=499 => Exit::Refused,
        502..=504 => Exit::Unavailable,
        _ => Exit::Failed,
    };
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        let text = crate::output::cut(&String::from_utf8_lossy(body), 200);
        return CommandError::new(exit, format!("the API answered {status}: {text}"));
    };
    let mut message = if problem.detail.is_empty() { problem.title } else { problem.detail };
    for complaint in problem.errors {
        let place = if complaint.pointer.is_empty() { "/" } else { &complaint.pointer };
        let _ = write!(message, "\n  at {place}: {}", complaint.message);
    }
    if exit == Exit::Denied {
        message.push_str("\nset TEAMSTER_TOKEN to the token of the API");
    }
    CommandError::new(exit, message)
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
