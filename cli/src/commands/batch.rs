//! `teamster batch`: a file, one task a row.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use common::id::{BatchId, PipelineName};
use common::span::Span;
use common::task::StateName;
use futures::TryStreamExt;
use reqwest::{Body, Method};
use scheduler::wire::{Batch, BatchReceipt};
use tokio_util::io::ReaderStream;

use crate::client::Client;
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::output::{count, dollars, note};
use crate::progress::Progress;

/// How many refused rows are listed.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster batch lead-intake examples/lead-intake/leads.csv --wait
  teamster batch enrich rows.jsonl --json

The first line of a CSV file names the fields of the input. Rows that are not
valid are listed with their line and make no task; all others do. The same file
again makes no second task. Exit code 4 says that rows were refused.")]
pub(crate) struct BatchArgs {
    /// The pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: PipelineName,
    /// A .csv or .jsonl file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Wait until all of its tasks are done
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this (10s, 5m, 2h); the tasks go on
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Span>,
}

pub(crate) async fn run(args: BatchArgs, context: &Context) -> Result<(), CommandError> {
    let output = context.output;
    let client = context.client().await?;
    let receipt = post(&client, &args.pipeline, &args.file, output.json).await?;
    if !output.json {
        note(summary(&receipt));
        for row in receipt.rejections.iter().take(SHOWN) {
            note(format!("  {}:{}: {}", args.file.display(), row.line, row.reason));
        }
        if receipt.rejected > SHOWN as u64 {
            note(format!("  … and {} more", count(receipt.rejected - SHOWN as u64)));
        }
    }
    if !args.wait {
        if output.json {
            output.document(&receipt)?;
        } else {
            output.line(&receipt.id)?;
        }
        return refused_rows(receipt.rejected);
    }
    let limit = args.timeout.map_or(Duration::MAX, Span::get);
    let Ok(batch) = tokio::time::timeout(limit, wait(&client, &receipt.id, output.json)).await else {
        return Err(CommandError::new(Exit::NotDone, format!("batch {} is not done yet; it goes on", receipt.id)));
    };
    let batch = batch?;
    if output.json {
        output.document(&batch)?;
    } else {
        let rows = batch.tasks.iter().map(|(state, number)| vec![state.to_string(), count(*number)]).collect();
        output.table(&["STATE", "TASKS"], rows)?;
        note(format!("cost: {}", dollars(batch.cost_usd)));
    }
    let lost = |state| batch.tasks.get(&state).copied().unwrap_or(0);
    if lost(StateName::Dead) + lost(StateName::Cancelled) > 0 {
        return Err(CommandError::silent(Exit::Failed));
    }
    refused_rows(batch.rejected)
}

fn refused_rows(rejected: u64) -> Result<(), CommandError> {
    if rejected == 0 { Ok(()) } else { Err(CommandError::silent(Exit::Refused)) }
}

/// What became of the rows, in a sentence.
pub(crate) fn summary(receipt: &BatchReceipt) -> String {
    format!(
        "batch {}: {} tasks accepted, {} known before, {} rows refused",
        receipt.id,
        count(receipt.accepted),
        count(receipt.duplicates),
        count(receipt.rejected)
    )
}

/// Posts a file, as a stream.
pub(crate) async fn post(
    client: &Client,
    pipeline: &PipelineName,
    path: &Path,
    quiet: bool,
) -> Result<BatchReceipt, CommandError> {
    let content_type = match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => "text/csv",
        Some("jsonl" | "ndjson") => "application/x-ndjson",
        _ => {
            return Err(CommandError::usage(format!("{} is neither a .csv nor a .jsonl file", path.display())));
        }
    };
    let unreadable = |error: std::io::Error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        CommandError::new(exit, format!("{}: {error}", path.display()))
    };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    let progress = Progress::bytes("sending", length, quiet);
    let bar = progress.handle();
    let stream = ReaderStream::with_capacity(file, 64 << 10).inspect_ok(move |chunk| bar.inc(chunk.len() as u64));
    let request = client
        .request(Method::POST, "/v1/batches")
        .query(&[("pipeline", pipeline.as_str())])
        .header("content-type", content_type)
        .header("content-length", length)
        .body(Body::wrap_stream(stream));
    let response = client.send(request).await;
    progress.finish();
    let body = response?
        .bytes()
        .await
        .map_err(|error| CommandError::unavailable(format!("the answer broke off ({error}); post the file again")))?;
    serde_json::from_slice(&body)
        .map_err(|error| CommandError::new(Exit::Failed, format!("the answer is not what was expected: {error}")))
}

/// Waits until all tasks of a batch are done, with a progress bar.
async fn wait(client: &Client, batch: &BatchId, quiet: bool) -> Result<Batch, CommandError> {
    let mut progress: Option<Progress> = None;
    loop {
        let status: Batch = client.get(&format!("/v1/batches/{batch}"), &[]).await?;
        let progress = progress.get_or_insert_with(|| Progress::new("tasks", status.total, quiet));
        let done: u64 = status.tasks.iter().filter(|(state, _)| state.is_terminal()).map(|(_, number)| number).sum();
        let waiting = status.tasks.get(&StateName::Waiting).copied().unwrap_or(0);
        let message = if waiting > 0 { format!("{} waiting", count(waiting)) } else { String::new() };
        progress.set(done, &message);
        if status.done {
            progress.finish();
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
