//! Batches: a file of rows in, progress and results out.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use common::id::{BatchId, InvalidId, PipelineName};
use common::journal::Event;
use common::store::{BatchRow, BatchRowState, OpenBatch, StoreError};
use common::task::{Head, State as TaskState};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::body::{media_type, wrong_type};
use super::query::Query;
use crate::app::App;
use crate::batch::csv::Csv;
use crate::batch::jsonl::JsonLines;
use crate::batch::key::{Keys, ROWS};
use crate::batch::load::{LoadError, Loader, Plan};
use crate::batch::{Reader, RowLimits};
use crate::private;
use crate::problem::{Kind, Problem};
use crate::wire;

/// Bytes a second that a sender must keep up with on average, after the first minute.
const SLOWEST: u64 = 1_024;
/// How long a sender may take to get going.
const START: Duration = Duration::from_secs(60);
/// Rows of results that are read from the store at once.
const PAGE: usize = 500;

/// Submits a task for each row of a file. Everything in the answer is durable;
/// the same rows posted again make no second task.
#[utoipa::path(
    post, path = "/v1/batches", tag = "batches",
    params(
        ("pipeline" = String, Query, description = "The pipeline that the rows are for"),
        ("id" = Option<String>, Query, description = "The id of the batch; by default a new one for each post"),
        ("run" = Option<String>, Query, description = "Another run makes new tasks of rows that were submitted before"),
        ("key" = Option<String>, Query, description = "The column that holds the idempotency key; by default the whole row is it"),
        ("queue" = Option<String>, Query, description = "Where the tasks queue"),
        ("priority" = Option<u8>, Query, description = "Their priority, 0 to 9"),
        ("label" = Option<Vec<String>>, Query, description = "A label for all of them, as NAME:VALUE; may be repeated"),
    ),
    request_body(
        description = "JSON Lines, or CSV with a header",
        content((String = "application/x-ndjson"), (String = "text/csv")),
    ),
    responses(
        (status = 202, description = "At least one row made a new task", body = wire::BatchReceipt),
        (status = 200, description = "No row made a new task", body = wire::BatchReceipt),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn post(
    State(app): State<App>,
    mut query: Query,
    request: Request,
) -> Result<(StatusCode, axum::Json<wire::BatchReceipt>), Problem> {
    let pipeline: PipelineName = query
        .one("pipeline")?
        .ok_or_else(|| Problem::invalid("the query parameter pipeline is missing: /v1/batches?pipeline=NAME"))?;
    let id = query.one("id")?;
    let run: Option<String> = query.one("run")?;
    let column: Option<String> = query.one("key")?;
    let (queue, priority, labels) = (query.one("queue")?, query.one("priority")?, query.labels()?);
    query.end()?;
    if column.is_some() && run.is_some() {
        return Err(Problem::invalid("the query parameters key and run exclude each other: a key column says it all"));
    }
    let pipeline = app.catalog().current(&pipeline).await?;
    let limits = app.settings().config.limits;
    let row_limits = RowLimits { bytes: limits.input.bytes(), depth: limits.json_depth };
    let mut reader: Box<dyn Reader> = match media_type(request.headers()).as_str() {
        "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Box::new(JsonLines::new(row_limits))
        }
        "text/csv" => Box::new(Csv::new(row_limits, pipeline.input.as_ref().map(|input| &input.schema))),
        other => return Err(wrong_type(other, "application/x-ndjson or text/csv")),
    };
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.batch_body.0) {
        return Err(too_large(limits.batch_body.0));
    }
    let id = match id {
        Some(id) => id,
        None => BatchId::new(app.task_id().to_string()).map_err(|error| Problem::invalid(error.to_string()))?,
    };
    let name = pipeline.name.clone();
    app.store().open_batch(OpenBatch { id: id.clone(), pipeline: name.clone() }).await?;
    let keys = column.map_or_else(|| Keys::of_content(&name, run.as_deref()), Keys::Column);
    let mut loader = Loader::new(app.clone(), Plan { id, pipeline, queue, priority, labels }, keys);
    match load(&app, request.into_body(), limits.batch_body.0, &mut *reader, &mut loader).await {
        Ok(receipt) => {
            let status = if receipt.accepted > 0 { StatusCode::ACCEPTED } else { StatusCode::OK };
            Ok((status, axum::Json(receipt)))
        }
        Err(problem) => {
            // What was read is not thrown away; the answer says how much of it is safe.
            let _ = loader.settle().await;
            let durable = loader.durable();
            Err(problem.and(&format!("; {durable} rows are durable, and the same file can be posted again without making a second task of any")))
        }
    }
}

