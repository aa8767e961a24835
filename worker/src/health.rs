//! `/healthz`, `/readyz` and `/metrics` of a worker.
//!
//! Live means that the process answers. Ready means that the store answered
//! the last time that the worker looked for tasks, and answers now. A broker
//! that is out of reach does not make a worker unready: it goes by the store's
//! own queue meanwhile, and `/readyz` says `degraded`, with the reason.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use common::shutdown::Shutdown;
use common::store::Store;
use tokio::net::TcpListener;

use crate::service::Status;

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves the health of a worker until the process stops.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn Store>,
    status: Arc<Status>,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let ready = {
        let (shutdown, status) = (shutdown.clone(), Arc::clone(&status));
        move || {
            let (store, status, shutdown) = (Arc::clone(&store), Arc::clone(&status), shutdown.clone());
            async move { readiness(&*store, &status, &shutdown).await }
        }
    };
    let metrics = move || async move { metrics(&status) };
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.stopping().await }).await
}

fn metrics(status: &Status) -> Response {
    match status.metrics().encode() {
        Ok(text) => ([(CONTENT_TYPE, common::metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readiness(store: &dyn Store, status: &Status, shutdown: &Shutdown) -> (StatusCode, String) {
    if shutdown.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    if let Some(why) = status.trouble() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("no tasks can be taken from the store: {why}\n"));
    }
    match tokio::time::timeout(PATIENCE, store.check()).await {
        Ok(Ok(())) => match status.degraded() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(why) => (StatusCode::OK, format!("degraded: {why}\n")),
        },
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n".to_owned()),
    }
}
