//! The fleet that is measured: a project with small pipelines, a store, and
//! the processes that work on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::clock::{Clock, SystemClock};
use common::config::Config;
use common::entropy::Entropy;
use common::id::{QueueName, TaskId};
use common::pipeline::model::Pipeline;
use common::project::Project;
use common::store::{Filter, SignalError, Store, Submission};
use common::submission::{NewTask, submission};
use common::task::{Signal, StateName};
use serde_json::Value;

use super::{Plan, Workload};
use crate::context::Context as CommandContext;
use crate::installation::{Backends, open_backends};
use crate::processes::{Process, Setting};

/// Tasks in one call.
pub(super) const BATCH: usize = 1_000;
/// The states of tasks that are not done.
const OPEN: [StateName; 4] = [StateName::Scheduled, StateName::Ready, StateName::Running, StateName::Waiting];
/// How often is looked whether tasks are done.
const LOOK: Duration = Duration::from_millis(10);
/// After so long without one task more, something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

const ONE: &str = "name: bench-one\nqueue: bench\nsteps:\n  - { id: a, set: { seen: '{{ input.n }}' } }\n";
const FIVE: &str = "\
name: bench-five
queue: bench
steps:
  - { id: a, set: '{{ input.text }}' }
  - { id: b, set: '{{ steps.a.output }}' }
  - { id: c, set: '{{ steps.b.output }}' }
  - { id: d, set: '{{ steps.c.output }}' }
  - { id: e, set: '{{ steps.d.output }}' }
";
const NAP: &str = "\
name: bench-nap
queue: bench
steps:
  - { id: a, run: { command: [sleep, '60'], effect: read } }
";

/// A store and a project for one workload.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) store: Arc<dyn Store>,
    /// Passes hints on for as long as it is there.
    _backends: Backends,
    pub(super) entropy: Arc<dyn Entropy>,
    setting: Setting,
    pipelines: Vec<Arc<Pipeline>>,
    processes: Vec<Option<Process>>,
    last: Option<TaskId>,
    dir: Option<tempfile::TempDir>,
}

