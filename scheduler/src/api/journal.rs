//! The journal of a task: in pages, and live.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use common::id::TaskId;
use common::journal::Recorded;
use futures::{Stream, StreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::query::Query;
use super::tasks::{PAGE, head, task_id};
use crate::app::App;
use crate::problem::Problem;
use crate::wire;

/// How often the store is asked for news: soon after an event, later when nothing happens.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(1);
/// How often a silent stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

/// Reads the journal, oldest event first.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/journal", tag = "tasks",
    params(
        ("id" = String, Path, description = "The task"),
        ("after" = Option<u64>, Query, description = "Only events after this number; `next` of the page before"),
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 1,000; default 1,000"),
    ),
    responses(
        (status = 200, body = wire::JournalPage),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn page(
    State(app): State<App>,
    Path(id): Path<String>,
    mut query: Query,
) -> Result<axum::Json<wire::JournalPage>, Problem> {
    let id = task_id(&id)?;
    let after = query.one("after")?.unwrap_or(0);
    let limit = query.limit(PAGE, PAGE)?;
    query.end()?;
    let events = app.store().journal(id, after, limit).await?;
    if events.is_empty() {
        head(&app, id).await?;
    }
    let next = events.last().filter(|_| events.len() == limit).map(|last| last.seq);
    Ok(axum::Json(wire::JournalPage { events, next }))
}

/// Watches the journal: server-sent events, `id` the number of the event,
/// `event` its type, `data` the event as in the journal. When the task is done,
/// `event: end` closes the stream.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/events", tag = "tasks",
    params(
        ("id" = String, Path, description = "The task"),
        ("Last-Event-ID" = Option<u64>, Header, description = "Go on after this event"),
    ),
    responses(
        (status = 200, description = "The events, as they happen", content_type = "text/event-stream", body = String),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn events(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: Query,
) -> Result<Sse<impl Stream<Item = Result<Message, Infallible>>>, Problem> {
    query.end()?;
    let id = task_id(&id)?;
    head(&app, id).await?;
    let after = match headers.get("last-event-id") {
        None => 0,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Problem::invalid("the header Last-Event-ID is not the number of an event"))?,
    };
    let watch = Watch { _place: app.watcher()?, id, after, pause: Duration::ZERO, done: false, app: app.clone() };
    let closing = app.closing().clone();
    let messages = stream::unfold(watch, Watch::next)
        .flat_map(stream::iter)
        .take_until(async move { closing.cancelled().await })
        .map(Ok);
    Ok(Sse::new(messages).keep_alive(KeepAlive::new().interval(ALIVE)))
}

/// A client that watches a task.
struct Watch {
    app: App,
    id: TaskId,
    /// The number of the newest event that was sent.
    after: u64,
    /// How long to wait before the store is asked again.
    pause: Duration,
    done: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// The next messages: at least one, or none at all at the end.
    async fn next(mut self) -> Option<(Vec<Message>, Self)> {
        while !self.done {
            tokio::time::sleep(self.pause).await;
            let Ok(events) = self.app.store().journal(self.id, self.after, 100).await else {
                // The store may come back; the client sees only a pause.
                self.pause = LATER;
                continue;
            };
            if let Some(last) = events.last() {
                self.after = last.seq;
                self.pause = Duration::ZERO;
                return Some((events.iter().map(message).collect(), self));
            }
            self.pause = (self.pause * 2).clamp(SOON, LATER);
            let end = match self.app.store().head(self.id).await {
                Ok(None) => Some("removed"),
                Ok(Some(head)) if head.state.is_terminal() && head.version <= self.after => {
                    Some(head.state.name().as_str())
                }
                _ => None,
            };
            if let Some(state) = end {
                self.done = true;
                let data = serde_json::json!({"state": state}).to_string();
                return Some((vec![Message::default().event("end").data(data)], self));
            }
        }
        None
    }
}

fn message(recorded: &Recorded) -> Message {
    // JSON on one line: nothing in it can end the message early.
    let data = serde_json::to_string(recorded).unwrap_or_default();
    Message::default().id(recorded.seq.to_string()).event(recorded.event.kind()).data(data)
}
