//! Queues: how full they are, and whether work is taken from them.

use axum::extract::{Path, State};
use common::id::QueueName;

use crate::app::App;
use crate::problem::Problem;
use crate::wire;

/// Lists the queues that have tasks or are paused.
#[utoipa::path(
    get, path = "/v1/queues", tag = "queues",
    responses(
        (status = 200, body = wire::QueueList),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(app): State<App>) -> Result<axum::Json<wire::QueueList>, Problem> {
    let queues = app.store().queues().await?;
    Ok(axum::Json(wire::QueueList { queues: queues.into_iter().map(Into::into).collect() }))
}

/// Pauses a queue: tasks are accepted, none is taken.
#[utoipa::path(
    post, path = "/v1/queues/{name}/pause", tag = "queues", params(("name" = String, Path, description = "The queue")),
    responses(
        (status = 200, body = wire::QueuePaused),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn pause(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<axum::Json<wire::QueuePaused>, Problem> {
    set(&app, name, true).await
}

/// Resumes a paused queue.
#[utoipa::path(
    post, path = "/v1/queues/{name}/resume", tag = "queues", params(("name" = String, Path, description = "The queue")),
    responses(
        (status = 200, body = wire::QueuePaused),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resume(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<axum::Json<wire::QueuePaused>, Problem> {
    set(&app, name, false).await
}

async fn set(app: &App, name: String, paused: bool) -> Result<axum::Json<wire::QueuePaused>, Problem> {
    let name = QueueName::new(name).map_err(|error| Problem::invalid(error.to_string()))?;
    app.store().pause(name.clone(), paused).await?;
    Ok(axum::Json(wire::QueuePaused { name, paused }))
}
