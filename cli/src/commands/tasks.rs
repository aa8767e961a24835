//! `teamster tasks`: list, show, watch, wake, cancel, retry, raise, resolve, erase.

mod show;

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use common::clock::Timestamp;
use common::id::{CallId, PipelineName, QueueName, StepKey, TaskId};
use common::journal::Recorded;
use common::task::StateName;
use eventsource_stream::Eventsource;
use futures::StreamExt;
use reqwest::Method;
use scheduler::wire::{Cancel, Erased, JournalPage, Raise, Replay, Resolve, Signalled, Task, TaskPage, TaskSummary};
use serde_json::Value;

use super::value::{Label, json_argument};
use crate::client::Client;
use crate::context::{Context, by};
use crate::error::{CommandError, Exit};
use crate::output::{Output, count, dollars, duration, note};
use crate::timeline::timeline;

/// How many events of a journal are asked for at once.
const JOURNAL_PAGE: usize = 1_000;
/// How often a watch that broke off is taken up again before it gives up.
const RECONNECTS: u32 = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// List tasks, newest first
    #[command(after_help = "Examples:
  teamster tasks list --state dead,waiting --pipeline lead-intake
  teamster tasks list --label region=emea --limit 1000 --json | jq -r '.tasks[].id'")]
    List(ListArgs),
    /// Show a task: its steps, every attempt, model call and tool call, and what to do next
    Show(ShowArgs),
    /// Follow a task until it is done
    Watch(IdArgs),
    /// Cancel a task: at once, or at its next checkpoint if a worker holds it
    Cancel(CancelArgs),
    /// Send a dead or cancelled task on its way again; what is done stays done
    Retry(RetryArgs),
    /// Give a task more to spend: it and each of its steps
    #[command(
        after_help = "A task that waits for room in its own budget goes on with it; a dead one can be replayed then.

Examples:
  teamster tasks raise 0198c0de-… --usd 0.50
  teamster tasks raise 0198c0de-… --tokens 100000"
    )]
    Raise(RaiseArgs),
    /// End the waiting of a task now: it looks again whether it can go on
    Wake(IdArgs),
    /// Say what happened to a call whose outcome is unknown
    #[command(after_help = "A call of effect class `once` was started and its worker was lost before the answer.
Nobody but you can know whether it happened: look at the other side, then say so.

Examples:
  teamster tasks resolve 0198c0de-… --call crm --happened yes --result '{\"id\": 42}'
  teamster tasks resolve 0198c0de-… --call crm --happened no      # it is made again")]
    Resolve(ResolveArgs),
    /// Erase the data of a task that is done; its journal still verifies
    #[command(after_help = "In the place of every value and of every text for people stands its digest. The task is
still listed, with its pipeline, labels, times and costs, and cannot be replayed.
Children are tasks of their own. Large values that lay beside the journal go with the
next sweep after an hour, if no other task uses them. Backups, logs and traces are
not touched, nor what the store itself keeps of old versions until it cleans up
(the WAL of SQLite, the append-only file of Redis, dead rows of Postgres).

