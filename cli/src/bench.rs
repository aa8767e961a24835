//! The bench: what a set-up can do, measured on the programs that run it. The
//! scheduler and the workers are processes of their own; this process is the
//! client, and looks at the clock.

mod figures;
mod fleet;
mod latency;
mod memory;
mod recovery;
mod submit;
mod throughput;

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use crate::context::Context;
use crate::error::CommandError;
use crate::output::note;

pub(crate) use figures::Figures;
use fleet::Fleet;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// Tasks accepted in a second: in batches, and one by one over HTTP
    Submit,
    /// Tasks with one `set` step finished in a second
    Drain,
    /// Durable steps in a second: five `set` steps of 1 KiB, 50 tasks in flight
    Steps,
    /// From submit to start, at 200 tasks in a second
    Latency,
    /// How long until all tasks of a killed worker run again
    Recovery,
    /// What a worker holds: idle, and with 500 tasks inside `run` steps
    Memory,
}

/// What the bench is asked to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) workloads: Vec<Workload>,
    /// Instead of each workload's own number.
    pub(crate) tasks: Option<usize>,
    /// Of the worker that drains or does steps, instead of each workload's own number.
    pub(crate) slots: Option<usize>,
    /// Each workload so many times; the figures are medians.
    pub(crate) runs: usize,
    /// Where the files and logs are, if they are to stay.
    pub(crate) keep: Option<PathBuf>,
}

/// Runs the workloads, one after the other, each on a fleet of its own.
pub(crate) async fn run(plan: &Plan, context: &Context) -> Result<Vec<Figures>, CommandError> {
    let mut all = Vec::new();
    for workload in &plan.workloads {
        let mut runs = Vec::with_capacity(plan.runs);
        for number in 1..=plan.runs {
            if !context.output.json {
                let name = workload.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
                note(format!("{name}: run {number} of {}", plan.runs));
            }
            runs.push(measure(*workload, plan, context).await?);
        }
        all.extend(figures::medians(runs));
    }
    Ok(all)
}

async fn measure(workload: Workload, plan: &Plan, context: &Context) -> anyhow::Result<Vec<Figures>> {
    let mut fleet = Fleet::prepare(plan, workload, context).await?;
    let tasks = plan.tasks;
    let figures = match workload {
        Workload::Submit => submit::measure(&mut fleet, tasks).await,
        Workload::Drain => throughput::drain(&mut fleet, tasks, plan.slots).await,
        Workload::Steps => throughput::steps(&mut fleet, tasks, plan.slots).await,
        Workload::Latency => latency::measure(&mut fleet, tasks).await,
        Workload::Recovery => recovery::measure(&mut fleet, tasks).await,
        Workload::Memory => memory::measure(&mut fleet, tasks).await,
    };
    fleet.end().await?;
    figures
}
