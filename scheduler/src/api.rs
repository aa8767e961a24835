//! The HTTP API: routes, and the layers around all of them.
//!
//! One module a resource. A handler reads a request, asks the store, and
//! answers with a type of [`crate::wire`] or with a problem; it decides nothing that
//! `common` or [`common::submission`] can decide.

mod approvals;
mod auth;
mod batches;
mod body;
mod dead_letters;
mod definitions;
mod halt;
mod health;
mod hooks;
mod journal;
mod meters;
mod metrics;
mod query;
mod queues;
mod tasks;
mod trace;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::problem::{self, Kind, Problem};

#[derive(OpenApi)]
#[openapi(info(
    title = "Teamster",
    description = "The API of the scheduler. Every error is a problem document (RFC 9457).",
    license(name = "Apache-2.0")
))]
struct Description;

/// The routes with their description. A route is here or it does not exist.
fn routes(app: &App) -> (Router<App>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(tasks::submit, tasks::list))
        .routes(routes!(tasks::show))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::wake))
        .routes(routes!(tasks::raise))
        .routes(routes!(tasks::retry))
        .routes(routes!(tasks::resolve))
        .routes(routes!(tasks::erase))
        .routes(routes!(journal::page))
        .routes(routes!(journal::events))
        .routes(routes!(batches::show))
        .routes(routes!(batches::results))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::replay_many))
        .routes(routes!(dead_letters::replay_one))
        .routes(routes!(dead_letters::drop_one))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::decide))
        .routes(routes!(definitions::list))
        .routes(routes!(definitions::apply))
        .routes(routes!(queues::list))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(halt::list, halt::begin, halt::lift))
        .routes(routes!(meters::list))
        .routes(routes!(hooks::receive))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(describe))
        .route_layer(from_fn_with_state(app.clone(), in_time))
        // A batch takes as long as its file is large; it is bounded piece by piece.
        .routes(routes!(batches::post))
        .split_for_parts()
}

/// The whole service.
pub(crate) fn router(app: App) -> Router {
    let (router, description) = routes(&app);
    let description: Arc<str> = description.to_json().unwrap_or_default().into();
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(Extension(description))
        .layer(CatchPanicLayer::custom(problem::of_panic))
        .layer(from_fn_with_state(app.clone(), auth::guard))
        .layer(from_fn(problem::write))
        .with_state(app)
}

/// Describes this API.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "description",
    responses((status = 200, description = "This document, by OpenAPI 3.1", body = serde_json::Value))
)]
async fn describe(Extension(description): Extension<Arc<str>>) -> Response {
    ([(CONTENT_TYPE, "application/json")], description.to_string()).into_response()
}

/// Gives up on a request that takes too long: every wait has an end.
async fn in_time(State(app): State<App>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(app.http().request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            Kind::Unavailable,
            "the request took too long; whether it took effect is not known: repeat it with the same idempotency key",
        )
        .into_response(),
    }
}

async fn no_route(uri: Uri) -> Problem {
    Problem::not_found(format!("there is no route {}; /v1/openapi.json lists them", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(Kind::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}
