//! The demo: a story with real processes, real input and real kills, told as
//! it happens.

mod crm;
mod files;
mod person;
mod report;
mod repository;
mod webhook;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::id::{PipelineName, TaskId};
use common::task::StateName;
use scheduler::wire::{Batch, Task, TaskPage, TaskSummary};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;
use crate::commands::batch;
use crate::error::{CommandError, Exit};
use crate::installation::{ModelChoice, plural};
use crate::output::{Output, Tone, count, duration, note};
use crate::processes::{Process, Setting};
use crate::progress::Progress;

use crm::Crm;
use person::Person;
use repository::Change;
use webhook::Delivery;

/// With a real model, so many leads cost cents and not dollars.
const LEADS_WITH_REAL_MODEL: usize = 24;
/// The second worker is killed when so many requests to the CRM are open.
const OPEN_AT_KILL: usize = 5;
/// How often is looked at how far things are.
const LOOK: Duration = Duration::from_millis(200);
/// After this long something is wrong.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the demo is asked to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) keep: Option<PathBuf>,
    pub(crate) leads: Option<usize>,
    pub(crate) listen: SocketAddr,
    pub(crate) models: ModelChoice,
}

/// The demo while it runs.
struct Demo {
    output: Output,
    dir: PathBuf,
    setting: Setting,
    client: Client,
    crm: Crm,
    scheduler: Process,
    workers: Vec<Process>,
}

/// The workers that were killed: the oldest ones.
#[derive(Debug, Default)]
struct Kills {
    /// How many.
    workers: usize,
    /// The tasks that they held.
    held: Vec<TaskId>,
}

pub(crate) async fn run(plan: Plan, output: Output) -> Result<(), CommandError> {
    let dir = folder(plan.keep.as_deref())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = tokio::select! {
        told = tell(&plan, output, &dir) => told,
        _ = tokio::signal::ctrl_c() => return Err(interrupted(&dir)),
        _ = terminate.recv() => return Err(interrupted(&dir)),
    };
    told.map_err(|error| {
        let error = CommandError::from(error);
        CommandError::new(error.exit, format!("the demo failed: {error}\nits files and logs are in {}", dir.display()))
    })
}

fn interrupted(dir: &Path) -> CommandError {
    let message = format!("interrupted; the demo's processes were ended, its files are in {}", dir.display());
    CommandError::new(Exit::Interrupted, message)
}

/// An empty folder to work in. A temporary one stays too: the commands that the
/// demo ends with look into it.
fn folder(keep: Option<&Path>) -> Result<PathBuf, CommandError> {
    let Some(dir) = keep else {
        return Ok(tempfile::Builder::new().prefix("teamster-demo-").tempdir()?.keep());
    };
    std::fs::create_dir_all(dir)
        .map_err(|error| CommandError::new(Exit::Failed, format!("{} cannot be made: {error}", dir.display())))?;
    if std::fs::read_dir(dir)?.next().is_some() {
        return Err(CommandError::refused(format!("{} is not empty; name another folder with --keep", dir.display())));
    }
    Ok(std::path::absolute(dir)?)
}

async fn tell(plan: &Plan, output: Output, dir: &Path) -> Result<()> {
    let started = Instant::now();
    output.say(output.paint(Tone::Bold, "Teamster demo"))?;
    output.say(plan.models.sentence())?;
    output.say(format!("Folder: {}", dir.display()))?;

    let change = repository::change(&dir.join("repository"))?;
    let secret = random_hex(16)?;
    let mut demo = Demo::start(plan, output, dir, &change, &secret).await?;

    heading(output, "1. A webhook")?;
    let review = demo.webhook(&change, &secret).await?;
    heading(output, "2. A batch")?;
    let limit = plan.leads.or((!plan.models.is_rehearsal()).then_some(LEADS_WITH_REAL_MODEL));
    let receipt = demo.batch(limit).await?;
    heading(output, "3. Work, two kills, and a person")?;
    let (kills, person) = demo.work(&receipt, review).await?;
    let crm = demo.crm.book();

    let facts = report::Facts::gather(&demo.client).await?;
    let logs: Vec<PathBuf> = demo.workers.iter().map(|worker| worker.log.clone()).collect();
    let calls = report::model_calls_started(&logs)?;
    let store = demo.setting.store.clone();
    demo.end().await?;

    let report = report::Report {
        facts,
        calls,
        twice: crm.doubles(&files::addresses()?),
        crm,
        held: kills.held,
        review,
        person,
        took: started.elapsed(),
    };
    if output.json {
        output.document(&report.to_json(&store))?;
    } else {
        report.print(output)?;
        report.look_further(output, &store)?;
        output.line(format!("\nThe demo took {}. Its files stay in {}.", duration(report.took), dir.display()))?;
    }
    report.verify()
}

