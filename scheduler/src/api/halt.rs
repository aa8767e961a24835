//! The emergency stop of the fleet, or of one pipeline.

use axum::extract::State;
use common::id::PipelineName;
use common::store::HaltChange;

use super::body::OptionalJson;
use super::query::Query;
use super::tasks::{by, text};
use crate::app::App;
use crate::problem::Problem;
use crate::wire;

/// Lists the newest halt of the fleet and of each pipeline, in force or not.
#[utoipa::path(
    get, path = "/v1/halt", tag = "halt",
    responses(
        (status = 200, body = wire::HaltList),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(app): State<App>) -> Result<axum::Json<wire::HaltList>, Problem> {
    let halts = app.store().halts().await?;
    Ok(axum::Json(wire::HaltList { halts: halts.into_iter().map(Into::into).collect() }))
}

/// Halts the fleet or a pipeline: within 2 s no new model or tool call starts. Calls under way end and are written
/// down, then their tasks wait; tasks that come are accepted and wait. A halt that is in force stays as it is.
#[utoipa::path(
    post, path = "/v1/halt", tag = "halt", request_body = Option<wire::BeginHalt>,
    responses(
        (status = 200, description = "It is in force", body = wire::Halt),
        (status = 404, description = "There is no such pipeline", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn begin(
    State(app): State<App>,
    OptionalJson(request): OptionalJson<wire::BeginHalt>,
) -> Result<axum::Json<wire::Halt>, Problem> {
    let reason = text("/reason", request.reason)?.unwrap_or_else(|| "halted on request".to_owned());
    let by = by(request.by)?;
    if let Some(pipeline) = &request.pipeline
        && app.store().current(pipeline).await?.is_none()
    {
        // A halt that covers nothing because of a slip of the pen would be worse than none.
        return Err(Problem::not_found(format!("there is no pipeline {pipeline}; nothing was halted")));
    }
    let change = HaltChange::Begin { pipeline: request.pipeline, by, reason };
    let halt = app.store().change_halt(change).await?;
    let halt = halt.ok_or_else(|| Problem::invalid("the halt could not begin"))?;
    tracing::warn!(pipeline = halt.pipeline.as_ref().map(PipelineName::as_str), by = halt.by, "halted");
    Ok(axum::Json(halt.into()))
}

/// Lifts the halt of the fleet, or of a pipeline: what waited goes on.
#[utoipa::path(
    delete, path = "/v1/halt", tag = "halt",
    params(
        ("pipeline" = Option<String>, Query, description = "The pipeline; without it, the halt of the fleet"),
        ("by" = Option<String>, Query, description = "Who asks, as they call themselves"),
    ),
    responses(
        (status = 200, description = "It is lifted", body = wire::Halt),
        (status = 404, description = "There is none in force", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn lift(State(app): State<App>, mut query: Query) -> Result<axum::Json<wire::Halt>, Problem> {
    let pipeline: Option<PipelineName> = query.one("pipeline")?;
    let by = by(query.one("by")?)?;
    query.end()?;
    let change = HaltChange::Lift { pipeline: pipeline.clone(), by };
    let Some(halt) = app.store().change_halt(change).await? else {
        let others = app.store().halts().await?;
        let in_force = others.into_iter().filter(common::store::Halt::is_in_force).map(|halt| match halt.pipeline {
            Some(pipeline) => format!("pipeline {pipeline}"),
            None => "the fleet".to_owned(),
        });
        let in_force: Vec<String> = in_force.collect();
        let what = pipeline.map_or("the fleet".to_owned(), |pipeline| format!("pipeline {pipeline}"));
        let rest = if in_force.is_empty() { "nothing".to_owned() } else { in_force.join(", ") };
        return Err(Problem::not_found(format!("no halt of {what} is in force; halted is: {rest}")));
    };
    tracing::warn!(pipeline = halt.pipeline.as_ref().map(PipelineName::as_str), "the halt is lifted");
    Ok(axum::Json(halt.into()))
}
