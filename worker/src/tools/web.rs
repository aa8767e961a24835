//! `WebFetch`: a web page as Markdown.
//!
//! Only public addresses are fetched from (see `address`). A redirect to
//! another host is not followed but told to the model, so that rules about
//! domains hold for it as well.

mod address;
mod page;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec, arguments, cut};
use address::{NotPublic, PublicOnly, is_public};

/// Redirects that are followed within a host.
const REDIRECTS: usize = 5;
/// Bytes of a page, uncompressed.
const BODY: usize = 4 << 20;
/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest URL, in bytes.
const URL: usize = 8192;

/// Fetches a page of the public web.
#[derive(Debug)]
pub struct WebFetch {
    spec: ToolSpec,
    client: Client,
    allow_private: bool,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    url: String,
    #[serde(default)]
    prompt: Option<String>,
}

/// What a request led to.
enum Fetched {
    Response(Response),
    /// A redirect that is not followed.
    Elsewhere(Url),
    /// What speaks against the URL, in words for the model.
    Refused(String),
}

impl WebFetch {
    /// A tool that fetches from public addresses, and with `allow_private` from
    /// all: loopback and the private network of the worker included.
    ///
    /// # Errors
    /// `internal` if TLS cannot be set up.
    pub fn new(allow_private: bool) -> Result<Self, Failure> {
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve names out of our sight.
            .no_proxy()
            .connect_timeout(CONNECT)
            .user_agent(concat!("teamster/", env!("CARGO_PKG_VERSION")));
        if !allow_private {
            builder = builder.dns_resolver(PublicOnly);
        }
        let client = builder
            .build()
            .map_err(|error| Failure::new(FailureClass::Internal, format!("no HTTP client can be made: {error}")))?;
        let spec = ToolSpec {
            name: "WebFetch".to_owned(),
            description:
                "Fetches a page of the public web and answers with it as Markdown. A redirect to another host \
                          is reported, not followed."
                    .to_owned(),
            input_schema: json!({
                "type": "object",
                "properties": {
                    "url": {"type": "string", "description": "The page, http or https"},
                    "prompt": {"type": "string", "description": "What you want to know of it; comes back with the page"}
                },
                "required": ["url"],
                "additionalProperties": false
            }),
        };
        Ok(Self { spec, client, allow_private })
    }

