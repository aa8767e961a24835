//! `teamster halt` and `teamster unhalt`: the emergency stop.

use clap::Args;
use common::id::PipelineName;
use reqwest::Method;
use scheduler::wire::{BeginHalt, Halt, HaltList};

use crate::context::{Context, by};
use crate::error::CommandError;
use crate::output::{Output, cut};

#[derive(Debug, Args)]
#[command(after_help = "Within 2 s, no worker starts a model or tool call. Calls that are under way end and are
written down, then their tasks wait. Tasks that come are accepted and wait. Nothing
is lost: `teamster unhalt` goes on with all of it.

Examples:
  teamster halt --reason \"the drafter writes nonsense\" --pipeline lead-intake
  teamster halt --reason \"the account is on fire\"
  teamster halt --show")]
pub(crate) struct HaltArgs {
    /// Only this pipeline, not the whole fleet
    #[arg(long, value_name = "NAME")]
    pipeline: Option<PipelineName>,
    /// Why; kept and shown
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who asks [default: the user]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Halt nothing; show what is or was halted, by whom, when and why
    #[arg(long, conflicts_with_all = ["pipeline", "reason", "by"])]
    show: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster unhalt
  teamster unhalt --pipeline lead-intake

A halt of the fleet and one of a pipeline are two: each is lifted by itself.")]
pub(crate) struct UnhaltArgs {
    /// The halt of this pipeline, not that of the fleet
    #[arg(long, value_name = "NAME")]
    pipeline: Option<PipelineName>,
    /// Who asks [default: the user]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

pub(crate) async fn halt(args: HaltArgs, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    if args.show {
        return show(context.output, &client.get("/v1/halt", &[]).await?);
    }
    let body = BeginHalt { pipeline: args.pipeline, reason: args.reason, by: by(args.by) };
    let halt: Halt = client.post("/v1/halt", &body).await?;
    if context.output.json {
        return Ok(context.output.document(&halt)?);
    }
    let lift = halt.pipeline.as_ref().map(|pipeline| format!(" --pipeline {pipeline}")).unwrap_or_default();
    Ok(context.output.line(format!("{}; `teamster unhalt{lift}` goes on", sentence(&halt)))?)
}

pub(crate) async fn unhalt(args: UnhaltArgs, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(args.pipeline.map(|pipeline| ("pipeline", pipeline.to_string())));
    query.extend(by(args.by).map(|by| ("by", by)));
    let halt: Halt = client.json(client.request(Method::DELETE, "/v1/halt").query(&query)).await?;
    if context.output.json {
        return Ok(context.output.document(&halt)?);
    }
    Ok(context.output.line(format!("the halt of {} is lifted; what waited goes on", subject(&halt)))?)
}

fn show(output: Output, list: &HaltList) -> Result<(), CommandError> {
    if output.json {
        return Ok(output.document(list)?);
    }
    let rows = list
        .halts
        .iter()
        .map(|halt| {
            let lifted = match (halt.lifted_at, &halt.lifted_by) {
                (Some(at), Some(by)) => format!("{at} by {}", cut(by, 40)),
                _ => String::new(),
            };
            let state = if halt.in_force { "in force" } else { "lifted" };
            let began = format!("{} by {}", halt.at, cut(&halt.by, 40));
            vec![subject(halt), state.to_owned(), began, cut(&halt.reason, 80), lifted]
        })
        .collect();
    Ok(output.table(&["WHAT", "STATE", "BEGAN", "REASON", "LIFTED"], rows)?)
}

fn subject(halt: &Halt) -> String {
    halt.pipeline.as_ref().map_or("the fleet".to_owned(), |pipeline| format!("pipeline {pipeline}"))
}

/// What a halt in force is, for people.
pub(crate) fn sentence(halt: &Halt) -> String {
    let (by, reason) = (cut(&halt.by, 80), cut(&halt.reason, 200));
    format!("{} is halted since {} by {by}: {reason}", subject(halt), halt.at)
}
