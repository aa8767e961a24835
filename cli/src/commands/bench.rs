//! `teamster bench`: what a set-up can do, on this machine.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::bench::{self, Figures, Plan, Workload};
use crate::context::Context;
use crate::error::CommandError;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster bench
  teamster bench --store redis://127.0.0.1/?prefix=bench --workload drain --runs 5 --json
  teamster bench --store postgres://127.0.0.1/test?schema=bench --broker amqp://127.0.0.1 --workload latency

Starts schedulers and workers as processes of their own and measures them from
outside. Without --store it makes a SQLite file and removes it. A store that is
named gets tasks in a queue `bench` and keeps those that are done until retention
takes them: name a prefix, schema or database of its own. Client, store and
workers share this machine; figures are medians of the runs.")]
pub(crate) struct BenchArgs {
    /// What to measure; may be given again [default: all]
    #[arg(long, value_name = "NAME")]
    workload: Vec<Workload>,
    /// Tasks, instead of each workload's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tasks: Option<u32>,
    /// Slots of the worker that drains or does steps, instead of the workload's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    slots: Option<u16>,
    /// Runs of each workload
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// Keep files and logs in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) async fn run(args: BenchArgs, context: &Context) -> Result<(), CommandError> {
    let workloads = if args.workload.is_empty() { Workload::value_variants().to_vec() } else { args.workload };
    let plan = Plan {
        workloads,
        tasks: args.tasks.map(|tasks| usize::try_from(tasks).unwrap_or(usize::MAX)),
        slots: args.slots.map(usize::from),
        runs: usize::from(args.runs),
        keep: args.keep,
    };
    let figures = bench::run(&plan, context).await?;
    if context.output.json {
        return Ok(context.output.document(&json!({"figures": figures}))?);
    }
    let rows = figures.iter().map(row).collect();
    Ok(context.output.table(&["FIGURE", "MEDIAN", "UNIT", "RUNS"], rows)?)
}

fn row(figure: &Figures) -> Vec<String> {
    let number = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let runs: Vec<String> = figure.runs.iter().copied().map(number).collect();
    vec![figure.name.to_owned(), number(figure.value), figure.unit.to_owned(), runs.join(" ")]
}
