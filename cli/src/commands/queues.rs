//! `teamster queues`: list, pause, resume.

use clap::{Args, Subcommand};
use common::id::QueueName;
use common::task::StateName;
use reqwest::Method;
use scheduler::wire::{HaltList, QueueList, QueuePaused};

use super::halt::sentence;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{count, duration, note};

#[derive(Debug, Subcommand)]
pub(crate) enum QueuesCommand {
    /// List queues with their depth
    List,
    /// Take no more tasks from a queue; they are still accepted
    Pause(NameArgs),
    /// Take tasks from a queue again
    Resume(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    name: QueueName,
}

pub(crate) async fn run(command: QueuesCommand, context: &Context) -> Result<(), CommandError> {
    match command {
        QueuesCommand::List => list(context).await,
        QueuesCommand::Pause(args) => set(&args.name, "pause", context).await,
        QueuesCommand::Resume(args) => set(&args.name, "resume", context).await,
    }
}

async fn list(context: &Context) -> Result<(), CommandError> {
    let list: QueueList = context.client().await?.get("/v1/queues", &[]).await?;
    if context.output.json {
        return Ok(context.output.document(&list)?);
    }
    let halts: HaltList = context.client().await?.get("/v1/halt", &[]).await?;
    for halt in halts.halts.iter().filter(|halt| halt.in_force) {
        note(sentence(halt));
    }
    let now = context.clock.now();
    let shown = [StateName::Scheduled, StateName::Ready, StateName::Running, StateName::Waiting, StateName::Dead];
    let rows = list
        .queues
        .iter()
        .map(|queue| {
            let mut row = vec![queue.name.to_string(), if queue.paused { "yes" } else { "no" }.to_owned()];
            row.extend(shown.iter().map(|state| count(queue.depth.get(state).copied().unwrap_or(0))));
            row.push(queue.oldest_ready.map(|since| duration(now.since(since))).unwrap_or_default());
            row
        })
        .collect();
    let headings = ["QUEUE", "PAUSED", "SCHEDULED", "READY", "RUNNING", "WAITING", "DEAD", "OLDEST READY"];
    Ok(context.output.table(&headings, rows)?)
}

async fn set(queue: &QueueName, verb: &str, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    let answer: QueuePaused = client.json(client.request(Method::POST, &format!("/v1/queues/{queue}/{verb}"))).await?;
    if context.output.json {
        return Ok(context.output.document(&answer)?);
    }
    let state = if answer.paused { "paused: tasks are accepted, none is taken" } else { "running" };
    Ok(context.output.line(format!("queue {} is {state}", answer.name))?)
}