fn heading(output: Output, text: &str) -> std::io::Result<()> {
    output.say("")?;
    output.say(output.paint(Tone::Bold, text))
}

fn random_hex(bytes: usize) -> Result<String> {
    let entropy: &dyn common::entropy::Entropy = &common::entropy::SystemEntropy::new()?;
    let mut random = vec![0; bytes];
    entropy.fill(&mut random);
    Ok(hex::encode(random))
}

impl Demo {
    async fn start(plan: &Plan, output: Output, dir: &Path, change: &Change, secret: &str) -> Result<Self> {
        let crm = Crm::start().await?;
        let project = dir.join("project");
        files::write_project(&project, plan.models.is_rehearsal(), &crm.url)?;
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("{} cannot be made", logs.display()))?;
        let env = [
            ("CRM_URL", crm.url.clone()),
            ("REPO_URL", change.repository.display().to_string()),
            ("GITHUB_WEBHOOK_SECRET", secret.to_owned()),
            ("TEAMSTER_TOKEN", String::new()),
            // The CRM is on this machine, whatever proxy there is, and so are the companies that it knows.
            ("NO_PROXY", "127.0.0.1,localhost".to_owned()),
        ];
        let setting = Setting {
            project,
            logs,
            store: format!("sqlite:{}", dir.join("teamster.db").display()),
            broker: None,
            log_filter: "info,worker=debug",
            env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        };
        let listen = plan.listen.to_string();
        let scheduler = Process::start(&setting, "scheduler", &["scheduler", "--apply", "--listen", &listen]).await?;
        let client = Client::new(&scheduler.address, None)?;
        let mut demo = Self { output, dir: dir.to_owned(), setting, client, crm, scheduler, workers: Vec::new() };
        demo.start_worker().await?;
        demo.start_worker().await?;
        output.say(format!(
            "A scheduler at {} and two workers are running, each a process of its own.",
            demo.client.base()
        ))?;
        Ok(demo)
    }

    async fn start_worker(&mut self) -> Result<()> {
        let name = format!("worker-{}", self.workers.len() + 1);
        let command = ["worker", "--listen", "127.0.0.1:0"];
        self.workers.push(Process::start(&self.setting, &name, &command).await?);
        Ok(())
    }

    /// Posts the webhook, and posts it again as a sender does that got no answer.
    async fn webhook(&self, change: &Change, secret: &str) -> Result<TaskId> {
        let delivery = Delivery::opened(change, secret, random_hex(16)?)?;
        let (status, first) = delivery.post(&self.client).await?;
        let task = first.tasks.first().context("the webhook made no task")?.id;
        self.output.say(format!("pull_request.opened, signed as GitHub signs it: answered {status}, task {task}"))?;
        let (status, again) = delivery.post(&self.client).await?;
        ensure!(again.tasks.first().map(|t| t.id) == Some(task), "the same delivery made a second task: {again:?}");
        self.output.say(format!("The same delivery once more: answered {status}, the same task"))?;
        let which =
            if change.made { "the last commit of a repository that the demo made," } else { "the last commit of" };
        self.output.say(format!(
            "It reviews {which} {}: {}..{}, {:?}",
            change.repository.display(),
            &change.base[..7],
            &change.head[..7],
            change.title
        ))?;
        Ok(task)
    }

    async fn batch(&self, limit: Option<usize>) -> Result<scheduler::wire::BatchReceipt> {
        let path = self.dir.join("leads.csv");
        files::write_leads(&path, limit)?;
        let pipeline = PipelineName::new("lead-intake")?;
        let receipt = batch::post(&self.client, &pipeline, &path, self.output.json).await?;
        self.output.say(batch::summary(&receipt))?;
        for row in &receipt.rejections {
            self.output.say(format!("  leads.csv:{}: {}", row.line, crate::output::cut(&row.reason, 140)))?;
        }
        Ok(receipt)
    }

    /// Looks on until everything is done; kills two workers on the way, one
    /// among model calls and one among writes to the CRM.
    async fn work(&mut self, receipt: &scheduler::wire::BatchReceipt, review: TaskId) -> Result<(Kills, Person)> {
        let begun = Instant::now();
        let mut person = Person::default();
        let mut kills = Kills::default();
        let mut progress = Progress::new("leads", receipt.accepted, self.output.json);
        loop {
            person.tick(&self.client).await?;
            let batch: Batch = self.client.get(&format!("/v1/batches/{}", receipt.id), &[]).await?;
            let done: u64 = batch.tasks.iter().filter(|(state, _)| state.is_terminal()).map(|(_, n)| n).sum();
            let message = format!("{} approved, {} rejected", person.approved, person.rejected);
            progress.set(done, &message);
            let calling = kills.workers == 0 && done * 5 >= batch.total;
            let writing = kills.workers == 1 && self.crm.book().open >= OPEN_AT_KILL;
            if calling || writing {
                self.kill_a_worker(&mut kills, &progress).await?;
            }
            if batch.done && self.is_done(review).await? {
                break;
            }
            self.scheduler.check()?;
            for worker in self.workers.iter_mut().skip(kills.workers) {
                worker.check()?;
            }
            ensure!(begun.elapsed() < PATIENCE, "{} of {} leads are done after {PATIENCE:?}", done, batch.total);
            tokio::time::sleep(LOOK).await;
        }
        progress.finish();
        let words = format!("{} approvals given, {} refused", person.approved, person.rejected);
        self.output.say(format!("Everything is done after {}; {words}", duration(begun.elapsed())))?;
        ensure!(kills.workers > 0, "the leads were done before a worker could be killed in the middle");
        Ok((kills, person))
    }

    async fn is_done(&self, task: TaskId) -> Result<bool> {
        let task: Task = self.client.get(&format!("/v1/tasks/{task}"), &[]).await?;
        Ok(task.summary.state.is_terminal())
    }

    /// Kills the oldest worker if it holds tasks now, and starts another one.
    async fn kill_a_worker(&mut self, kills: &mut Kills, progress: &Progress) -> Result<()> {
        let number = kills.workers + 1;
        let victim = &mut self.workers[kills.workers];
        let Some(pid) = victim.id() else { bail!("worker {number} is gone") };
        let mark = format!("-{pid}-");
        let query = [("state", StateName::Running.to_string()), ("limit", "1000".to_owned())];
        let page: TaskPage = self.client.get("/v1/tasks", &query).await?;
        let is_held = |task: &&TaskSummary| task.worker.as_ref().is_some_and(|worker| worker.as_str().contains(&mark));
        let held: Vec<TaskId> = page.tasks.iter().filter(is_held).map(|task| task.id).collect();
        if held.is_empty() {
            return Ok(());
        }
        let status = victim.kill().await?;
        let tasks = number_of(held.len() as u64, "task");
        self.tell(progress, &format!("worker {number} (process {pid}) was killed while it held {tasks}: {status}"));
        kills.workers += 1;
        kills.held.extend(held);
        self.start_worker().await?;
        let next = self.workers.len();
        self.tell(progress, &format!("worker {next} was started; the leases of the lost one run out within 4 s"));
        Ok(())
    }

    fn tell(&self, progress: &Progress, text: &str) {
        if !self.output.json {
            progress.say(self.output.paint(Tone::Warn, text));
        }
    }

    /// Ends what still runs; the killed worker does not.
    async fn end(self) -> Result<()> {
        for worker in self.workers.into_iter().filter(|worker| worker.id().is_some()) {
            worker.end().await?;
        }
        if let Err(error) = self.scheduler.end().await {
            note(format!("{error:#}"));
        }
        Ok(())
    }
}

/// `5 tasks`.
fn number_of(number: u64, noun: &str) -> String {
    format!("{} {}", count(number), plural(usize::try_from(number).unwrap_or(usize::MAX), noun))
}
