//! The route of signed webhooks.

use std::collections::BTreeMap;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use common::journal::SealedValues;
use common::pipeline::template::Scope;
use common::store::Submission;
use serde_json::Value;

use super::body::{media_type, parse, read, wrong_type};
use super::trace::traceparent;
use crate::app::App;
use crate::ingress::sender::{Delivery, Raw, sender};
use crate::ingress::trigger;
use crate::private;
use crate::problem::{Kind, Problem};
use crate::wire::{self, Complaint};
use common::submission::NewTask;

/// Takes a delivery. Every pipeline that wants the event gets one task of it,
/// however often it is delivered.
#[utoipa::path(
    post, path = "/v1/hooks/{name}", tag = "webhooks",
    params(("name" = String, Path, description = "A name under `webhooks:` in teamster.yaml")),
    request_body(content = serde_json::Value, description = "As the sender signed it"),
    responses(
        (status = 202, description = "It made at least one new task", body = wire::Delivered),
        (status = 200, description = "It was delivered before, or no pipeline wants it", body = wire::Delivered),
        (status = 401, description = "The signature is bad or missing", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn receive(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request,
) -> Result<(StatusCode, axum::Json<wire::Delivered>), Problem> {
    let answer = take_in(&app, &name, request).await;
    // What nobody has configured is no label.
    if app.settings().webhooks.contains_key(&name) {
        let outcome = match &answer {
            Ok((StatusCode::ACCEPTED, _)) => "accepted",
            Ok(_) => "ignored",
            Err(problem) if problem.status().is_server_error() => "failed",
            Err(_) => "refused",
        };
        app.metrics().webhook(&name, outcome);
    }
    answer
}

async fn take_in(
    app: &App,
    name: &str,
    request: Request,
) -> Result<(StatusCode, axum::Json<wire::Delivered>), Problem> {
    let settings = app.settings();
    let source = match settings.webhooks.get(name) {
        Some(Ok(source)) => source,
        Some(Err(why)) => {
            return Err(Problem::new(Kind::Unavailable, format!("the webhook {name} is not served: {why}")));
        }
        None => {
            return Err(Problem::not_found(format!("there is no webhook {name:?} under `webhooks:` in teamster.yaml")));
        }
    };
    let sender = sender(&source.webhook)
        .map_err(|why| Problem::new(Kind::Unavailable, format!("the webhook {name} is not served: {why}")))?;
    let headers = request.headers().clone();
    let body = read(app, request, settings.config.limits.webhook_body.bytes()).await?;
    let raw = Raw { body: &body, headers: &headers };
    sender.verify(raw, &source.secrets, app.now()).map_err(|bad| Problem::new(Kind::Signature, bad.to_string()))?;

    let given = media_type(&headers);
    if given != "application/json" {
        return Err(wrong_type(&given, "application/json (GitHub: choose it in the webhook's settings)"));
    }
    let payload: Value = parse(&body, settings.config.limits.json_depth)?;
    let mut delivery = sender.read(raw, payload).map_err(|error| Problem::new(Kind::Malformed, error.to_string()))?;
    if delivery.ping {
        return Ok((StatusCode::OK, axum::Json(wire::Delivered { tasks: Vec::new() })));
    }
    let mut visible = visible(&headers);
    // Templates and conditions see tokens, so that nothing that is made of an event can give a value away.
    let sealed = private::event(app, &mut delivery.payload, &mut visible);
    let scope = Scope::of_event(&delivery.payload, &visible, &settings.env);
    let trace = traceparent(&headers);
    deliver(app, name, &delivery, &scope, (trace, &sealed)).await
}

/// Submits what the pipelines want of a delivery. A pipeline that cannot take
/// it does not keep the others from theirs, and is named in the answer.
async fn deliver(
    app: &App,
    name: &str,
    delivery: &Delivery,
    scope: &Scope<'_>,
    (traceparent, sealed): (Option<String>, &SealedValues),
) -> Result<(StatusCode, axum::Json<wire::Delivered>), Problem> {
    let mut submissions: Vec<Submission> = Vec::new();
    let mut complaints: Vec<Complaint> = Vec::new();
    for pipeline in app.catalog().all().await?.iter() {
        let refuse = |message: String| Complaint {
            pointer: String::new(),
            message: format!("pipeline {} cannot take this event: {message}", pipeline.name),
        };
        match trigger::task(pipeline, name, delivery, scope) {
            Ok(None) => {}
            Ok(Some(new)) => {
                let input = private::revealed(app, new.input, sealed);
                match app.submission(pipeline, NewTask { traceparent: traceparent.clone(), input, ..new }) {
                    Ok(submission) => submissions.push(submission),
                    Err(found) => {
                        complaints.extend(found.into_iter().map(|c| refuse(format!("{}: {}", c.pointer, c.message))));
                    }
                }
            }
            Err(message) => complaints.push(refuse(message)),
        }
    }
    let pipelines: Vec<_> = submissions.iter().map(|submission| submission.task().pipeline.clone()).collect();
    let receipts = if submissions.is_empty() { Vec::new() } else { app.store().submit(submissions).await? };
    let created = receipts.iter().any(|receipt| receipt.created);
    let tasks: Vec<_> = receipts
        .into_iter()
        .zip(pipelines)
        .map(|(receipt, pipeline)| wire::DeliveredTask { id: receipt.id, pipeline, state: receipt.state })
        .collect();
    if let Some(first) = complaints.first() {
        tracing::warn!(
            webhook = name,
            delivery = delivery.id,
            refused = complaints.len(),
            "a delivery was not taken by all"
        );
        let detail = format!("{} ({} other tasks were accepted)", first.message, tasks.len());
        return Err(Problem::invalid(detail).with_errors(complaints));
    }
    let status = if created { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, axum::Json(wire::Delivered { tasks })))
}

/// The headers that templates may see: what proves who someone is stays out of inputs and journals.
fn visible(headers: &HeaderMap) -> BTreeMap<String, String> {
    let secret = |name: &str| {
        name == "authorization" || name == "cookie" || name.contains("signature") || name.contains("token")
    };
    headers
        .iter()
        .filter(|(name, _)| !secret(name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect()
}
