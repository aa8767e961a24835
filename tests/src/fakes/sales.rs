//! What a sales pipeline talks to: a research API that can be down, and a CRM
//! that counts what reaches it and can hold its answers back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// What has reached it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Whether the research API answers with 500 instead.
    pub research_is_down: bool,
    /// Whether the CRM writes contacts and then says nothing.
    pub crm_is_mute: bool,
    /// What was looked up, in order.
    pub lookups: Vec<String>,
    /// Contacts by idempotency key, with how often each came.
    pub contacts: BTreeMap<String, (Value, usize)>,
}

/// The server; stops when it is dropped.
#[derive(Debug)]
pub struct Sales {
    /// Where it is.
    pub url: String,
    ledger: Arc<Mutex<Ledger>>,
    server: JoinHandle<()>,
}

impl Sales {
    /// Starts it.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> std::io::Result<Self> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let app = Router::new()
            .route("/companies/{domain}", get(profile))
            .route("/news", get(news))
            .route("/contacts", post(write))
            .with_state(Arc::clone(&ledger));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            // A client that goes away is not the server's concern.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { url, ledger, server })
    }

    /// What has reached it, to read or to change.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

impl Drop for Sales {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Shared = State<Arc<Mutex<Ledger>>>;

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn looked_up(ledger: &Mutex<Ledger>, what: String, answer: Value) -> (StatusCode, Json<Value>) {
    let mut ledger = lock(ledger);
    ledger.lookups.push(what);
    if ledger.research_is_down {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"error": "down for maintenance"})));
    }
    (StatusCode::OK, Json(answer))
}

async fn profile(State(ledger): Shared, Path(domain): Path<String>) -> (StatusCode, Json<Value>) {
    let answer = json!({"domain": domain, "people": 40});
    looked_up(&ledger, domain, answer)
}

async fn news(State(ledger): Shared, Query(asked): Query<BTreeMap<String, String>>) -> (StatusCode, Json<Value>) {
    let company = asked.get("company").cloned().unwrap_or_default();
    looked_up(&ledger, company, json!({"headlines": []}))
}

async fn write(State(ledger): Shared, headers: HeaderMap, Json(contact): Json<Value>) -> (StatusCode, Json<Value>) {
    let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "an Idempotency-Key is needed"})));
    };
    let (id, mute) = {
        let mut ledger = lock(&ledger);
        let number = ledger.contacts.len() + 1;
        let entry = ledger.contacts.entry(key.to_owned()).or_insert_with(|| {
            let mut kept = contact;
            kept["id"] = json!(format!("contact-{number}"));
            (kept, 0)
        });
        entry.1 += 1;
        (entry.0["id"].clone(), ledger.crm_is_mute)
    };
    if mute {
        std::future::pending::<()>().await;
    }
    (StatusCode::CREATED, Json(json!({"id": id})))
}
