//! `teamster demo`: the main job on real input, in about a minute.

use std::path::PathBuf;

use clap::Args;

use crate::args::Rehearsal;
use crate::context::Context;
use crate::demo::{self, Plan};
use crate::error::CommandError;
use crate::installation::ModelChoice;

#[derive(Debug, Args)]
#[command(after_help = "It starts a scheduler and two workers as processes of their own, on a store in a
temporary folder, and ends by itself:
  1. a batch of leads from a CSV file, some of its rows bad
  2. a signed GitHub webhook, whose pipeline reviews a real git diff
  3. two workers are killed (SIGKILL) in the middle and others started
  4. somebody approves or rejects what waits for a person
  5. a table of what came of it, and commands to look further
With ANTHROPIC_API_KEY set it calls the real API (ANTHROPIC_BASE_URL is honoured)
for the first 24 leads; without, models are rehearsed offline, for free.")]
pub(crate) struct DemoArgs {
    /// Work in this folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// How many leads [default: all with rehearsal, 24 with a real model]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(10..))]
    leads: Option<u16>,
    /// The address of the HTTP API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
    #[command(flatten)]
    models: Rehearsal,
}

pub(crate) async fn run(args: DemoArgs, context: &Context) -> Result<(), CommandError> {
    let plan = Plan {
        keep: args.keep,
        leads: args.leads.map(usize::from),
        listen: args.listen,
        models: ModelChoice::without_account(args.models.rehearse),
    };
    demo::run(plan, context.output).await
}
