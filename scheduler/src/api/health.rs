//! Whether this process is alive, and whether it can take work in.

use std::time::Duration;

use axum::extract::State;
use common::broker::{Broker, Health};

use crate::app::App;
use crate::problem::{Kind, Problem};
use crate::wire;

/// How long the store may take to show that it can be written to.
const CHECK: Duration = Duration::from_secs(2);

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = wire::Health)))]
pub(crate) async fn healthz() -> axum::Json<wire::Health> {
    ok()
}

/// The store accepts writes, so that work can be taken in. A broker that is out
/// of reach only makes tasks start later: then this says `degraded`, and why.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, body = wire::Health),
        (status = 503, description = "Not right now", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn readyz(State(app): State<App>) -> Result<axum::Json<wire::Health>, Problem> {
    if app.closing().is_cancelled() {
        return Err(Problem::new(Kind::Unavailable, "the scheduler is ending"));
    }
    match tokio::time::timeout(CHECK, app.store().check()).await {
        Ok(Ok(())) => match app.broker().map(Broker::health) {
            Some(Health::Down(why)) => Ok(axum::Json(wire::Health { status: format!("degraded: {why}") })),
            Some(Health::Up) | None => Ok(ok()),
        },
        Ok(Err(error)) => Err(Problem::new(Kind::Unavailable, error.to_string())),
        Err(_) => Err(Problem::new(Kind::Unavailable, "the store did not answer within 2 s")),
    }
}

fn ok() -> axum::Json<wire::Health> {
    axum::Json(wire::Health { status: "ok".to_owned() })
}