Examples:
  teamster tasks erase 0198c0de-… --yes")]
    Erase(EraseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only in these states: scheduled, ready, running, waiting, succeeded, cancelled, dead
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<StateName>,
    /// Only of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<PipelineName>,
    /// Only in this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<QueueName>,
    /// Only with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<Label>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
    /// Print the whole journal, a JSON object a line
    #[arg(long)]
    journal: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who asks [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
    /// Who asks [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("more").args(["usd", "tokens"]).required(true).multiple(true)))]
pub(crate) struct RaiseArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
    /// Dollars more
    #[arg(long, value_name = "N")]
    usd: Option<f64>,
    /// Tokens more, in and out
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Who asks [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EraseArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
    /// Yes, erase it: there is no way back
    #[arg(long)]
    yes: bool,
    /// Who asks [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Happened {
    /// It happened; --result is what it answered
    Yes,
    /// It did not; it is made again
    No,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// The task
    #[arg(value_name = "ID")]
    id: TaskId,
    /// The call, as `teamster tasks show` names it
    #[arg(long, value_name = "CALL")]
    call: CallId,
    /// The step that made it, if two steps have a call of that name
    #[arg(long, value_name = "STEP")]
    step: Option<StepKey>,
    /// Whether it happened
    #[arg(long, value_enum)]
    happened: Happened,
    /// What it answered: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON")]
    result: Option<String>,
    /// Who says so [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

pub(crate) async fn run(command: TasksCommand, context: &Context) -> Result<(), CommandError> {
    if let TasksCommand::Erase(EraseArgs { id, yes: false, .. }) = &command {
        return Err(CommandError::usage(format!("what is erased does not come back: say --yes to erase task {id}")));
    }
    let client = context.client().await?;
    match command {
        TasksCommand::List(args) => list(args, &client, context).await,
        TasksCommand::Show(args) => show::show(&args, &client, context).await,
        TasksCommand::Watch(args) => watch(args.id, &client, context.output).await,
        TasksCommand::Cancel(args) => {
            let body = Cancel { reason: args.reason, by: by(args.by) };
            signalled(&client.post(&format!("/v1/tasks/{}/cancel", args.id), &body).await?, "cancelled", context.output)
        }
        TasksCommand::Retry(args) => {
            let body = Replay { by: by(args.by), ..Replay::default() };
            signalled(&client.post(&format!("/v1/tasks/{}/retry", args.id), &body).await?, "replayed", context.output)
        }
        TasksCommand::Raise(args) => {
            let body = Raise { usd: args.usd, tokens: args.tokens, by: by(args.by) };
            signalled(&client.post(&format!("/v1/tasks/{}/raise", args.id), &body).await?, "raised", context.output)
        }
        TasksCommand::Wake(args) => {
            let request = client.request(Method::POST, &format!("/v1/tasks/{}/wake", args.id));
            signalled(&client.json(request).await?, "woken", context.output)
        }
        TasksCommand::Resolve(args) => resolve(args, &client, context).await,
        TasksCommand::Erase(args) => erase(args, &client, context.output).await,
    }
}

async fn erase(args: EraseArgs, client: &Client, output: Output) -> Result<(), CommandError> {
    let by: Vec<(&str, String)> = by(args.by).map(|by| ("by", by)).into_iter().collect();
    let request = client.request(Method::DELETE, &format!("/v1/tasks/{}/data", args.id)).query(&by);
    let erased: Erased = client.json(request).await?;
    if output.json {
        return Ok(output.document(&erased)?);
    }
    Ok(output.line(format!("{} {}", erased.id, if erased.now { "erased" } else { "was erased before" }))?)
}

async fn list(args: ListArgs, client: &Client, context: &Context) -> Result<(), CommandError> {
    let mut query = Vec::new();
    if !args.state.is_empty() {
        let names: Vec<&str> = args.state.iter().map(|state| state.as_str()).collect();
        query.push(("state", names.join(",")));
    }
    query.extend(args.pipeline.map(|name| ("pipeline", name.to_string())));
    query.extend(args.queue.map(|name| ("queue", name.to_string())));
    query.extend(args.label.iter().map(|label| ("label", format!("{}:{}", label.name, label.value))));
    let page: TaskPage = pages(client, "/v1/tasks", &query, args.limit).await?;
    if context.output.json {
        return Ok(context.output.document(&page)?);
    }
    let now = context.clock.now();
    let rows = page.tasks.iter().map(|task| row(task, now)).collect();
    context.output.table(&["TASK", "PIPELINE", "QUEUE", "STATE", "AGE", "ATTEMPTS", "TOKENS", "COST"], rows)?;
    if page.next.is_some() {
        note(format!("there are more; --limit {} shows more of them", args.limit * 10));
    }
    Ok(())
}

/// Up to `limit` tasks, page by page.
async fn pages(client: &Client, path: &str, query: &[(&str, String)], limit: u64) -> Result<TaskPage, CommandError> {
    let mut all = TaskPage { tasks: Vec::new(), next: None };
    loop {
        let wanted = limit.saturating_sub(all.tasks.len() as u64).min(1_000);
        let mut query = query.to_vec();
        query.push(("limit", wanted.to_string()));
        query.extend(all.next.take().map(|cursor| ("cursor", cursor)));
        let page: TaskPage = client.get(path, &query).await?;
        let last = page.tasks.is_empty();
        all.tasks.extend(page.tasks);
        all.next = page.next;
        if last || all.next.is_none() || all.tasks.len() as u64 >= limit {
            return Ok(all);
        }
    }
}

fn row(task: &TaskSummary, now: Timestamp) -> Vec<String> {
    vec![
        task.id.to_string(),
        task.pipeline.to_string(),
        task.queue.to_string(),
        state(task),
        duration(now.since(task.created_at)),
        task.attempts.to_string(),
        count(task.tokens),
        dollars(task.cost_usd),
    ]
}

/// A state with what is worth knowing of it.
pub(super) fn state(task: &TaskSummary) -> String {
    let more = match task.state {
        StateName::Waiting if !task.waiting_on.is_empty() => task.waiting_on.join(", "),
        StateName::Dead => task.dead_reason.map(|reason| reason.to_string()).unwrap_or_default(),
        StateName::Running if task.cancel_requested => "cancel requested".to_owned(),
        _ => String::new(),
    };
    let more = if task.erased_at.is_none() {
        more
    } else if more.is_empty() {
        "erased".to_owned()
    } else {
        format!("{more}, erased")
    };
    if more.is_empty() { task.state.to_string() } else { format!("{} ({more})", task.state) }
}

/// The whole journal of a task.
pub(crate) async fn journal(client: &Client, task: TaskId) -> Result<Vec<Recorded>, CommandError> {
    let mut events: Vec<Recorded> = Vec::new();
    loop {
        let after = events.last().map_or(0, |last| last.seq);
        let query = [("after", after.to_string()), ("limit", JOURNAL_PAGE.to_string())];
        let page: JournalPage = client.get(&format!("/v1/tasks/{task}/journal"), &query).await?;
        let last = page.events.is_empty() || page.next.is_none();
        events.extend(page.events);
        if last {
            return Ok(events);
        }
    }
}

/// Follows the live events; taken up again where it broke off.
async fn watch(task: TaskId, client: &Client, output: Output) -> Result<(), CommandError> {
    let mut seen = 0_u64;
    let mut start = None;
    let mut broken = 0;
    loop {
        let mut request = client.request(Method::GET, &format!("/v1/tasks/{task}/events"));
        if seen > 0 {
            request = request.header("last-event-id", seen.to_string());
        }
        let response = match client.send(request).await {
            Ok(response) => response,
            Err(error) if error.exit == Exit::Unavailable && seen > 0 && broken < RECONNECTS => {
                broken += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut events = response.bytes_stream().eventsource();
        while let Some(Ok(event)) = events.next().await {
            let Ok(recorded) = serde_json::from_str::<Recorded>(&event.data) else { continue };
            if recorded.seq <= seen {
                continue;
            }
            seen = recorded.seq;
            broken = 0;
            let begun = *start.get_or_insert(recorded.at);
            if output.json {
                output.record(&recorded)?;
            } else if let Some(entry) = timeline(std::slice::from_ref(&recorded)).pop() {
                show::line(&entry, begun, output)?;
            }
        }
        let summary: TaskSummary = client.get(&format!("/v1/tasks/{task}"), &[]).await?;
        if summary.state.is_terminal() && summary.version <= seen {
            return outcome(summary.state);
        }
        broken += 1;
        if broken > RECONNECTS {
            return Err(CommandError::unavailable(format!("the events of task {task} break off again and again")));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The exit code by how a task ended.
pub(super) fn outcome(state: StateName) -> Result<(), CommandError> {
    match state {
        StateName::Dead => Err(CommandError::silent(Exit::Failed)),
        StateName::Cancelled => Err(CommandError::silent(Exit::Cancelled)),
        _ => Ok(()),
    }
}

/// Waits until a task is done.
pub(super) async fn wait(client: &Client, task: TaskId) -> Result<Task, CommandError> {
    let mut pause = Duration::from_millis(50);
    loop {
        let task: Task = client.get(&format!("/v1/tasks/{task}"), &[]).await?;
        if task.summary.state.is_terminal() {
            return Ok(task);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

pub(super) fn signalled(answer: &Signalled, done: &str, output: Output) -> Result<(), CommandError> {
    if output.json {
        return Ok(output.document(answer)?);
    }
    let text = if answer.applied {
        format!("{} {done}; it is {} now", answer.id, answer.state)
    } else {
        format!("{}: a worker holds it and takes this up at its next checkpoint", answer.id)
    };
    Ok(output.line(text)?)
}

async fn resolve(args: ResolveArgs, client: &Client, context: &Context) -> Result<(), CommandError> {
    let result: Option<Value> = args.result.as_deref().map(|text| json_argument("--result", text)).transpose()?;
    let happened = match (args.happened, &result) {
        (Happened::Yes, None) => {
            return Err(CommandError::usage(
                "--happened yes needs --result JSON: what the call answered, or null if that does not matter",
            ));
        }
        (Happened::No, Some(_)) => {
            return Err(CommandError::usage("--happened no takes no --result: the call is made again"));
        }
        (Happened::Yes, Some(_)) => true,
        (Happened::No, None) => false,
    };
    let body = Resolve { call: args.call, step: args.step, happened, result, by: by(args.by) };
    signalled(&client.post(&format!("/v1/tasks/{}/resolve", args.id), &body).await?, "resolved", context.output)
}
