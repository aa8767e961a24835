//! `teamster tasks show`: one task, its steps and what happened to it.

use common::clock::Timestamp;
use common::task::StateName;
use scheduler::wire::{Step, StepState, Task, TaskSummary};

use super::{ShowArgs, journal, state};
use crate::client::Client;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{Output, Tone, count, cut, dollars, duration};
use crate::timeline::{Entry, next_commands, timeline};

pub(super) async fn show(args: &ShowArgs, client: &Client, context: &Context) -> Result<(), CommandError> {
    let output = context.output;
    let task: Task = client.get(&format!("/v1/tasks/{}", args.id), &[]).await?;
    if output.json && !args.journal {
        return Ok(output.document(&task)?);
    }
    let journal = journal(client, args.id).await?;
    if args.journal {
        for recorded in &journal {
            output.record(recorded)?;
        }
        return Ok(());
    }
    head(&task.summary, context.clock.now(), output)?;
    output.line(format!("{:>10}  {}", "input", cut(&task.input.to_string(), 400)))?;
    steps(&task, output)?;
    output.line("")?;
    let start = task.summary.created_at;
    for entry in timeline(&journal) {
        line(&entry, start, output)?;
    }
    if let Some(result) = &task.output {
        output.line("")?;
        output.line(output.paint(Tone::Bold, "Output"))?;
        output.document(result)?;
    }
    if let Some(error) = &task.summary.error {
        output.line("")?;
        output.line(output.paint(Tone::Bad, &format!("Dead: {error}")))?;
        if let Some(detail) = &error.detail {
            output.document(detail)?;
        }
    }
    let commands = next_commands(&task.summary);
    if !commands.is_empty() {
        output.line("")?;
        output.line(output.paint(Tone::Bold, "What you can do"))?;
        for command in commands {
            output.line(format!("  {command}"))?;
        }
    }
    Ok(())
}

fn head(task: &TaskSummary, now: Timestamp, output: Output) -> Result<(), CommandError> {
    let field = |name: &str, value: String| output.line(format!("{name:>10}  {value}"));
    let tone = match task.state {
        StateName::Succeeded => Tone::Good,
        StateName::Dead => Tone::Bad,
        StateName::Cancelled | StateName::Waiting => Tone::Warn,
        _ => Tone::Plain,
    };
    field("task", output.paint(Tone::Bold, &task.id.to_string()))?;
    field("state", output.paint(tone, &state(task)))?;
    field("pipeline", format!("{}@{} on queue {}", task.pipeline, task.digest.short(), task.queue))?;
    field("accepted", format!("{} ({} ago)", task.created_at, duration(now.since(task.created_at))))?;
    if let Some(at) = task.erased_at {
        field("erased", at.to_string())?;
    }
    if let Some(at) = task.due_at {
        field("due", at.to_string())?;
    }
    if let Some(worker) = &task.worker {
        field("worker", worker.to_string())?;
    }
    if let Some(key) = &task.idempotency_key {
        field("key", key.to_string())?;
    }
    if let Some(parent) = &task.parent {
        field("parent", format!("{} (step {})", parent.task, parent.step))?;
    }
    if let Some(batch) = &task.batch {
        field("batch", batch.to_string())?;
    }
    if !task.labels.is_empty() {
        let labels: Vec<String> = task.labels.iter().map(|(k, v)| format!("{}={}", cut(k, 80), cut(v, 80))).collect();
        field("labels", labels.join(" "))?;
    }
    let leases = if task.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", task.attempts) };
    field("cost", format!("{} for {} tokens, {leases}", dollars(task.cost_usd), count(task.tokens)))?;
    if let Some(reason) = &task.cancel_reason {
        field("cancelled", cut(reason, 400))?;
    }
    Ok(())
}

fn steps(task: &Task, output: Output) -> Result<(), CommandError> {
    output.line("")?;
    let rows = task
        .steps
        .iter()
        .map(|step| {
            let took = match (step.started_at, step.finished_at) {
                (Some(start), Some(end)) => duration(end.since(start)),
                _ => String::new(),
            };
            let result = match (&step.error, &step.output) {
                (Some(error), _) => error.to_string(),
                (None, Some(output)) => output.to_string(),
                (None, None) => String::new(),
            };
            vec![
                step.id.to_string(),
                step_state(step.status).to_owned(),
                took,
                step.tries.to_string(),
                step.turns.map(|turns| turns.to_string()).unwrap_or_default(),
                models(step),
                cut(&result, 100),
            ]
        })
        .collect();
    Ok(output.table(&["STEP", "STATUS", "TOOK", "TRIES", "TURNS", "MODEL", "RESULT"], rows)?)
}

/// The models of a step in the order in which they were asked, and who answered instead.
fn models(step: &Step) -> String {
    let asked: Vec<String> = step.models_before.iter().chain(&step.model).map(|name| cut(name, 40)).collect();
    let answered = step.answered_by.as_ref().map(|name| format!(" (answered: {})", cut(name, 40)));
    format!("{}{}", asked.join(" > "), answered.unwrap_or_default())
}

const fn step_state(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "pending",
        StepState::Started => "started",
        StepState::Retrying => "retrying",
        StepState::Succeeded => "succeeded",
        StepState::Failed => "failed",
        StepState::Skipped => "skipped",
    }
}

pub(super) fn line(entry: &Entry, start: Timestamp, output: Output) -> Result<(), CommandError> {
    let offset = format!("+{}", duration(entry.at.since(start)));
    let text = output.paint(entry.tone, &entry.text);
    Ok(output.line(format!("{} {:<14} {text}", output.paint(Tone::Dim, &format!("{offset:>12}")), entry.subject))?)
}
