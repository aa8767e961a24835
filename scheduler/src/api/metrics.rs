//! What Prometheus reads.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use common::config::{BUDGET_METER, budget_of_meter};
use common::store::meter::MOST_READINGS;
use common::store::{Reading, StoreError};

use crate::app::App;
use crate::problem::{Kind, Problem};
use crate::wire;

/// How long the store may take to count.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counters of this process, and what the store counts for all: queues and budgets. Every scheduler says the latter
/// alike, so take the greatest of them and not their sum.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses(
        (status = 200, description = "Metrics in the text format of Prometheus", body = String, content_type = "text/plain"),
        (status = 503, description = "Not right now", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    match tokio::time::timeout(PATIENCE, refresh(&app)).await {
        Ok(refreshed) => refreshed?,
        Err(_) => return Err(Problem::new(Kind::Unavailable, "the store did not count its queues within 5 s")),
    }
    let text = app.metrics().encode().map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    Ok(([(CONTENT_TYPE, common::metrics::CONTENT_TYPE)], text).into_response())
}

async fn refresh(app: &App) -> Result<(), StoreError> {
    app.metrics().show_queues(&app.store().queues().await?, app.now());
    let settings = app.settings();
    if settings.config.budgets.is_empty() {
        return Ok(());
    }
    let readings = app.store().meters(BUDGET_METER, MOST_READINGS).await?;
    let of = |reading: &Reading| budget_of_meter(reading.meter.name.as_str(), settings.config.budgets.keys());
    app.metrics().show_budgets(readings.iter().filter_map(|reading| Some((of(reading)?, reading))));
    Ok(())
}
