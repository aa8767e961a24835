//! `teamster dev`: everything in one process, for work on one's own pipelines.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::project::Project;
use common::shutdown::Shutdown;
use common::store::Definition;
use scheduler::SchedulerHandle;
use serde_json::json;
use tokio::task::JoinHandle;

use super::scheduler::bind;
use super::worker::{Capacity, build};
use crate::args::Rehearsal;
use crate::context::Context;
use crate::error::CommandError;
use crate::installation::{Backends, ModelChoice, Precautions, apply, load, open_for_service, store_url};
use crate::output::note;
use crate::signals;
use crate::watch::Snapshot;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster dev --dir examples/lead-intake
  teamster submit lead-intake --input '{\"company\": \"Acme\", \"email\": \"ada@acme.example\"}' --wait

A scheduler, a worker and a store in one process. When a file of the project
changes, it is checked and applied; if anything is wrong, that is said and the
old definitions stay. Tasks in flight keep the definition that they started with.
Without ANTHROPIC_API_KEY every model is answered by rehearsal, for free.")]
pub(crate) struct DevArgs {
    /// The address of the HTTP API; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    #[command(flatten)]
    capacity: Capacity,
    #[command(flatten)]
    models: Rehearsal,
    #[command(flatten)]
    precautions: Precautions,
}

pub(crate) async fn run(args: DevArgs, context: &Context) -> Result<(), CommandError> {
    let models = ModelChoice::without_account(args.models.rehearse);
    let mut files = Snapshot::of(&context.globals.dir);
    let mut project = prepared(load(context)?, &args, models);
    let url = store_url(context, &project.config, &project.dir);
    let backends = open_for_service(context, &project.config, &url, args.precautions).await?;
    report(&apply(&*backends.store, &project.definitions).await?);

    let shutdown = Shutdown::new();
    signals::watch(&shutdown)?;
    let scheduler = bind(context, &backends, Arc::new(project.config.clone()), args.listen).await?;
    let handle = scheduler.handle();
    let address = format!("http://{}", scheduler.local_addr());
    if context.output.json {
        context.output.record(&json!({"listening": address, "store": url, "rehearsal": models.is_rehearsal()}))?;
    } else {
        note(format!("API:    {address}\nStore:  {url}\n{}", models.sentence()));
        note(format!("Watching {}; Ctrl-C ends it.", project.dir.display()));
    }
    let serving = tokio::spawn(scheduler.run(shutdown.clone()));
    let mut worker = RunningWorker::start(context, &backends, &project)?;

    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.draining() => break,
        }
        let now = look(&project.dir).await;
        if now == files {
            continue;
        }
        files = now;
        let Some(changed) = reload(&project.dir) else { continue };
        let changed = prepared(changed, &args, models);
        match apply(&*backends.store, &changed.definitions).await {
            Ok(applied) => report(&applied),
            Err(error) => {
                note(format!("The change could not be applied: {error}"));
                continue;
            }
        }
        if changed.config != project.config
            && let Some(next) = reconfigure(context, &backends, &changed, &handle)
        {
            worker.end(&shutdown).await;
            worker = next;
        }
        project = changed;
    }
    worker.end(&shutdown).await;
    if let Err(error) = serving.await {
        tracing::warn!(%error, "the scheduler ended badly");
    }
    Ok(())
}

/// The project with what the command line says.
fn prepared(mut project: Project, args: &DevArgs, models: ModelChoice) -> Project {
    args.capacity.put_into(&mut project.config);
    if models.is_rehearsal() {
        project.config.rehearse();
    }
    project
}

async fn look(dir: &Path) -> Snapshot {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || Snapshot::of(&dir)).await.unwrap_or_default()
}

/// The changed project, unless something is wrong with it.
fn reload(dir: &Path) -> Option<Project> {
    match Project::load(dir) {
        Ok(project) => {
            if !project.warnings.is_empty() {
                note(project.warnings.to_string());
            }
            Some(project)
        }
        Err(diagnostics) => {
            note(format!(
                "{diagnostics}\nThe change is ignored until this is put right; what was applied before stays."
            ));
            None
        }
    }
}

fn report(applied: &[(Definition, bool)]) {
    for (definition, _) in applied.iter().filter(|(_, changed)| *changed) {
        note(format!("Applied {}@{}", definition.name, definition.digest.short()));
    }
}

/// A worker with the new configuration; none if that cannot be used.
fn reconfigure(
    context: &Context,
    backends: &Backends,
    project: &Project,
    scheduler: &SchedulerHandle,
) -> Option<RunningWorker> {
    if let Err(error) = scheduler.reload(Arc::new(project.config.clone())) {
        note(format!("teamster.yaml cannot be used: {error}; the old one stays"));
        return None;
    }
    match RunningWorker::start(context, backends, project) {
        Ok(worker) => {
            note("teamster.yaml has changed: a new worker takes over (the store and the address stay)");
            Some(worker)
        }
        Err(error) => {
            note(format!("teamster.yaml cannot be used: {error}; the old worker stays"));
            None
        }
    }
}

/// A worker that can be replaced while the process lives.
#[derive(Debug)]
struct RunningWorker {
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl RunningWorker {
    fn start(context: &Context, backends: &Backends, project: &Project) -> Result<Self, CommandError> {
        let worker = build(context, backends, project)?;
        let shutdown = Shutdown::new();
        let task = tokio::spawn(worker.run(shutdown.clone()));
        Ok(Self { shutdown, task })
    }

    /// Drains it; at once if the process is to stop at once.
    async fn end(self, process: &Shutdown) {
        self.shutdown.request();
        let mut task = self.task;
        tokio::select! {
            _ = &mut task => return,
            () = process.stopping() => self.shutdown.stop_now(),
        }
        if let Err(error) = task.await {
            tracing::warn!(%error, "the worker ended badly");
        }
    }
}
