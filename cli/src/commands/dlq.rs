//! `teamster dlq`: the dead letters.

use clap::{Args, Subcommand};
use common::id::{PipelineName, QueueName, StepId, TaskId};
use reqwest::Method;
use scheduler::wire::{DeadLetterPage, Replay, ReplayMany, ReplayedMany, Signalled};
use serde_json::{Value, json};

use super::tasks::{self, TasksCommand, signalled};
use super::value::json_argument;
use crate::client::Client;
use crate::context::{Context, by};
use crate::error::{CommandError, Exit};
use crate::output::{cut, duration, note};

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, newest first
    List(ListArgs),
    /// Show a dead letter with its whole history
    Show(tasks::ShowArgs),
    /// Send dead letters on their way again
    #[command(after_help = "What is done stays done: answered model calls and finished steps are not repeated,
unless --from says where to start anew.

Examples:
  teamster dlq replay 0198c0de-…
  teamster dlq replay 0198c0de-… --from crm --input @corrected.json
  teamster dlq replay --all --pipeline lead-intake --reason failed")]
    Replay(ReplayArgs),
    /// Delete a dead letter for good
    Drop(DropArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<PipelineName>,
    /// Only of this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<QueueName>,
    /// Only dead for this reason: failed, timeout, budget, poison, rejected, unreadable, limit
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// At most so many (1 to 1,000)
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The task
    #[arg(value_name = "ID", required_unless_present = "all")]
    id: Option<TaskId>,
    /// This step and all that need it start from nothing
    #[arg(long, value_name = "STEP", conflicts_with = "all")]
    from: Option<StepId>,
    /// A corrected input: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", conflicts_with = "all")]
    input: Option<String>,
    /// Every dead letter that matches, at a bounded rate
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// With --all: only of this pipeline
    #[arg(long, value_name = "NAME", requires = "all")]
    pipeline: Option<PipelineName>,
    /// With --all: only of this queue
    #[arg(long, value_name = "NAME", requires = "all")]
    queue: Option<QueueName>,
    /// With --all: only dead for this reason
    #[arg(long, value_name = "REASON", requires = "all")]
    reason: Option<String>,
    /// Who asks [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
}

pub(crate) async fn run(command: DlqCommand, context: &Context) -> Result<(), CommandError> {
    match command {
        DlqCommand::List(args) => list(args, context).await,
        DlqCommand::Show(args) => tasks::run(TasksCommand::Show(args), context).await,
        DlqCommand::Replay(args) => replay(args, context).await,
        DlqCommand::Drop(args) => drop_letter(args.id, context).await,
    }
}

async fn list(args: ListArgs, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.pipeline.map(|name| ("pipeline", name.to_string())));
    query.extend(args.queue.map(|name| ("queue", name.to_string())));
    query.extend(args.reason.map(|reason| ("reason", reason)));
    let page: DeadLetterPage = client.get("/v1/dead-letters", &query).await?;
    if context.output.json {
        return Ok(context.output.document(&page)?);
    }
    let now = context.clock.now();
    let rows = page
        .dead_letters
        .iter()
        .map(|task| {
            vec![
                task.id.to_string(),
                task.pipeline.to_string(),
                task.dead_reason.map(|reason| reason.to_string()).unwrap_or_default(),
                task.dead_step.as_ref().map(ToString::to_string).unwrap_or_default(),
                duration(now.since(task.updated_at)),
                task.error.as_ref().map(|error| cut(&error.to_string(), 120)).unwrap_or_default(),
            ]
        })
        .collect();
    context.output.table(&["TASK", "PIPELINE", "REASON", "STEP", "SINCE", "ERROR"], rows)?;
    if page.next.is_some() {
        note("there are more; --limit shows up to 1,000");
    }
    Ok(())
}

async fn replay(args: ReplayArgs, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    let by = by(args.by);
    let Some(id) = args.id else {
        return replay_all(&client, context, args.pipeline, args.queue, args.reason, by).await;
    };
    let input: Option<Value> = args.input.as_deref().map(|text| json_argument("--input", text)).transpose()?;
    let body = Replay { from: args.from, input, by };
    let answer: Signalled = client.post(&format!("/v1/dead-letters/{id}/replay"), &body).await?;
    signalled(&answer, "replayed", context.output)
}

async fn replay_all(
    client: &Client,
    context: &Context,
    pipeline: Option<PipelineName>,
    queue: Option<QueueName>,
    reason: Option<String>,
    by: Option<String>,
) -> Result<(), CommandError> {
    let reason = reason
        .map(|text| serde_json::from_value(json!(text)))
        .transpose()
        .map_err(|error| CommandError::usage(format!("--reason: {error}")))?;
    let body = ReplayMany { pipeline, queue, reason, by, ..ReplayMany::default() };
    let answer: ReplayedMany = client.json(client.request(Method::POST, "/v1/dead-letters/replay").json(&body)).await?;
    if context.output.json {
        context.output.document(&answer)?;
    } else {
        for id in &answer.replayed {
            context.output.line(format!("{id} replayed"))?;
        }
        for refused in &answer.refused {
            note(format!("{}: {}", refused.id, refused.reason));
        }
        if answer.more {
            note("there are more that match; run the command again");
        }
    }
    if answer.refused.is_empty() { Ok(()) } else { Err(CommandError::silent(Exit::Refused)) }
}

async fn drop_letter(id: TaskId, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    client.send(client.request(Method::DELETE, &format!("/v1/dead-letters/{id}"))).await?;
    if context.output.json {
        return Ok(context.output.document(&json!({"id": id, "dropped": true}))?);
    }
    Ok(context.output.line(format!("{id} dropped"))?)
}
