//! `teamster worker`: the service that executes tasks.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use common::config::Config;
use common::id::QueueName;
use common::project::Project;
use common::shutdown::Shutdown;
use serde_json::json;
use tokio::net::TcpListener;
use worker::service::{Worker, WorkerOptions};

use crate::args::Rehearsal;
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::installation::{Backends, ModelChoice, Precautions, load, open_for_service, store_url, worker_id};
use crate::output::note;
use crate::signals;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster worker --dir examples/lead-intake --slots 32
  teamster worker --queues leads,reviews --rehearse

Configuration comes from --dir/teamster.yaml, pipelines from the store. SIGTERM
or Ctrl-C drains it: it takes nothing new and hands over what it holds at the
next checkpoint; a second one stops it at once.")]
pub(crate) struct WorkerArgs {
    /// The address of /healthz, /readyz and /metrics; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071")]
    listen: SocketAddr,
    #[command(flatten)]
    capacity: Capacity,
    #[command(flatten)]
    models: Rehearsal,
    #[command(flatten)]
    precautions: Precautions,
    /// End when stdin closes: for those who start it as a child process
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// What a worker takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Capacity {
    /// Tasks at once [default: `worker.slots` in teamster.yaml, else 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) slots: Option<u16>,
    /// Only from these queues [default: `worker.queues` in teamster.yaml, else all]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) queues: Vec<QueueName>,
}

impl Capacity {
    /// The configuration with what the command line says.
    pub(crate) fn put_into(&self, config: &mut Config) {
        if let Some(slots) = self.slots {
            config.worker.slots = usize::from(slots);
        }
        if !self.queues.is_empty() {
            config.worker.queues.clone_from(&self.queues);
        }
    }
}

pub(crate) async fn run(args: WorkerArgs, context: &Context) -> Result<(), CommandError> {
    let mut project = load(context)?;
    let url = store_url(context, &project.config, &project.dir);
    args.capacity.put_into(&mut project.config);
    if args.models.rehearse {
        project.config.rehearse();
        tracing::info!("{}", ModelChoice::Asked.sentence());
    }
    let backends = open_for_service(context, &project.config, &url, args.precautions).await?;
    let shutdown = Shutdown::new();
    signals::watch(&shutdown)?;
    if args.stop_with_stdin {
        signals::stop_with_stdin(&shutdown);
    }
    let worker = build(context, &backends, &project)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| CommandError::new(Exit::Failed, format!("cannot listen on {}: {error}", args.listen)))?;
    let address = format!("http://{}", listener.local_addr()?);
    if context.output.json {
        context.output.record(&json!({"listening": address, "store": url}))?;
    } else {
        note(format!("worker: {address}, store {url}"));
    }
    let health = worker::health::serve(listener, Arc::clone(&backends.store), worker.status(), shutdown.clone());
    let serving = tokio::spawn(health);
    worker.run(shutdown.clone()).await;
    shutdown.stop_now();
    if let Ok(Err(error)) = serving.await {
        tracing::warn!(%error, "the health endpoint failed");
    }
    Ok(())
}

/// A worker of this process.
pub(crate) fn build(context: &Context, backends: &Backends, project: &Project) -> Result<Worker, CommandError> {
    let options = WorkerOptions {
        store: Arc::clone(&backends.store),
        broker: backends.broker.clone(),
        env: project.config.env_values(),
        config: Arc::new(project.config.clone()),
        dir: project.dir.clone(),
        id: worker_id(context)?,
        clock: Arc::clone(&context.clock),
        entropy: Arc::clone(&context.entropy),
        metrics: Arc::clone(&backends.metrics),
    };
    Worker::build(options).map_err(|error| CommandError::new(Exit::Failed, error.to_string()))
}