    async fn fetch(&self, url: &str) -> Result<Fetched, ToolError> {
        let mut url = match self.checked(url) {
            Ok(url) => url,
            Err(why) => return Ok(Fetched::Refused(why)),
        };
        for _ in 0..=REDIRECTS {
            let request =
                self.client.get(url.clone()).header(ACCEPT, "text/html, text/*;q=0.9, application/json;q=0.8");
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => return not_fetched(&url, &error),
            };
            let target = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(target) = target else { return Ok(Fetched::Response(response)) };
            let next = target.to_str().ok().and_then(|target| url.join(target).ok());
            let Some(next) = next else {
                return Ok(Fetched::Refused(format!("{url} redirects to something that is no URL")));
            };
            if next.host() != url.host() {
                return Ok(Fetched::Elsewhere(next));
            }
            url = match self.checked(next.as_str()) {
                Ok(url) => url,
                Err(why) => return Ok(Fetched::Refused(why)),
            };
        }
        Ok(Fetched::Refused(format!("{url} redirects more than {REDIRECTS} times")))
    }

    /// The URL, if it may be fetched as far as can be told without resolving its host.
    fn checked(&self, text: &str) -> Result<Url, String> {
        if text.len() > URL {
            return Err(format!("the URL is longer than {URL} bytes"));
        }
        let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{text:?} cannot be fetched: only http and https URLs can"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a user name or password in it is not fetched".to_owned());
        }
        let host = url.host_str().unwrap_or_default();
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        if !self.allow_private && literal.is_some_and(|address| !is_public(address)) {
            return Err(NotPublic(host.to_owned()).to_string());
        }
        Ok(url)
    }

    async fn answer(&self, arguments: &Arguments, output_limit: usize) -> Result<ToolAnswer, ToolError> {
        let response = match self.fetch(&arguments.url).await? {
            Fetched::Response(response) => response,
            Fetched::Refused(why) => return Ok(ToolAnswer::error(why)),
            Fetched::Elsewhere(target) => {
                return Ok(ToolAnswer::text(format!(
                    "{} redirects to another host: {target}\nFetch that URL if it is what you want.",
                    arguments.url
                )));
            }
        };
        let status = response.status();
        if let Some(failure) = transient(&arguments.url, status.as_u16()) {
            return Err(ToolError::Failed(failure));
        }
        let media = response.headers().get(CONTENT_TYPE).and_then(|media| media.to_str().ok());
        let media = media.unwrap_or("text/plain").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !is_text(&media) {
            return Ok(ToolAnswer::error(format!("{} is {media}; only text can be fetched", arguments.url)));
        }
        let (body, whole) = body(response).await.map_err(ToolError::Lost)?;
        let is_html = matches!(media.as_str(), "text/html" | "application/xhtml+xml");
        let text = if is_html {
            let converted = tokio::task::spawn_blocking(move || page::markdown(&body)).await;
            converted.map_err(|error| {
                let message = format!("{} cannot be made Markdown: {error}", arguments.url);
                ToolError::Failed(Failure::new(FailureClass::Internal, message))
            })?
        } else {
            body
        };
        let mut answer = String::new();
        if !status.is_success() {
            let _ = write!(answer, "{} answered {status}\n\n", arguments.url);
        }
        if let Some(prompt) = &arguments.prompt {
            let _ = write!(answer, "Wanted: {}\n\n", cut(prompt.clone(), 1000));
        }
        answer.push_str(&text);
        if !whole {
            answer.push_str("\n[The page is longer than 4 MiB; this is its beginning.]");
        }
        let answer = cut(answer, output_limit);
        Ok(if status.is_success() { ToolAnswer::text(answer) } else { ToolAnswer::error(answer) })
    }
}

#[async_trait]
impl Tool for WebFetch {
    fn reaches_out(&self) -> bool {
        true
    }

    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        Effect::Read
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let arguments: Arguments = arguments(&call)?;
        let timeout = call.context.timeout.min(TIMEOUT);
        tokio::time::timeout(timeout, self.answer(&arguments, call.context.output_limit)).await.unwrap_or_else(|_| {
            let message = format!("{} did not answer within {} s", arguments.url, timeout.as_secs_f64());
            Err(ToolError::Lost(Failure::new(FailureClass::Timeout, message)))
        })
    }
}

/// A private address is an answer for the model; anything else may be better later.
fn not_fetched(url: &Url, error: &reqwest::Error) -> Result<Fetched, ToolError> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(this) = cause {
        if let Some(refusal) = this.downcast_ref::<NotPublic>() {
            return Ok(Fetched::Refused(refusal.to_string()));
        }
        cause = this.source();
    }
    Err(ToolError::Failed(Failure::new(
        FailureClass::Connection,
        format!("{url} cannot be fetched: {}", crate::http::causes(error)),
    )))
}

fn transient(url: &str, status: u16) -> Option<Failure> {
    let class = match status {
        429 => FailureClass::RateLimited,
        503 | 529 => FailureClass::Overloaded,
        500.. => FailureClass::Unavailable,
        _ => return None,
    };
    Some(Failure::new(class, format!("{url} answered {status}")))
}

fn is_text(media: &str) -> bool {
    media.starts_with("text/")
        || media.ends_with("+json")
        || media.ends_with("+xml")
        || matches!(
            media,
            "application/json"
                | "application/xml"
                | "application/javascript"
                | "application/x-ndjson"
                | "application/yaml"
        )
}

/// The body as far as it is read, and whether that is all of it.
async fn body(mut response: Response) -> Result<(String, bool), Failure> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = BODY - bytes.len();
                bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return Ok((String::from_utf8_lossy(&bytes).into_owned(), false));
                }
            }
            Ok(None) => return Ok((String::from_utf8_lossy(&bytes).into_owned(), true)),
            Err(error) => {
                let message = format!("{} broke off: {}", response.url(), crate::http::causes(&error));
                return Err(Failure::new(FailureClass::Connection, message));
            }
        }
    }
}