async fn load(
    app: &App,
    body: Body,
    limit: u64,
    reader: &mut dyn Reader,
    loader: &mut Loader,
) -> Result<wire::BatchReceipt, Problem> {
    let patience = app.http().body_timeout;
    let began = Instant::now();
    let mut received: u64 = 0;
    let mut rows = Vec::new();
    let mut pieces = body.into_data_stream();
    loop {
        let piece = match tokio::time::timeout(patience, pieces.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => return Err(Problem::new(Kind::Malformed, format!("the body broke off: {error}"))),
            Ok(None) => break,
            Err(_) => {
                return Err(Problem::new(Kind::Timeout, format!("nothing came for {} s", patience.as_secs_f32())));
            }
        };
        received += piece.len() as u64;
        if received > limit {
            return Err(too_large(limit));
        }
        if began.elapsed() > START + Duration::from_secs(received / SLOWEST) {
            return Err(Problem::new(Kind::Timeout, format!("the body came slower than {SLOWEST} bytes a second")));
        }
        reader.push(&piece, &mut rows).map_err(Problem::invalid)?;
        loader.take(&mut rows).await.map_err(problem)?;
    }
    reader.finish(&mut rows).map_err(Problem::invalid)?;
    loader.take(&mut rows).await.map_err(problem)?;
    loader.finish().await.map_err(problem)
}

fn too_large(limit: u64) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body is larger than {limit} bytes (limits.batch_body)"))
}

fn problem(error: LoadError) -> Problem {
    match error {
        LoadError::Store(error) => error.into(),
        LoadError::TooManyRows => Problem::new(Kind::TooLarge, format!("the file has more than {ROWS} rows; split it")),
    }
}

fn batch_id(text: &str) -> Result<BatchId, Problem> {
    text.parse().map_err(|error: InvalidId| Problem::not_found(error.to_string()))
}

/// Shows how far a batch is.
#[utoipa::path(
    get, path = "/v1/batches/{id}", tag = "batches", params(("id" = String, Path, description = "The batch")),
    responses(
        (status = 200, body = wire::Batch),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<axum::Json<wire::Batch>, Problem> {
    let id = batch_id(&id)?;
    let status = app.store().batch(&id).await?;
    status.map(|status| axum::Json(status.into())).ok_or_else(|| Problem::not_found(format!("there is no batch {id}")))
}

/// Reads what became of each row, as JSON Lines in the order of the file.
#[utoipa::path(
    get, path = "/v1/batches/{id}/results", tag = "batches",
    params(
        ("id" = String, Path, description = "The batch"),
        ("after" = Option<u64>, Query, description = "Only rows after this line"),
    ),
    responses(
        (status = 200, description = "One object a line", body = wire::BatchResult, content_type = "application/x-ndjson"),
        (status = "default", description = "An error", body = wire::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn results(
    State(app): State<App>,
    Path(id): Path<String>,
    mut query: Query,
) -> Result<Response, Problem> {
    let after = query.one("after")?.unwrap_or(0);
    query.end()?;
    let id = batch_id(&id)?;
    if app.store().batch(&id).await?.is_none() {
        return Err(Problem::not_found(format!("there is no batch {id}")));
    }
    let pages = stream::unfold(Some((app, id, after)), |at| async move {
        let (app, id, after) = at?;
        match page(&app, &id, after).await {
            Ok((_, None)) => None,
            Ok((lines, Some(last))) => Some((Ok(lines), Some((app, id, last)))),
            // The answer has begun: all that is left is to break it off, so that it is not taken for whole.
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pages)).into_response())
}

/// The next rows, and the line of the last one; none at the end.
async fn page(app: &App, id: &BatchId, after: u64) -> Result<(Bytes, Option<u64>), StoreError> {
    let rows = app.store().batch_rows(id, after, PAGE).await?;
    let last = rows.last().map(|row| row.line);
    let mut lines = Vec::new();
    for row in rows {
        let result = result(app, row).await?;
        serde_json::to_writer(&mut lines, &result).map_err(|error| StoreError::Damaged(error.to_string()))?;
        lines.push(b'\n');
    }
    Ok((lines.into(), last))
}

async fn result(app: &App, row: BatchRow) -> Result<wire::BatchResult, StoreError> {
    let mut result = wire::BatchResult {
        line: row.line,
        id: None,
        state: String::new(),
        output: None,
        error: None,
        dead_reason: None,
        cost_usd: None,
    };
    match row.state {
        BatchRowState::Rejected(reason) => {
            "rejected".clone_into(&mut result.state);
            result.error = Some(reason);
        }
        BatchRowState::Removed(task) => {
            "removed".clone_into(&mut result.state);
            result.id = Some(task);
        }
        BatchRowState::Task(head) => {
            result.id = Some(head.id);
            head.state.name().as_str().clone_into(&mut result.state);
            result.cost_usd = Some(head.usage.cost_usd);
            match &head.state {
                TaskState::Succeeded { .. } => result.output = output(app, &head).await?,
                TaskState::Cancelled { reason, .. } => result.error = Some(reason.clone()),
                TaskState::Dead { reason, error, .. } => {
                    result.error = Some(error.to_string());
                    result.dead_reason = Some(*reason);
                }
                _ => {}
            }
        }
    }
    Ok(result)
}

/// The output of a task that succeeded: nothing can follow the event that says so.
async fn output(app: &App, head: &Head) -> Result<Option<serde_json::Value>, StoreError> {
    let last = app.store().journal(head.id, head.version.saturating_sub(1), 1).await?;
    let output = last.into_iter().find_map(|recorded| match recorded.event {
        Event::Succeeded { output } => Some(output),
        _ => None,
    });
    match output {
        Some(output) => private::output_of(app, head, output).await.map(Some),
        None => Ok(None),
    }
}
