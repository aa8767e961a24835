//! The CRM of the demo: an HTTP server in this process that keeps contacts by
//! `Idempotency-Key`, is overloaded now and then, and refuses some contacts.
//! It counts what reaches it, independently of what journals say. It also is
//! the research API, which makes up what it says of a company.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How long it takes to write a contact.
const WORK: Duration = Duration::from_millis(400);
/// Every so many new keys it is overloaded at the first try.
const OVERLOADED_EVERY: usize = 12;
/// Addresses of people who asked to be left alone.
const DO_NOT_CONTACT: &str = ".do-not-contact.example";

/// A CRM that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Crm {
    pub(super) url: String,
    book: Arc<Mutex<Book>>,
    serving: tokio::task::JoinHandle<()>,
}

/// What has reached it.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    /// The contacts, by key.
    contacts: BTreeMap<String, Value>,
    /// Keys that were seen before they were accepted.
    seen: BTreeMap<String, usize>,
    /// Requests that are not answered yet.
    pub(super) open: usize,
    /// Requests whose key had a contact already.
    pub(super) repeated: usize,
    /// Requests that were answered with 503.
    pub(super) overloaded: usize,
    /// Requests that were answered with 422.
    pub(super) refused: usize,
}

impl Book {
    /// How many contacts there are.
    pub(super) fn written(&self) -> usize {
        self.contacts.len()
    }

    /// How many contacts are there more often than the file has them, `rows` by address.
    pub(super) fn doubles(&self, rows: &BTreeMap<String, usize>) -> usize {
        let mut written: BTreeMap<&str, usize> = BTreeMap::new();
        for contact in self.contacts.values() {
            *written.entry(contact["email"].as_str().unwrap_or_default()).or_default() += 1;
        }
        written.iter().map(|(email, number)| number.saturating_sub(rows.get(*email).copied().unwrap_or(0))).sum()
    }

    /// What is answered to a contact under a key.
    fn answer(&mut self, key: &str, contact: &Value) -> (StatusCode, Value) {
        if let Some(known) = self.contacts.get(key) {
            self.repeated += 1;
            return (StatusCode::OK, json!({"id": known["id"], "repeated": true}));
        }
        if contact["email"].as_str().is_some_and(|email| email.ends_with(DO_NOT_CONTACT)) {
            self.refused += 1;
            return (StatusCode::UNPROCESSABLE_ENTITY, json!({"error": "this address is on the do-not-contact list"}));
        }
        let number = self.seen.len() + 1;
        let tries = self.seen.entry(key.to_owned()).or_insert(0);
        *tries += 1;
        if *tries == 1 && number.is_multiple_of(OVERLOADED_EVERY) {
            self.overloaded += 1;
            return (StatusCode::SERVICE_UNAVAILABLE, json!({"error": "busy, try again"}));
        }
        let id = format!("contact-{}", self.contacts.len() + 1);
        let mut kept = contact.clone();
        kept["id"] = json!(id);
        self.contacts.insert(key.to_owned(), kept);
        (StatusCode::CREATED, json!({"id": id}))
    }
}

impl Crm {
    /// Starts it on a free port.
    pub(super) async fn start() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the demo's CRM finds no free port")?;
        let url = format!("http://{}", listener.local_addr()?);
        let book = Arc::new(Mutex::new(Book::default()));
        let app = Router::new()
            .route("/contacts", post(write))
            .route("/companies/{domain}", get(profile))
            .route("/news", get(news))
            .with_state(Arc::clone(&book));
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::warn!(%error, "the demo's CRM has ended");
            }
        });
        Ok(Self { url, book, serving })
    }

    /// What has reached it so far.
    pub(super) fn book(&self) -> Book {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Crm {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A company, by its domain. The number of people follows from the name, so that it is the same each time.
async fn profile(Path(domain): Path<String>) -> Json<Value> {
    let name = domain.split('.').next().unwrap_or_default().replace('-', " ");
    Json(json!({"name": name, "domain": domain, "people": 10 * (1 + name.len() % 20), "source": "made up by the demo"}))
}

/// The headlines about a company: there are none.
async fn news(Query(asked): Query<BTreeMap<String, String>>) -> Json<Value> {
    Json(json!({"company": asked.get("company"), "headlines": []}))
}

async fn write(State(book): State<Arc<Mutex<Book>>>, headers: HeaderMap, Json(contact): Json<Value>) -> Response {
    let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else {
        let body = json!({"error": "an Idempotency-Key is needed"});
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    // It writes first and answers late: whoever dies in between does not know that it is written.
    let (status, body) = {
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        book.open += 1;
        book.answer(key, &contact)
    };
    // A task of its own: a caller that dies must not stop the count.
    let counting = tokio::spawn(async move {
        tokio::time::sleep(WORK).await;
        book.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
    });
    if let Err(error) = counting.await {
        tracing::warn!(%error, "the demo's CRM lost count");
    }
    let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some([("retry-after", "1")]);
    (status, retry_after, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_key_writes_no_second_contact() {
        let mut book = Book::default();
        let contact = json!({"email": "a@b.example"});
        assert_eq!(book.answer("k", &contact).0, StatusCode::CREATED);
        assert_eq!(book.answer("k", &contact), (StatusCode::OK, json!({"id": "contact-1", "repeated": true})));
        let rows = BTreeMap::from([("a@b.example".to_owned(), 1)]);
        assert_eq!((book.written(), book.repeated, book.doubles(&rows)), (1, 1, 0));
        assert_eq!(book.answer("other", &contact).0, StatusCode::CREATED);
        assert_eq!(book.doubles(&rows), 1);
    }
}
