//! An MCP server over streamable HTTP that misbehaves as it is told: each tool
//! is one way to go wrong. It records what it is asked.
#![allow(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

mod answer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use common::config::McpServer;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::calls::PATIENCE;

/// What the server is like.
#[derive(Debug, Clone)]
pub struct Manners {
    /// The version that it answers `initialize` with; `2026-07-28` for one that knows no `initialize`.
    pub version: String,
    /// Its name and version.
    pub identity: (String, String),
    /// Whether it gives a session.
    pub has_sessions: bool,
    /// The tokens that it accepts; empty: it asks for none.
    pub tokens: BTreeSet<String>,
    /// The status that everything is answered with, if it is one of failure.
    pub broken: Option<u16>,
    /// Whether `initialize` is not answered.
    pub is_silent: bool,
    /// Tools beside those that there always are.
    pub more_tools: Vec<String>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            version: "2025-11-25".to_owned(),
            identity: ("fake".to_owned(), "1.0".to_owned()),
            has_sessions: true,
            tokens: BTreeSet::new(),
            broken: None,
            is_silent: false,
            more_tools: Vec::new(),
        }
    }
}

/// A request, as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    /// GET, POST or DELETE.
    pub verb: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The message; null if there is none.
    pub message: Value,
}

impl Seen {
    /// What the message is about.
    pub fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct FakeMcp {
    /// Where it is.
    pub url: String,
    state: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Counts what was seen.
    seen: watch::Sender<usize>,
    /// To the streams that clients listen to.
    news: broadcast::Sender<Value>,
}

#[derive(Debug, Default)]
struct Inner {
    manners: Manners,
    seen: Vec<Seen>,
    sessions: BTreeSet<String>,
    /// Answers of streams that broke, by the id of the last event.
    unfinished: BTreeMap<String, Value>,
    /// How often an effect took place, by tool.
    effects: BTreeMap<String, usize>,
}

impl FakeMcp {
    /// A server with these manners.
    pub async fn start(manners: Manners) -> Self {
        let state = Arc::new(Shared {
            inner: Mutex::new(Inner { manners, ..Inner::default() }),
            seen: watch::Sender::new(0),
            news: broadcast::Sender::new(16),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = Router::new().fallback(handle).with_state(Arc::clone(&state));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, state, server }
    }

    /// Its entry in `teamster.yaml`, with more keys.
    pub fn configured(&self, more: &Value) -> McpServer {
        let mut entry = json!({"url": self.url});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(entry).unwrap()
    }

    /// Changes its manners.
    pub fn change(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.lock().manners);
    }

    /// Forgets all sessions, as after a restart.
    pub fn forget_sessions(&self) {
        self.lock().sessions.clear();
    }

    /// The sessions that it knows.
    pub fn sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Tells all who listen that the tools have changed.
    pub fn announce_tools(&self) {
        let news = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        self.state.news.send(news).unwrap();
    }

    /// How often a tool did what it does.
    pub fn effects(&self, tool: &str) -> usize {
        self.lock().effects.get(tool).copied().unwrap_or(0)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// The messages of this method so far.
    pub fn messages(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method() == method).collect()
    }

    /// Waits until something that fits was seen.
    pub async fn until_seen(&self, what: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        let mut counter = self.state.seen.subscribe();
        let seen = async {
            loop {
                counter.borrow_and_update();
                if let Some(seen) = self.seen().into_iter().find(|seen| fits(seen)) {
                    return seen;
                }
                counter.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("it never saw {what}: {:?}", self.seen()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.inner.lock().unwrap()
    }
}

impl Drop for FakeMcp {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn handle(State(state): State<Arc<Shared>>, verb: Method, headers: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let manners = {
        let mut inner = state.inner.lock().unwrap();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        inner.seen.push(Seen { verb: verb.to_string(), headers: headers.collect(), message: message.clone() });
        inner.manners.clone()
    };
    state.seen.send_modify(|seen| *seen += 1);
    if let Some(status) = manners.broken {
        return (StatusCode::from_u16(status).unwrap(), "out of order").into_response();
    }
    let token = text("authorization").and_then(|header| header.strip_prefix("Bearer ").map(str::to_owned));
    if !manners.tokens.is_empty() && !token.is_some_and(|token| manners.tokens.contains(&token)) {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Bearer")]).into_response();
    }
    let method = message["method"].as_str().unwrap_or_default();
    let is_modern = manners.version == "2026-07-28";
    if manners.has_sessions && !is_modern && method != "initialize" {
        let session = text("mcp-session-id");
        let Some(session) = session else { return (StatusCode::BAD_REQUEST, "no session").into_response() };
        if !state.inner.lock().unwrap().sessions.contains(&session) {
            return (StatusCode::NOT_FOUND, "unknown session").into_response();
        }
        if text("mcp-protocol-version").as_deref() != Some(&manners.version) {
            return (StatusCode::BAD_REQUEST, "which version?").into_response();
        }
    }
    match verb {
        Method::GET => answer::stream(&state, text("last-event-id")),
        Method::DELETE => {
            let session = text("mcp-session-id").unwrap_or_default();
            state.inner.lock().unwrap().sessions.remove(&session);
            StatusCode::NO_CONTENT.into_response()
        }
        _ if message.get("id").is_none() || message.get("method").is_none() => StatusCode::ACCEPTED.into_response(),
        _ => answer::request(&state, &manners, &message).await,
    }
}

/// A JSON body.
fn as_json(message: &Value) -> Response {
    ([("content-type", "application/json")], message.to_string()).into_response()
}

/// What never ends by itself.
async fn never() -> Response {
    tokio::time::sleep(Duration::from_secs(3600)).await;
    Body::empty().into_response()
}