impl Fleet {
    /// A fresh store, unless the plan names one, and no process yet.
    pub(super) async fn prepare(plan: &Plan, workload: Workload, context: &CommandContext) -> Result<Self> {
        let dir = match &plan.keep {
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
                tempfile::Builder::new().prefix(&format!("{workload:?}-").to_lowercase()).tempdir_in(dir)?
            }
            None => tempfile::Builder::new().prefix("teamster-bench-").tempdir()?,
        };
        let path = dir.path().to_owned();
        let dir = if plan.keep.is_some() {
            let _ = dir.keep();
            None
        } else {
            Some(dir)
        };
        std::fs::create_dir_all(path.join("pipelines"))?;
        for (name, text) in [("one", ONE), ("five", FIVE), ("nap", NAP)] {
            std::fs::write(path.join(format!("pipelines/{name}.yaml")), text)?;
        }
        std::fs::write(path.join("teamster.yaml"), "worker: { queues: [bench], drain: 1s }\n")?;
        let project = Project::load(&path).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let default = format!("sqlite:{}", path.join("bench.db").display());
        let url = context.globals.store.clone().unwrap_or(default);
        let backends = open_backends(context, &Config::default(), &url).await?;
        let store = Arc::clone(&backends.store);
        store.apply(project.definitions).await?;
        let pipelines = project.pipelines.into_iter().map(Arc::new).collect();
        let setting = Setting {
            logs: path.clone(),
            project: path,
            store: url,
            broker: context.globals.broker.clone(),
            log_filter: if workload == Workload::Latency { "warn,worker=debug" } else { "warn" },
            env: Vec::new(),
        };
        let entropy = Arc::clone(&context.entropy);
        let fleet =
            Self { store, _backends: backends, entropy, setting, pipelines, processes: Vec::new(), last: None, dir };
        ensure!(
            fleet.open().await? == 0,
            "the queue `bench` of this store has unfinished tasks; use a store (or a prefix or schema) of its own"
        );
        Ok(fleet)
    }

    /// Another lease than the default, for workers that are started from now on.
    pub(super) fn set_lease(&self, lease: &str) -> Result<()> {
        let text = format!("worker: {{ queues: [bench], drain: 1s, lease: {lease} }}\n");
        Ok(std::fs::write(self.setting.project.join("teamster.yaml"), text)?)
    }

    /// Starts a scheduler; answers with its address.
    pub(super) async fn scheduler(&mut self) -> Result<String> {
        let name = format!("scheduler-{}", self.processes.len());
        let process = Process::start(&self.setting, &name, &["scheduler", "--listen", "127.0.0.1:0"]).await?;
        let address = process.address.clone();
        self.processes.push(Some(process));
        Ok(address)
    }

    /// Starts a worker; answers with its number.
    pub(super) async fn worker(&mut self, slots: usize) -> Result<usize> {
        let number = self.processes.len();
        let name = format!("worker-{number}");
        let slots = slots.to_string();
        let command = ["worker", "--listen", "127.0.0.1:0", "--slots", &slots];
        self.processes.push(Some(Process::start(&self.setting, &name, &command).await?));
        Ok(number)
    }

    /// A process by its number.
    pub(super) fn process(&mut self, number: usize) -> Result<&mut Process> {
        self.processes.get_mut(number).and_then(Option::as_mut).context("there is no such process")
    }

    /// A process that the fleet has no more.
    pub(super) fn take_out(&mut self, number: usize) -> Result<Process> {
        let process = self.processes.get_mut(number).and_then(Option::take);
        process.context("there is no such process")
    }

    /// Cancels what is not done.
    pub(super) async fn cancel_all(&self) -> Result<()> {
        let cancel = Signal::Cancel { by: "bench".to_owned(), reason: "it was measured".to_owned() };
        while self.open().await? > 0 {
            // A lease of a killed worker ends by itself; then the request takes effect.
            self.store.due(BATCH).await?;
            for head in self.store.list(self.unfinished(), None, BATCH).await?.tasks {
                match self.store.signal(head.id, cancel.clone()).await {
                    Ok(_) | Err(SignalError::Refused(_) | SignalError::NotFound(_)) => {}
                    Err(SignalError::Store(error)) => return Err(error.into()),
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn unfinished(&self) -> Filter {
        Filter { states: OPEN.to_vec(), queue: self.queue(), ..Filter::default() }
    }

    fn queue(&self) -> Option<QueueName> {
        self.pipelines.first().map(|pipeline| pipeline.queue.clone())
    }

    /// The log of a process.
    pub(super) fn log(&self, number: usize) -> Option<PathBuf> {
        Some(self.processes.get(number)?.as_ref()?.log.clone())
    }

    /// A pipeline of the bench.
    pub(super) fn pipeline(&self, name: &str) -> Result<Arc<Pipeline>> {
        self.pipelines
            .iter()
            .find(|pipeline| pipeline.name.as_str() == name)
            .map(Arc::clone)
            .context("there is no such pipeline")
    }

    /// A task that is to be submitted.
    pub(super) fn submission(&mut self, pipeline: &Pipeline, input: Value) -> Result<Submission> {
        let id = TaskId::following(self.last, SystemClock.now(), self.entropy.bytes());
        self.last = Some(id);
        let new = NewTask { input, ..NewTask::default() };
        submission(pipeline, new, id, None).map_err(|complaints| anyhow::anyhow!("{complaints:?}"))
    }

    /// Submits so many tasks, in batches.
    pub(super) async fn submit(&mut self, name: &str, count: usize, input: impl Fn(usize) -> Value) -> Result<()> {
        let pipeline = self.pipeline(name)?;
        for first in (0..count).step_by(BATCH) {
            let batch: Vec<_> = (first..count.min(first + BATCH))
                .map(|n| self.submission(&pipeline, input(n)))
                .collect::<Result<_>>()?;
            self.store.submit(batch).await?;
        }
        Ok(())
    }

    /// Unfinished tasks.
    pub(super) async fn open(&self) -> Result<u64> {
        self.count(&OPEN).await
    }

    /// Tasks in one of these states.
    pub(super) async fn count(&self, states: &[StateName]) -> Result<u64> {
        let queues = self.store.queues().await?;
        let bench = queues.iter().filter(|queue| queue.name.as_str() == "bench");
        Ok(bench.flat_map(|queue| states.iter().filter_map(|state| queue.depth.get(state))).sum())
    }

    /// Waits until so many tasks are in one of these states.
    pub(super) async fn until(&mut self, states: &[StateName], wanted: u64) -> Result<()> {
        let (mut last, mut moved) = (u64::MAX, Instant::now());
        loop {
            let now = self.count(states).await?;
            if now == wanted {
                return Ok(());
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            for process in self.processes.iter_mut().flatten() {
                process.check()?;
            }
            if moved.elapsed() > PATIENCE {
                bail!("nothing moves: {now} tasks are {states:?}, and {wanted} were waited for");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every task is done, and fails if one of them is dead.
    pub(super) async fn until_done(&mut self) -> Result<()> {
        self.until(&OPEN, 0).await?;
        let dead = Filter { states: vec![StateName::Dead], queue: self.queue(), ..Filter::default() };
        let page = self.store.list(dead, None, 1).await?;
        ensure!(page.tasks.is_empty(), "a task died: {:?}", page.tasks);
        Ok(())
    }

    /// Ends all processes, and removes the files.
    pub(super) async fn end(self) -> Result<()> {
        for process in self.processes.into_iter().flatten() {
            process.end().await?;
        }
        drop(self.dir);
        Ok(())
    }
}
