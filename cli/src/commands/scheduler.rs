//! `teamster scheduler`: the service that takes work in.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use common::shutdown::Shutdown;
use scheduler::{HttpLimits, Scheduler, SchedulerOptions};
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::installation::{Backends, Precautions, apply, load, open_for_service, store_url};
use crate::output::note;
use crate::signals;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster scheduler --dir examples/lead-intake --apply
  TEAMSTER_TOKEN=… teamster scheduler --listen 0.0.0.0:7070   # needs `api: { token: env:TEAMSTER_TOKEN }`

Configuration comes from --dir/teamster.yaml. Several schedulers may share a
store. SIGTERM or Ctrl-C ends it once open requests are answered; a second one
at once.")]
pub(crate) struct SchedulerArgs {
    /// The address of the HTTP API; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Make the pipelines of --dir the current ones first
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    precautions: Precautions,
    /// End when stdin closes: for those who start it as a child process
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(crate) async fn run(args: SchedulerArgs, context: &Context) -> Result<(), CommandError> {
    let project = load(context)?;
    let url = store_url(context, &project.config, &project.dir);
    let backends = open_for_service(context, &project.config, &url, args.precautions).await?;
    if args.apply {
        for (definition, changed) in apply(&*backends.store, &project.definitions).await? {
            tracing::info!(pipeline = %definition.name, digest = definition.digest.short(), changed, "applied");
        }
    }
    let shutdown = Shutdown::new();
    signals::watch(&shutdown)?;
    if args.stop_with_stdin {
        signals::stop_with_stdin(&shutdown);
    }
    let scheduler = bind(context, &backends, Arc::new(project.config), args.listen).await?;
    let address = format!("http://{}", scheduler.local_addr());
    if context.output.json {
        context.output.record(&json!({"listening": address, "store": url}))?;
    } else {
        note(format!("scheduler: {address}, store {url}"));
    }
    scheduler.run(shutdown).await;
    Ok(())
}

/// Opens the socket of a scheduler.
pub(crate) async fn bind(
    context: &Context,
    backends: &Backends,
    config: Arc<common::config::Config>,
    listen: SocketAddr,
) -> Result<Scheduler, CommandError> {
    let options = SchedulerOptions {
        store: Arc::clone(&backends.store),
        broker: backends.broker.clone(),
        config,
        listen,
        clock: Arc::clone(&context.clock),
        entropy: Arc::clone(&context.entropy),
        http: HttpLimits::default(),
        metrics: Arc::clone(&backends.metrics),
    };
    Scheduler::bind(options).await.map_err(|error| CommandError::new(Exit::Failed, error.to_string()))
}
