//! Decisions that are wanted from people.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use common::id::{ApprovalId, Digest};
use common::journal::{ApprovalDecision, Event, Recorded};
use common::store::{Filter, SignalError};
use common::task::{Refusal, Signal};

use super::body::Json;
use super::query::{Query, write_cursor};
use super::tasks::{by, sent, text};
use crate::app::App;
use crate::private;
use crate::problem::{Kind, Problem};
use crate::wire;

/// Lists open approvals, those of the newest tasks first.
#[utoipa::path(
    get, path = "/v1/approvals", tag = "approvals",
    params(
        ("pipeline" = Option<String>, Query, description = "Only of this pipeline"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<usize>, Query, description = "Of at most so many tasks, 1 to 1,000; default 100"),
    ),
    responses(
        (status = 200, body = wire::ApprovalPage),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(app): State<App>, mut query: Query) -> Result<axum::Json<wire::ApprovalPage>, Problem> {
    let filter = Filter { pipeline: query.one("pipeline")?, awaiting_approval: true, ..Filter::default() };
    let (cursor, limit) = (query.cursor()?, query.limit(100, 1_000)?);
    query.end()?;
    let page = app.store().list(filter, cursor, limit).await?;
    let mut approvals = Vec::new();
    for head in &page.tasks {
        for open in &head.open_approvals {
            let asked = app.store().journal(head.id, open.seq.saturating_sub(1), 1).await?;
            let asked = asked.into_iter().filter_map(|recorded| wire::Approval::new(head, recorded));
            for mut approval in asked {
                private::approval(&app, &mut approval).await?;
                approvals.push(approval);
            }
        }
    }
    Ok(axum::Json(wire::ApprovalPage { approvals, next: write_cursor(page.next) }))
}

/// Decides an approval, once.
#[utoipa::path(
    post, path = "/v1/approvals/{id}", tag = "approvals",
    params(("id" = String, Path, description = "The approval, TASK.NUMBER")), request_body = wire::Decide,
    responses(
        (status = 200, description = "The task goes on", body = wire::Signalled),
        (status = 202, description = "Its worker takes the decision up", body = wire::Signalled),
        (status = 403, description = "Somebody else must decide", body = wire::Problem, content_type = "application/problem+json"),
        (status = 409, description = "It was decided before, or has lapsed, or is about something else than the digest", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn decide(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(request): Json<wire::Decide>,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    let approval: ApprovalId =
        id.parse().map_err(|error: common::id::InvalidId| Problem::not_found(error.to_string()))?;
    let by = by(request.by)?;
    check_terms(&app, approval, &by, request.digest.as_ref()).await?;
    let decision = ApprovalDecision {
        approved: request.decision == wire::Decision::Approve,
        by,
        comment: text("/comment", request.comment)?,
        edits: request.edits,
    };
    match private::signal(&app, approval.task, Signal::Decide { approval, decision }).await {
        Err(SignalError::Refused(Refusal::Unknown(_))) => Err(not_open(&app, approval).await?),
        answer => Ok(sent(approval.task, answer?)),
    }
}

/// Whether this person may decide, and means what is asked.
async fn check_terms(app: &App, approval: ApprovalId, by: &str, digest: Option<&Digest>) -> Result<(), Problem> {
    let event = app.store().journal(approval.task, approval.seq.saturating_sub(1), 1).await?;
    let Some(Recorded { event: Event::ApprovalRequested { terms, .. }, .. }) = event.first() else {
        // The store says that there is no such question.
        return Ok(());
    };
    terms.admits(by).map_err(|why| Problem::new(Kind::NotYours, format!("approval {approval}: {why}")))?;
    if digest.is_some() && digest != terms.digest.as_ref() {
        let why = format!("approval {approval} asks about something else than `digest` names; look at it again");
        return Err(Problem::new(Kind::Conflict, why));
    }
    Ok(())
}

/// Why an approval is not open: it was, or there is no such approval.
async fn not_open(app: &App, approval: ApprovalId) -> Result<Problem, Problem> {
    let event = app.store().journal(approval.task, approval.seq.saturating_sub(1), 1).await?;
    Ok(match event.first() {
        Some(recorded) if matches!(recorded.event, Event::ApprovalRequested { .. }) => Problem::new(
            Kind::Conflict,
            format!("approval {approval} was decided before, or has lapsed; a decision is made once"),
        ),
        _ => Problem::not_found(format!("there is no approval {approval}")),
    })
}
