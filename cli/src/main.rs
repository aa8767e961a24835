//! The `teamster` program: reads the command line, calls what it names, prints
//! what came of it. It decides nothing that a library could decide.

mod args;
mod bench;
mod client;
mod commands;
mod context;
mod demo;
mod error;
mod installation;
mod local;
mod output;
mod processes;
mod progress;
mod signals;
mod timeline;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use args::{Command, CommandLine};
use context::Context;
use error::{CommandError, Exit};

// The system allocator of musl is several times slower under many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything opens a connection: two providers in one binary panic at run time.
    // It fails only if one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let line = CommandLine::parse();
    let json = line.globals.json;
    match start(line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if json && !error.message.is_empty() {
                output::note(error.to_json().to_string());
            } else if !error.message.is_empty() {
                output::note(format!("teamster: {}", error.message));
            }
            error.exit.into()
        }
    }
}

fn start(line: CommandLine) -> Result<(), CommandError> {
    let services = matches!(line.command, Command::Dev(_) | Command::Scheduler(_) | Command::Worker(_));
    common::telemetry::init(line.globals.log_format, if services { "info" } else { "warn" })
        .map_err(|error| CommandError::usage(error.to_string()))?;
    let cannot_start =
        |error: std::io::Error| CommandError::new(Exit::Failed, format!("the runtime cannot start: {error}"));
    let runtime = runtime().map_err(cannot_start)?;
    // On the runtime's own threads, not on this one beside them: what a thread has allocated it frees itself.
    let result = match runtime.block_on(runtime.spawn(run(line))) {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(CommandError::new(Exit::Failed, cancelled.to_string())),
        },
    };
    // Blocking work that is still under way (a file watcher, a name lookup) must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Threads for half of the cores: the others are for what this process calls, often on the same machine (programs, the
/// store). More threads than that hand work to each other more often than they do it. `TOKIO_WORKER_THREADS` says
/// otherwise.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        builder.worker_threads((cores / 2).max(1));
    }
    builder.enable_all().build()
}

async fn run(line: CommandLine) -> Result<(), CommandError> {
    let context = Context::new(line.globals)?;
    match line.command {
        Command::Demo(args) => commands::demo::run(args, &context).await,
        Command::Dev(args) => commands::dev::run(args, &context).await,
        Command::Scheduler(args) => commands::scheduler::run(args, &context).await,
        Command::Worker(args) => commands::worker::run(args, &context).await,
        Command::Check(args) => commands::check::run(&args, &context),
        Command::Apply(args) => commands::apply::run(args, &context).await,
        Command::Submit(args) => commands::submit::run(args, &context).await,
        Command::Batch(args) => commands::batch::run(args, &context).await,
        Command::Tasks(command) => commands::tasks::run(command, &context).await,
        Command::Dlq(command) => commands::dlq::run(command, &context).await,
        Command::Approvals(command) => commands::approvals::run(command, &context).await,
        Command::Audit(command) => commands::audit::run(command, &context).await,
        Command::Queues(command) => commands::queues::run(command, &context).await,
        Command::Halt(args) => commands::halt::halt(args, &context).await,
        Command::Limits(args) => commands::limits::run(args, &context).await,
        Command::Unhalt(args) => commands::halt::unhalt(args, &context).await,
        Command::Doctor(args) => commands::doctor::run(&args, &context).await,
        Command::Bench(args) => commands::bench::run(args, &context).await,
        Command::Export(args) => commands::export::run(args, &context).await,
        Command::Import(args) => commands::import::run(args, &context).await,
    }
}
