//! `teamster submit`: one task.

use std::time::Duration;

use clap::Args;
use common::clock::Timestamp;
use common::id::{IdempotencyKey, PipelineName, QueueName};
use common::span::Span;
use scheduler::wire::{SubmitTask, Submitted};
use serde_json::{Value, json};

use super::tasks;
use super::value::{Label, json_argument};
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::output::{Tone, note};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster submit hello --input '{\"name\": \"Ada\"}' --wait
  teamster submit lead-intake --input @lead.json --key lead-4711
  jq -c .lead message.json | teamster submit lead-intake --input - --label source=mail

The same --key for the same pipeline is answered with the same task, however
often it is submitted. With --wait the exit code says how the task ended.")]
pub(crate) struct SubmitArgs {
    /// The pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: PipelineName,
    /// The input: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    input: String,
    /// The idempotency key
    #[arg(long, value_name = "KEY")]
    key: Option<IdempotencyKey>,
    /// The queue [default: as the pipeline says]
    #[arg(long, value_name = "NAME")]
    queue: Option<QueueName>,
    /// 0 (last) to 9 (first) [default: as the pipeline says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Not before this time, in RFC 3339 (2026-11-21T08:00:00Z)
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// A label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<Label>,
    /// Wait until the task is done and print its output
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this (10s, 5m, 2h); the task goes on
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Span>,
}

pub(crate) async fn run(args: SubmitArgs, context: &Context) -> Result<(), CommandError> {
    let output = context.output;
    let body = SubmitTask {
        pipeline: args.pipeline,
        input: json_argument("--input", &args.input)?,
        idempotency_key: args.key,
        queue: args.queue,
        priority: args.priority,
        run_at: args.at,
        labels: args.label.into_iter().map(|label| (label.name, label.value)).collect(),
    };
    let client = context.client().await?;
    let submitted: Submitted = client.post("/v1/tasks", &body).await?;
    if !args.wait {
        if output.json {
            return Ok(output.document(&submitted)?);
        }
        output.line(format!("{} {}", submitted.id, submitted.state))?;
        return Ok(());
    }
    if !output.json {
        note(format!("task {} is {}; waiting for it", submitted.id, submitted.state));
    }
    let limit = args.timeout.map_or(Duration::MAX, Span::get);
    let Ok(task) = tokio::time::timeout(limit, tasks::wait(&client, submitted.id)).await else {
        let message =
            format!("task {} is not done yet; it goes on: teamster tasks watch {}", submitted.id, submitted.id);
        return Err(CommandError::new(Exit::NotDone, message));
    };
    let task = task?;
    if output.json {
        output.document(&task)?;
    } else if let Some(result) = &task.output {
        output.document(result)?;
    } else {
        let error = task.summary.error.as_ref().map_or(Value::Null, |error| json!(error.to_string()));
        note(output.paint(Tone::Bad, &format!("task {} is {}: {error}", submitted.id, tasks::state(&task.summary))));
        note(format!("look at it with: teamster tasks show {}", submitted.id));
    }
    tasks::outcome(task.summary.state)
}
