//! Dead letters: listing them, sending them on their way again, dropping them.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use common::store::Filter;
use common::task::{DeadReason, Head, State as TaskState, StateName};

use super::body::{Json, OptionalJson};
use super::query::{Query, write_cursor};
use super::tasks::{head, replay, send, task_id};
use crate::app::App;
use crate::problem::{Kind, Problem};
use crate::wire;

/// The longest time that a filtered replay may take: its limit over its rate, in seconds.
const LONGEST: usize = 60;

/// Lists dead letters, newest first.
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "dead letters",
    params(
        ("pipeline" = Option<String>, Query, description = "Only of this pipeline"),
        ("queue" = Option<String>, Query, description = "Only of this queue"),
        ("reason" = Option<String>, Query, description = "Only dead for this reason"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 1,000; default 100"),
    ),
    responses(
        (status = 200, body = wire::DeadLetterPage),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    mut query: Query,
) -> Result<axum::Json<wire::DeadLetterPage>, Problem> {
    let reason = query.one::<String>("reason")?.map(|text| reason(&text)).transpose()?;
    let filter = Filter {
        states: vec![StateName::Dead],
        pipeline: query.one("pipeline")?,
        queue: query.one("queue")?,
        dead_reason: reason,
        ..Filter::default()
    };
    let (cursor, limit) = (query.cursor()?, query.limit(100, 1_000)?);
    query.end()?;
    let page = app.store().list(filter, cursor, limit).await?;
    Ok(axum::Json(wire::DeadLetterPage {
        dead_letters: page.tasks.into_iter().map(Into::into).collect(),
        next: write_cursor(page.next),
    }))
}

fn reason(text: &str) -> Result<DeadReason, Problem> {
    serde_json::from_value(text.into())
        .map_err(|error| Problem::invalid(format!("the query parameter reason: {error}")))
}

/// Sends a dead letter on its way again.
#[utoipa::path(
    post, path = "/v1/dead-letters/{id}/replay", tag = "dead letters",
    params(("id" = String, Path, description = "The task")), request_body = Option<wire::Replay>,
    responses(
        (status = 200, body = wire::Signalled),
        (status = 409, description = "It is not dead", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn replay_one(
    State(app): State<App>,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<wire::Replay>,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    let head = dead(&app, &id).await?;
    let signal = replay(&app, &head, request).await?;
    send(&app, head.id, signal).await
}

/// Sends dead letters that match on their way again, newest first, at a bounded rate.
#[utoipa::path(
    post, path = "/v1/dead-letters/replay", tag = "dead letters", request_body = wire::ReplayMany,
    responses(
        (status = 200, body = wire::ReplayedMany),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn replay_many(
    State(app): State<App>,
    Json(request): Json<wire::ReplayMany>,
) -> Result<axum::Json<wire::ReplayedMany>, Problem> {
    let limit = request.limit.unwrap_or(100);
    let rate = request.per_second.unwrap_or(100);
    if !(1..=1_000).contains(&limit) {
        return Err(Problem::at("/limit", format!("{limit} at once is out of bounds; use 1 to 1,000")));
    }
    if !(1..=1_000).contains(&rate) {
        return Err(Problem::at("/per_second", format!("{rate} a second is out of bounds; use 1 to 1,000")));
    }
    if limit > LONGEST * rate as usize {
        return Err(Problem::at("/limit", format!("at that rate, it takes longer than {LONGEST} s; use less at once")));
    }
    let filter = Filter {
        states: vec![StateName::Dead],
        pipeline: request.pipeline,
        queue: request.queue,
        dead_reason: request.reason,
        ..Filter::default()
    };
    let page = app.store().list(filter, None, limit).await?;
    let mut answer = wire::ReplayedMany { replayed: Vec::new(), refused: Vec::new(), more: page.next.is_some() };
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
    for head in page.tasks {
        pace.tick().await;
        let same = wire::Replay { by: request.by.clone(), ..wire::Replay::default() };
        let signal = replay(&app, &head, same).await?;
        match send(&app, head.id, signal).await {
            Ok(_) => answer.replayed.push(head.id),
            Err(problem) => {
                let reason = problem.detail().to_owned();
                answer.refused.push(wire::RefusedReplay { id: head.id, reason });
            }
        }
    }
    Ok(axum::Json(answer))
}

/// Drops a dead letter: the task and its journal are gone.
#[utoipa::path(
    delete, path = "/v1/dead-letters/{id}", tag = "dead letters", params(("id" = String, Path, description = "The task")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "It is not dead", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn drop_one(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let head = dead(&app, &id).await?;
    if app.store().forget(head.id).await? { Ok(StatusCode::NO_CONTENT) } else { Err(not_dead(&head)) }
}

async fn dead(app: &App, id: &str) -> Result<Head, Problem> {
    let head = head(app, task_id(id)?).await?;
    if matches!(head.state, TaskState::Dead { .. }) { Ok(head) } else { Err(not_dead(&head)) }
}

fn not_dead(head: &Head) -> Problem {
    Problem::new(Kind::Conflict, format!("task {} is no dead letter: it is {}", head.id, head.state.name()))
}
