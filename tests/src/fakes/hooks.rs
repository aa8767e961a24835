//! A service that is asked as a hook: a real HTTP server that answers as it is
//! told, and keeps what it was asked.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::task::JoinHandle;

type Answer = Box<dyn Fn(&Value) -> (u16, String) + Send + Sync>;

struct Shared {
    answer: Answer,
    asked: Mutex<Vec<(HeaderMap, Value)>>,
}

/// The service; stops when it is dropped.
pub struct HookService {
    /// Where it is asked.
    pub url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl HookService {
    /// One that answers with a status and a body. The status 0 stands for no answer at all.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn answering(answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { answer: Box::new(answer), asked: Mutex::default() });
        let app = Router::new().route("/hooks", post(take)).with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hooks", listener.local_addr()?);
        let server = tokio::spawn(async move {
            // A client that goes away is not the server's concern.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { url, shared, server })
    }

    /// The headers and bodies that came, in order.
    pub fn asked(&self) -> Vec<(HeaderMap, Value)> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HookService {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> (StatusCode, String) {
    let body = serde_json::from_str(&body).unwrap_or_default();
    let (status, answer) = (shared.answer)(&body);
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push((headers, body));
    if status == 0 {
        std::future::pending::<()>().await;
    }
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), answer)
}
