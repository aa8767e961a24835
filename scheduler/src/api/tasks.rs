//! Submitting, reading and steering tasks.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use common::id::{StepId, StepKey, TaskId};
use common::journal::{Recorded, Run, SealedValues};
use common::pipeline::replay::reset;
use common::store::{Erasure, Filter, Signalled as Sent};
use common::task::{Head, Signal, StateName};

use super::body::{Json, OptionalJson};
use super::query::{Query, write_cursor};
use super::trace::traceparent;
use crate::app::App;
use crate::erasure;
use crate::private;
use crate::problem::{Kind, Problem};
use crate::wire;
use crate::wire::Complaint;
use common::submission::{NewTask, input_complaints};

/// The most dollars that a task is given at once: a slip of the pen must not cost a fortune.
const MOST_RAISED: f64 = 10_000.0;

/// Events that are read from the store at once.
pub(crate) const PAGE: usize = 1_000;
/// Who acts, where a request does not say.
const API: &str = "api";
/// The longest name of who acts, and the longest reason and comment, in bytes.
const BY: usize = 256;
const REASON: usize = 4_096;

/// A task id as it stands in a path.
pub(crate) fn task_id(text: &str) -> Result<TaskId, Problem> {
    text.parse().map_err(|error: common::id::InvalidId| Problem::not_found(error.to_string()))
}

/// The head of a task that exists.
pub(crate) async fn head(app: &App, id: TaskId) -> Result<Head, Problem> {
    app.store().head(id).await?.ok_or_else(|| Problem::not_found(format!("there is no task {id}")))
}

/// The whole journal of a task; empty if there is none.
pub(crate) async fn journal(app: &App, id: TaskId) -> Result<Vec<Recorded>, Problem> {
    let mut journal: Vec<Recorded> = Vec::new();
    loop {
        let after = journal.last().map_or(0, |recorded| recorded.seq);
        let page = app.store().journal(id, after, PAGE).await?;
        let more = page.len() == PAGE;
        journal.extend(page);
        if !more {
            return Ok(journal);
        }
    }
}

/// The fold of a task's whole journal.
pub(crate) async fn run(app: &App, id: TaskId) -> Result<Run, Problem> {
    let journal = journal(app, id).await?;
    if journal.is_empty() {
        return Err(Problem::not_found(format!("there is no task {id}")));
    }
    Run::fold(id, &journal)
        .map_err(|error| Problem::new(Kind::Internal, format!("the journal of task {id} does not fold: {error}")))
}

/// Who acts, as they call themselves.
pub(crate) fn by(given: Option<String>) -> Result<String, Problem> {
    let by = given.unwrap_or_else(|| API.to_owned());
    if by.is_empty() || by.len() > BY || by.chars().any(char::is_control) {
        return Err(Problem::at("/by", format!("use 1 to {BY} bytes without control characters")));
    }
    Ok(by)
}

/// A text of a person, within its limit.
pub(crate) fn text(pointer: &str, given: Option<String>) -> Result<Option<String>, Problem> {
    match given {
        Some(text) if text.len() > REASON => {
            Err(Problem::at(pointer, format!("it has {} bytes; at most {REASON} are kept", text.len())))
        }
        other => Ok(other),
    }
}

/// Sends a signal, and says what became of it.
pub(crate) async fn send(
    app: &App,
    id: TaskId,
    signal: Signal,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    Ok(sent(id, private::signal(app, id, signal).await?))
}

/// What became of a signal: 200 if it took effect, 202 if the worker takes it up.
pub(crate) fn sent(id: TaskId, answer: Sent) -> (StatusCode, axum::Json<wire::Signalled>) {
    let (status, state, applied) = match answer {
        Sent::Applied(state) => (StatusCode::OK, state, true),
        Sent::Requested => (StatusCode::ACCEPTED, StateName::Running, false),
    };
    (status, axum::Json(wire::Signalled { id, state, applied }))
}

/// Submits a task.
#[utoipa::path(
    post, path = "/v1/tasks", tag = "tasks", request_body = wire::SubmitTask,
    responses(
        (status = 202, description = "It is durable and will be worked on", body = wire::Submitted),
        (status = 200, description = "The key is known: this is the task of the first submit", body = wire::Submitted),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit(
    State(app): State<App>,
    headers: HeaderMap,
    Json(request): Json<wire::SubmitTask>,
) -> Result<(StatusCode, axum::Json<wire::Submitted>), Problem> {
    let pipeline = app.catalog().current(&request.pipeline).await?;
    let new = NewTask {
        input: request.input,
        key: request.idempotency_key,
        queue: request.queue,
        priority: request.priority,
        run_at: request.run_at,
        labels: request.labels,
        traceparent: traceparent(&headers),
        ..NewTask::default()
    };
    let submission = app.submission(&pipeline, new).map_err(|complaints| {
        Problem::complaints(&format!("pipeline {} does not accept this task", request.pipeline), complaints)
    })?;
    let receipt = app.submit(submission).await?;
    let status = if receipt.created { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, axum::Json(wire::Submitted { id: receipt.id, state: receipt.state })))
}

