//! Budgets, rate limits and places, as far as the store counts them.

use axum::extract::State;
use common::store::meter::MOST_READINGS;

use super::query::Query;
use crate::app::App;
use crate::problem::Problem;
use crate::wire;

/// Lists what is counted: budgets, rate limits, and the places of pipelines with `concurrency`.
#[utoipa::path(
    get, path = "/v1/meters", tag = "meters",
    params(("prefix" = Option<String>, Query, description = "Only names that begin like this, such as `budget `")),
    responses(
        (status = 200, body = wire::MeterList),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(app): State<App>, mut query: Query) -> Result<axum::Json<wire::MeterList>, Problem> {
    let prefix: Option<String> = query.one("prefix")?;
    query.end()?;
    let readings = app.store().meters(&prefix.unwrap_or_default(), MOST_READINGS).await?;
    Ok(axum::Json(wire::MeterList { meters: readings.into_iter().map(Into::into).collect() }))
}
