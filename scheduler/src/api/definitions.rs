//! Pipelines as they are known, and making new ones known.

use axum::extract::{Request, State};
use common::id::Digest;
use common::pipeline::model::Trigger;
use common::store::Definition;

use super::body::{media_type, parse, read, wrong_type};
use crate::app::App;
use crate::catalog::CatalogError;
use crate::problem::Problem;
use crate::wire;

/// All definitions of one request, in bytes.
const BODY: usize = 16 << 20;
/// Definitions of one request.
const DEFINITIONS: usize = 1_000;

/// Lists the pipelines by their current definitions.
#[utoipa::path(
    get, path = "/v1/pipelines", tag = "pipelines",
    responses(
        (status = 200, body = wire::PipelineList),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(app): State<App>) -> Result<axum::Json<wire::PipelineList>, Problem> {
    let definitions = app.store().definitions().await?;
    let pipelines = definitions.iter().map(|definition| summary(&app, definition)).collect();
    Ok(axum::Json(wire::PipelineList { pipelines }))
}

fn summary(app: &App, definition: &Definition) -> wire::PipelineSummary {
    let mut summary = wire::PipelineSummary {
        name: definition.name.clone(),
        digest: definition.digest.clone(),
        description: String::new(),
        queue: common::id::QueueName::default_queue(),
        triggers: Vec::new(),
        steps: Vec::new(),
        input: None,
        unreadable: None,
    };
    match app.catalog().compile(definition) {
        Ok(pipeline) => {
            summary.description.clone_from(&pipeline.description);
            summary.queue = pipeline.queue.clone();
            summary.triggers = pipeline.triggers.iter().map(trigger).collect();
            summary.steps = pipeline.steps.iter().map(|step| step.id.clone()).collect();
            summary.input = pipeline.input.as_ref().map(|input| input.schema.clone());
        }
        Err(error) => summary.unreadable = Some(error.to_string()),
    }
    summary
}

fn trigger(trigger: &Trigger) -> String {
    match trigger {
        Trigger::Webhook(webhook) => format!("webhook {}", webhook.webhook),
        Trigger::Schedule(schedule) => format!("schedule {} {}", schedule.cron, schedule.timezone),
    }
}

/// Makes definitions the current ones of their names, all or none.
#[utoipa::path(
    put, path = "/v1/definitions", tag = "pipelines", request_body = wire::Apply,
    responses(
        (status = 200, body = wire::Applied),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn apply(State(app): State<App>, request: Request) -> Result<axum::Json<wire::Applied>, Problem> {
    let given = media_type(request.headers());
    if given != "application/json" {
        return Err(wrong_type(&given, "application/json"));
    }
    let body = read(&app, request, BODY).await?;
    let request: wire::Apply = parse(&body, app.settings().config.limits.json_depth)?;
    if request.definitions.len() > DEFINITIONS {
        return Err(Problem::at("/definitions", format!("at most {DEFINITIONS} definitions at once")));
    }
    let definitions: Vec<Definition> = request
        .definitions
        .into_iter()
        .map(|named| Definition {
            digest: Digest::of(named.body.as_bytes()),
            name: named.name,
            body: named.body.into(),
        })
        .collect();
    let mut complaints = Vec::new();
    let mut pipelines = Vec::with_capacity(definitions.len());
    for (index, definition) in definitions.iter().enumerate() {
        if let Err(error) = app.catalog().compile(definition) {
            let message = match error {
                CatalogError::Unreadable { why, .. } => why,
                other => other.to_string(),
            };
            complaints.push(wire::Complaint { pointer: format!("/definitions/{index}/body"), message });
            continue;
        }
        let before = app.store().current(&definition.name).await?;
        pipelines.push(wire::AppliedPipeline {
            name: definition.name.clone(),
            digest: definition.digest.clone(),
            changed: before.is_none_or(|before| before.digest != definition.digest),
        });
    }
    if !complaints.is_empty() {
        let detail = format!("{} of the definitions cannot be used; nothing was changed", complaints.len());
        return Err(Problem::invalid(detail).with_errors(complaints));
    }
    app.store().apply(definitions).await?;
    app.catalog().forget_current();
    Ok(axum::Json(wire::Applied { pipelines }))
}
