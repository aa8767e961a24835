//! The command line as a whole: what every command shares, and the list of
//! commands. The arguments of a command stand beside it in its own file.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};
use common::telemetry::LogFormat;

use crate::commands;
use crate::error::EXIT_CODES;

const ABOUT: &str = "Teamster: a durable, queue-driven worker fleet for LLM agent pipelines";

const LONG_ABOUT: &str = "\
Teamster runs LLM agent pipelines as durable tasks: work comes in over HTTP,
webhooks, cron and batch files, is on disk before it is acknowledged, and is
executed by workers that write down every model call and every tool call.

Start with:
  teamster demo                              see it work, in about a minute
  teamster dev --dir examples/lead-intake    keep it running for your own pipelines";

const WHERE: &str = "\
Where commands look:
  Commands that act on tasks speak to the HTTP API of a scheduler: the one that
  --api or TEAMSTER_API names, else http://127.0.0.1:7070. If --store or
  TEAMSTER_STORE is given and no --api, they open that store themselves and need
  no scheduler (they then serve the API on a private loopback port while they run).";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "teamster",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = "`teamster help COMMAND` says more, with examples. Exit codes: `teamster --help`.",
    after_long_help = format!("{WHERE}\n\n{EXIT_CODES}"),
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The store [default: `store:` in teamster.yaml, else sqlite:.teamster/teamster.db below --dir]
    #[arg(long, global = true, env = "TEAMSTER_STORE", value_name = "URL", hide_env_values = true)]
    pub(crate) store: Option<String>,

    /// The broker: amqp:// or amqps://, for `RabbitMQ` [default: `broker:` in teamster.yaml, else the store's own queue]
    #[arg(long, global = true, env = "TEAMSTER_BROKER", value_name = "URL", hide_env_values = true)]
    pub(crate) broker: Option<String>,

    /// The directory of teamster.yaml, pipelines/, agents/ and schemas/
    #[arg(long, global = true, env = "TEAMSTER_DIR", value_name = "DIR", default_value = ".", hide_env_values = true)]
    pub(crate) dir: PathBuf,

    /// The scheduler's API [default: `http://127.0.0.1:7070`]; `TEAMSTER_TOKEN` is its token
    #[arg(long, global = true, env = "TEAMSTER_API", value_name = "URL", hide_env_values = true)]
    pub(crate) api: Option<String>,

    /// Print JSON on stdout (and errors as JSON on stderr)
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// How log lines on stderr are written; `RUST_LOG` filters them
    #[arg(
        long,
        global = true,
        env = "TEAMSTER_LOG_FORMAT",
        value_name = "human|json",
        default_value = "human",
        hide_env_values = true
    )]
    pub(crate) log_format: LogFormat,
}

/// Which models a process calls.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Rehearsal {
    /// Answer every model call by rehearsal: offline, free, deterministic, and no language model
    #[arg(long, env = "TEAMSTER_REHEARSE", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) rehearse: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the main job on real input: batch, webhook, killed workers, approvals (about a minute)
    Demo(commands::demo::DemoArgs),
    /// Run everything in one process and reload pipelines when their files change
    Dev(commands::dev::DevArgs),
    /// Run a scheduler: HTTP API, webhooks, batches, cron, timers
    Scheduler(commands::scheduler::SchedulerArgs),
    /// Run a worker: take tasks and execute their pipelines
    Worker(commands::worker::WorkerArgs),
    /// Validate teamster.yaml, pipelines, agents and schemas, offline
    Check(commands::check::CheckArgs),
    /// Make the pipelines of --dir the current ones
    Apply(commands::apply::ApplyArgs),
    /// Submit one task
    Submit(commands::submit::SubmitArgs),
    /// Submit a CSV or JSONL file, one task a row
    Batch(commands::batch::BatchArgs),
    /// List, show, watch, cancel, retry, resolve and erase tasks
    #[command(subcommand)]
    Tasks(commands::tasks::TasksCommand),
    /// List, show, replay and drop dead letters
    #[command(subcommand)]
    Dlq(commands::dlq::DlqCommand),
    /// List what waits for a person, and decide it
    #[command(subcommand)]
    Approvals(commands::approvals::ApprovalsCommand),
    /// Verify that journals are what was written, and print who did what when
    #[command(subcommand)]
    Audit(commands::audit::AuditCommand),
    /// List, pause and resume queues
    #[command(subcommand)]
    Queues(commands::queues::QueuesCommand),
    /// Stop new model and tool calls, of the whole fleet or of one pipeline; nothing is lost
    Halt(commands::halt::HaltArgs),
    /// Go on after a halt
    Unhalt(commands::halt::UnhaltArgs),
    /// Show how far budgets, rate limits and places are used
    Limits(commands::limits::LimitsArgs),
    /// Look at the store and the broker, and say what their settings can lose
    Doctor(commands::doctor::DoctorArgs),
    /// Measure what a set-up can do, on this machine
    Bench(commands::bench::BenchArgs),
    /// Write tasks with their journals as JSON lines
    Export(commands::export::ExportArgs),
    /// Read what export wrote, into any store
    Import(commands::import::ImportArgs),
}
