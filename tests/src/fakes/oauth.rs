//! A token endpoint for client credentials that counts, and misbehaves as it is told.
#![allow(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How tokens are answered for.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body; in it, `TOKEN` stands for a new token.
    pub body: Value,
}

impl Default for Answer {
    fn default() -> Self {
        Self { status: 200, body: json!({"access_token": "TOKEN", "token_type": "Bearer", "expires_in": 600}) }
    }
}

/// A request for a token.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The form.
    pub form: String,
}

/// An endpoint that runs until it is dropped.
#[derive(Debug)]
pub struct FakeTokens {
    /// Where it is.
    pub url: String,
    state: Arc<Mutex<Inner>>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Inner {
    answer: Answer,
    asked: Vec<Asked>,
}

impl FakeTokens {
    /// An endpoint that gives tokens `token-1`, `token-2`, … for ten minutes each.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(Inner::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let router = Router::new().fallback(handle).with_state(Arc::clone(&state));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, state, server }
    }

    /// Answers in this way from now on.
    pub fn answer(&self, answer: Answer) {
        self.state.lock().unwrap().answer = answer;
    }

    /// All that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }
}

impl Drop for FakeTokens {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn handle(State(state): State<Arc<Mutex<Inner>>>, headers: HeaderMap, body: Bytes) -> Response {
    let mut state = state.lock().unwrap();
    state.asked.push(Asked {
        authorization: headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()),
        form: String::from_utf8(body.to_vec()).unwrap(),
    });
    let token = format!("token-{}", state.asked.len());
    let body = state.answer.body.to_string().replace("TOKEN", &token);
    let status = StatusCode::from_u16(state.answer.status).unwrap();
    (status, [("content-type", "application/json")], body).into_response()
}
