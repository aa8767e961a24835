//! The part of GitHub that keeps the reviews of one pull request, by its rules:
//! an account has one pending review at most, a pending review is submitted
//! once, and a comment stands on a line of the diff or the whole review is
//! refused (<https://docs.github.com/en/rest/pulls/reviews>).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A request that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A pending review is made.
    Propose,
    /// A pending review is submitted.
    Submit,
}

/// Where the server falls silent, once: the connection stays, and nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// At such a request, which changes nothing.
    Before(Change),
    /// When such a request has changed what it was to change.
    After(Change),
}

/// What GitHub knows.
#[derive(Debug)]
pub struct Page {
    /// The reviews, oldest first.
    pub reviews: Vec<Value>,
    /// Where it falls silent next.
    pub trap: Option<Trap>,
    /// Requests for a change.
    pub asked: usize,
    /// `PATH:LINE` of the lines that can be commented on.
    lines: BTreeSet<String>,
}

/// The server; stops when it is dropped.
#[derive(Debug)]
pub struct GitHub {
    /// Where it is.
    pub url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    page: Mutex<Page>,
    sprung: watch::Sender<bool>,
}

type Answer = (StatusCode, Json<Value>);

impl GitHub {
    /// One that lets these lines (`PATH:LINE`) be commented on, and falls silent at the trap.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(lines: &[&str], trap: Option<Trap>) -> std::io::Result<Self> {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        let page = Mutex::new(Page { reviews: Vec::new(), trap, asked: 0, lines });
        let shared = Arc::new(Shared { page, sprung: watch::Sender::new(false) });
        let reviews = "/repos/{owner}/{repo}/pulls/{number}/reviews";
        let app = Router::new()
            .route(reviews, get(list).post(propose))
            .route(&format!("{reviews}/{{id}}"), get(show).delete(remove))
            .route(&format!("{reviews}/{{id}}/events"), post(submit))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            // A client that goes away is not the server's concern.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { url, shared, server })
    }

    /// What it knows, to read or to change.
    pub fn page(&self) -> MutexGuard<'_, Page> {
        self.shared.page()
    }

    /// The reviews in a state.
    pub fn reviews(&self, state: &str) -> Vec<Value> {
        self.page().reviews.iter().filter(|review| review["state"] == state).cloned().collect()
    }

    /// Waits until it has fallen silent.
    ///
    /// # Errors
    /// When the server has ended.
    pub async fn silent(&self) -> anyhow::Result<()> {
        self.shared.sprung.subscribe().wait_for(|sprung| *sprung).await?;
        Ok(())
    }
}

impl Drop for GitHub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Falls silent if the trap is here.
    async fn pass(&self, here: Trap) {
        let caught = {
            let mut page = self.page();
            let caught = page.trap == Some(here);
            page.trap = page.trap.filter(|_| !caught);
            caught
        };
        if caught {
            self.sprung.send_replace(true);
            std::future::pending::<()>().await;
        }
    }
}

fn refused(status: StatusCode, why: &str) -> Answer {
    (status, Json(json!({"message": "Unprocessable Entity", "errors": [why]})))
}

/// The review with an id, by its place.
fn place(page: &Page, id: u64) -> Option<usize> {
    page.reviews.iter().position(|review| review["id"] == id)
}

async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!(shared.page().reviews))
}

async fn propose(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(asked): Json<Value>) -> Answer {
    shared.page().asked += 1;
    shared.pass(Trap::Before(Change::Propose)).await;
    let answer = proposed(&mut shared.page(), &headers, &asked);
    shared.pass(Trap::After(Change::Propose)).await;
    answer
}

fn proposed(page: &mut Page, headers: &HeaderMap, asked: &Value) -> Answer {
    if headers.get("authorization").is_none_or(|value| value != "Bearer github-token") {
        return refused(StatusCode::UNAUTHORIZED, "Bad credentials");
    }
    if page.reviews.iter().any(|review| review["state"] == "PENDING") {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "User can only have one pending review per pull request");
    }
    let comments = asked["comments"].as_array().cloned().unwrap_or_default();
    for comment in &comments {
        let known = ["path", "line", "side", "body"];
        let strange = comment.as_object().is_none_or(|fields| fields.keys().any(|key| !known.contains(&key.as_str())));
        let line = format!("{}:{}", comment["path"].as_str().unwrap_or_default(), comment["line"]);
        if strange || comment["side"] != "RIGHT" || !page.lines.contains(&line) {
            let why = "pull_request_review_thread.line must be part of the diff";
            return refused(StatusCode::UNPROCESSABLE_ENTITY, why);
        }
    }
    let id = 80 + page.asked;
    let review = json!({
        "id": id, "state": "PENDING", "body": asked["body"], "commit_id": asked["commit_id"], "comments": comments,
        "html_url": format!("https://github.example/review/{id}"),
    });
    page.reviews.push(review.clone());
    (StatusCode::OK, Json(review))
}

async fn submit(
    State(shared): State<Arc<Shared>>,
    Path((.., id)): Path<(String, String, u64, u64)>,
    Json(asked): Json<Value>,
) -> Answer {
    shared.page().asked += 1;
    shared.pass(Trap::Before(Change::Submit)).await;
    let answer = submitted(&mut shared.page(), id, &asked);
    shared.pass(Trap::After(Change::Submit)).await;
    answer
}

fn submitted(page: &mut Page, id: u64, asked: &Value) -> Answer {
    let Some(place) = place(page, id) else { return refused(StatusCode::NOT_FOUND, "Not Found") };
    let review = &mut page.reviews[place];
    if asked["event"] != "COMMENT" || review["state"] != "PENDING" {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "Could not submit the review");
    }
    review["state"] = json!("COMMENTED");
    (StatusCode::OK, Json(review.clone()))
}

async fn show(State(shared): State<Arc<Shared>>, Path((.., id)): Path<(String, String, u64, u64)>) -> Answer {
    let page = shared.page();
    match place(&page, id) {
        Some(place) => (StatusCode::OK, Json(page.reviews[place].clone())),
        None => refused(StatusCode::NOT_FOUND, "Not Found"),
    }
}

async fn remove(State(shared): State<Arc<Shared>>, Path((.., id)): Path<(String, String, u64, u64)>) -> Answer {
    let mut page = shared.page();
    match place(&page, id) {
        Some(place) if page.reviews[place]["state"] == "PENDING" => {
            let review = page.reviews.remove(place);
            (StatusCode::OK, Json(review))
        }
        Some(_) => refused(StatusCode::UNPROCESSABLE_ENTITY, "Can not delete a non-pending pull request review"),
        None => refused(StatusCode::NOT_FOUND, "Not Found"),
    }
}