/// Lists tasks, newest first.
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks",
    params(
        ("state" = Option<String>, Query, description = "Only in one of these states, with commas"),
        ("pipeline" = Option<String>, Query, description = "Only of this pipeline"),
        ("queue" = Option<String>, Query, description = "Only in this queue"),
        ("label" = Option<Vec<String>>, Query, description = "Only with this label, as NAME:VALUE; may be repeated"),
        ("parent" = Option<String>, Query, description = "Only children of this task"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 1,000; default 100"),
    ),
    responses(
        (status = 200, body = wire::TaskPage),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(app): State<App>, mut query: Query) -> Result<axum::Json<wire::TaskPage>, Problem> {
    let filter = Filter {
        states: query.list("state")?,
        pipeline: query.one("pipeline")?,
        queue: query.one("queue")?,
        labels: query.labels()?,
        parent: query.one("parent")?,
        ..Filter::default()
    };
    let (cursor, limit) = (query.cursor()?, query.limit(100, 1_000)?);
    query.end()?;
    let page = app.store().list(filter, cursor, limit).await?;
    Ok(axum::Json(wire::TaskPage {
        tasks: page.tasks.into_iter().map(Into::into).collect(),
        next: write_cursor(page.next),
    }))
}

/// Shows a task: the fold of its whole journal.
#[utoipa::path(
    get, path = "/v1/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "The task")),
    responses(
        (status = 200, body = wire::Task),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<axum::Json<wire::Task>, Problem> {
    let run = run(&app, task_id(&id)?).await?;
    // A definition that cannot be read any more only costs the order of the steps.
    let order: Vec<StepId> = match app.catalog().pinned(&run.head.pipeline, &run.head.digest).await {
        Ok(pipeline) => pipeline.steps.iter().map(|step| step.id.clone()).collect(),
        Err(_) => Vec::new(),
    };
    let mut run = run;
    run.output = private::output(&app, &run);
    Ok(axum::Json(wire::Task::new(run, &order)))
}

/// Stops a task.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/cancel", tag = "tasks", params(("id" = String, Path, description = "The task")),
    request_body = Option<wire::Cancel>,
    responses(
        (status = 200, description = "It is cancelled", body = wire::Signalled),
        (status = 202, description = "Its worker was asked to stop", body = wire::Signalled),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<wire::Cancel>,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    let id = task_id(&id)?;
    let reason = text("/reason", request.reason)?.unwrap_or_else(|| "cancelled on request".to_owned());
    send(&app, id, Signal::Cancel { by: by(request.by)?, reason }).await
}

/// Ends the waiting of a scheduled or waiting task now.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/wake", tag = "tasks", params(("id" = String, Path, description = "The task")),
    responses(
        (status = 200, body = wire::Signalled),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn wake(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    send(&app, task_id(&id)?, Signal::Wake).await
}

/// Gives a task more to spend: it and each of its steps. One that waits for that goes on; a dead one can be replayed.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/raise", tag = "tasks", params(("id" = String, Path, description = "The task")),
    request_body = wire::Raise,
    responses(
        (status = 200, description = "It has more to spend", body = wire::Signalled),
        (status = 202, description = "Its worker takes it up", body = wire::Signalled),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn raise(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(request): Json<wire::Raise>,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    let wire::Raise { usd, tokens, by: who } = request;
    if usd.is_none() && tokens.is_none() {
        return Err(Problem::at("/usd", "say how much more the task may spend: `usd`, `tokens` or both"));
    }
    if usd.is_some_and(|usd| !usd.is_finite() || usd <= 0.0 || usd > MOST_RAISED) {
        return Err(Problem::at("/usd", format!("more than nothing, and at most {MOST_RAISED} dollars at once")));
    }
    if tokens == Some(0) {
        return Err(Problem::at("/tokens", "more than nothing"));
    }
    send(&app, task_id(&id)?, Signal::Raise { by: by(who)?, usd, tokens }).await
}

/// Sends a dead or cancelled task on its way again.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/retry", tag = "tasks", params(("id" = String, Path, description = "The task")),
    request_body = Option<wire::Replay>,
    responses(
        (status = 200, body = wire::Signalled),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<wire::Replay>,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    let id = task_id(&id)?;
    let signal = replay(&app, &head(&app, id).await?, request).await?;
    send(&app, id, signal).await
}

/// The replay of a task, checked against the definition that it is pinned to.
pub(crate) async fn replay(app: &App, head: &Head, request: wire::Replay) -> Result<Signal, Problem> {
    let by = by(request.by)?;
    if request.from.is_none() && request.input.is_none() {
        return Ok(Signal::Replay { by, reset: Vec::new(), input: None, sealed: SealedValues::default() });
    }
    let pipeline = app.catalog().pinned(&head.pipeline, &head.digest).await?;
    let reset = reset(&pipeline, request.from.as_ref()).map_err(|unknown| Problem::at("/from", unknown.to_string()))?;
    let complaints = request.input.as_ref().map(|input| input_complaints(&pipeline, input)).unwrap_or_default();
    let complaints: Vec<Complaint> = complaints.into_iter().map(Complaint::from).collect();
    if !complaints.is_empty() {
        let what = format!("pipeline {} does not accept this input", head.pipeline);
        return Err(Problem::complaints(&what, complaints));
    }
    Ok(Signal::Replay { by, reset, input: request.input, sealed: SealedValues::default() })
}

/// Says what happened to a call whose outcome is unknown.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/resolve", tag = "tasks", params(("id" = String, Path, description = "The task")),
    request_body = wire::Resolve,
    responses(
        (status = 200, description = "The task goes on", body = wire::Signalled),
        (status = 202, description = "Its worker takes the answer up", body = wire::Signalled),
        (status = 409, description = "It was said before", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resolve(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(request): Json<wire::Resolve>,
) -> Result<(StatusCode, axum::Json<wire::Signalled>), Problem> {
    let id = task_id(&id)?;
    let happened = match (request.happened, request.result) {
        (true, Some(result)) => Some(result),
        (true, None) => return Err(Problem::at("/result", "say what the call answered (`null` if nothing)")),
        (false, None) => None,
        (false, Some(_)) => return Err(Problem::at("/result", "a call that did not happen has no result")),
    };
    let head = head(&app, id).await?;
    let named = |(step, call): &&(StepKey, _)| {
        *call == request.call && request.step.as_ref().is_none_or(|wanted| wanted == step)
    };
    let mut open = head.unknown_outcomes.iter().filter(named);
    let Some((step, call)) = open.next().cloned() else {
        return Err(not_in_question(&app, id, &request.call).await?);
    };
    if open.next().is_some() {
        return Err(Problem::at("/step", format!("several steps have a call {call} in question; name the step")));
    }
    send(&app, id, Signal::Resolve { step, call, by: by(request.by)?, happened }).await
}

/// Erases the data of a task that is done: of all values and words for people, only digests stay. Its journal still
/// verifies. Labels, names and keys stay, and so do its children, each a task of its own.
#[utoipa::path(
    delete, path = "/v1/tasks/{id}/data", tag = "tasks",
    params(
        ("id" = String, Path, description = "The task"),
        ("by" = Option<String>, Query, description = "Who asks, as they call themselves"),
    ),
    responses(
        (status = 200, description = "It is erased, now or before", body = wire::Erased),
        (status = 409, description = "It is not done", body = wire::Problem, content_type = "application/problem+json"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn erase(
    State(app): State<App>,
    Path(id): Path<String>,
    mut query: Query,
) -> Result<axum::Json<wire::Erased>, Problem> {
    let id = task_id(&id)?;
    let by = by(query.one("by")?)?;
    query.end()?;
    let keep = app.settings().config.sessions.keep.get();
    let now = erasure::erase(app.store(), id, &by, keep).await? == Erasure::Erased;
    Ok(axum::Json(wire::Erased { id, now }))
}

/// Why the outcome of a call is not in question: it is known, or there is no such call.
async fn not_in_question(app: &App, id: TaskId, call: &common::id::CallId) -> Result<Problem, Problem> {
    let known = run(app, id).await?.steps.values().any(|step| step.calls.contains_key(call));
    Ok(if known {
        Problem::new(Kind::Conflict, format!("the outcome of call {call} of task {id} is not in question (any more)"))
    } else {
        Problem::not_found(format!("task {id} has no call {call}"))
    })
}
