//! `teamster limits`: what budgets, rate limits and places are used.

use clap::Args;
use scheduler::wire::{Meter, MeterList};

use crate::context::Context;
use crate::error::CommandError;
use crate::output::{count, cut, dollars};

/// The end of the names of meters that count money.
const MONEY: &str = " usd";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster limits
  teamster limits budget        # only budgets
  teamster limits concurrency   # who has places, by key

Budgets and rate limits are set in teamster.yaml (`budgets:`, `rate_limits:`), places in
pipelines (`concurrency:`). A task that waits for its own budget gets more with
`teamster tasks raise`.")]
pub(crate) struct LimitsArgs {
    /// Only names that begin like this: `budget`, `rate`, `concurrency`, `task`
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
}

pub(crate) async fn run(args: LimitsArgs, context: &Context) -> Result<(), CommandError> {
    let list: MeterList = context.client().await?.get("/v1/meters", &[("prefix", args.prefix)]).await?;
    if context.output.json {
        return Ok(context.output.document(&list)?);
    }
    let rows = list.meters.iter().map(row).collect();
    Ok(context.output.table(&["WHAT", "USED", "OF", "WINDOW", "SINCE", "HELD BACK UNTIL"], rows)?)
}

fn row(meter: &Meter) -> Vec<String> {
    let amount = |amount: u64| if meter.name.ends_with(MONEY) { dollars(millionths(amount)) } else { count(amount) };
    vec![
        cut(&meter.name, 80),
        amount(meter.used),
        meter.limit.map(amount).unwrap_or_default(),
        meter.window.clone(),
        meter.since.to_string(),
        meter.held_until.map(|until| until.to_string()).unwrap_or_default(),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn millionths(amount: u64) -> f64 {
    amount as f64 / 1e6
}
