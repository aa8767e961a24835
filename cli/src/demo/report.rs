//! What came of it, from three independent witnesses: the journals, the logs
//! of the workers, and the CRM.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::id::TaskId;
use common::journal::{Event, Recorded, StepOutcome, Usage};
use common::task::StateName;
use futures::{StreamExt, TryStreamExt, stream};
use scheduler::wire::{TaskPage, TaskSummary};
use serde_json::{Value, json};

use super::crm::Book;
use super::number_of;
use super::person::Person;
use crate::client::Client;
use crate::commands::tasks::journal;
use crate::output::{Output, Tone, count, cut, dollars};

/// What a worker logs when a model call goes out.
const MODEL_CALL: &str = "calls the model";
/// How many agents review at once.
const REVIEWERS: u64 = 3;
/// How many journals are read at once.
const READ_AT_ONCE: usize = 8;

/// What the journals say.
#[derive(Debug, Default)]
pub(super) struct Facts {
    tasks: Vec<TaskSummary>,
    usage: Usage,
    /// Model calls with an answer.
    answers: u64,
    /// Tries of agent steps that ended without an answer: the API was overloaded, the connection broke.
    failed_calls: u64,
    /// Tries of steps that were followed by another one, by the class of the failure.
    retries: BTreeMap<String, u64>,
    /// Tasks that lost their worker and went on with another one.
    resumed: Vec<TaskId>,
    /// What their journals held when the worker was lost.
    kept_steps: u64,
    kept_answers: u64,
    /// Of that, what was done again: must be nothing.
    done_again: u64,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) facts: Facts,
    /// Model calls that workers started, the killed ones included.
    pub(super) calls: u64,
    pub(super) crm: Book,
    /// Contacts that the CRM has more often than the file.
    pub(super) twice: usize,
    /// The tasks that the killed workers held.
    pub(super) held: Vec<TaskId>,
    pub(super) review: TaskId,
    pub(super) person: Person,
    pub(super) took: Duration,
}

impl Facts {
    /// Reads all tasks and their journals.
    pub(super) async fn gather(client: &Client) -> Result<Self> {
        let mut facts = Self::default();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("limit", "1000".to_owned())];
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let page: TaskPage = client.get("/v1/tasks", &query).await?;
            facts.tasks.extend(page.tasks);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let ids: Vec<TaskId> = facts.tasks.iter().map(|task| task.id).collect();
        let read = |id: TaskId| async move { Ok::<_, anyhow::Error>((id, journal(client, id).await?)) };
        let journals: Vec<(TaskId, Vec<Recorded>)> =
            stream::iter(ids).map(read).buffer_unordered(READ_AT_ONCE).try_collect().await?;
        for (id, journal) in &journals {
            facts.add(*id, journal);
        }
        for task in &facts.tasks {
            facts.usage.add(&task.usage);
        }
        Ok(facts)
    }

    fn add(&mut self, id: TaskId, journal: &[Recorded]) {
        let lost = journal.iter().position(|recorded| matches!(recorded.event, Event::LeaseExpired { .. }));
        if lost.is_some() {
            self.resumed.push(id);
        }
        let mut finished = BTreeSet::new();
        let mut agents = BTreeSet::new();
        for (index, recorded) in journal.iter().enumerate() {
            let kept = lost.is_some_and(|lost| index < lost);
            let failed = match &recorded.event {
                Event::StepRetrying { step, error, .. }
                | Event::StepFinished { step, outcome: StepOutcome::Failed { error } } => {
                    agents.contains(step) && error.class.is_transient()
                }
                _ => false,
            };
            self.failed_calls += u64::from(failed);
            match &recorded.event {
                Event::AgentStarted { step, .. } => {
                    agents.insert(step.clone());
                }
                Event::TurnFinished { .. } => {
                    self.answers += 1;
                    self.kept_answers += u64::from(kept);
                }
                Event::StepRetrying { error, .. } => *self.retries.entry(error.class.to_string()).or_default() += 1,
                Event::StepFinished { step, outcome } => {
                    let worked = !matches!(outcome, StepOutcome::Skipped);
                    self.kept_steps += u64::from(kept && worked);
                    self.done_again += u64::from(!finished.insert(step.clone()));
                }
                _ => {}
            }
        }
    }

    fn number(&self, pipeline: &str, state: StateName) -> u64 {
        self.tasks.iter().filter(|task| task.pipeline.as_str() == pipeline && task.state == state).count() as u64
    }

    fn dead(&self) -> impl Iterator<Item = &TaskSummary> {
        self.tasks.iter().filter(|task| task.state == StateName::Dead)
    }
}

/// Counts the model calls in the logs of workers: what a killed worker had
/// started is in its log, whether or not it lived to write the answer down.
pub(super) fn model_calls_started(logs: &[PathBuf]) -> Result<u64> {
    let count = |log: &Path| -> Result<u64> {
        let text = std::fs::read(log).with_context(|| format!("{} cannot be read", log.display()))?;
        Ok(String::from_utf8_lossy(&text).lines().filter(|line| line.contains(MODEL_CALL)).count() as u64)
    };
    logs.iter().map(|log| count(log)).sum()
}

impl Report {
    /// Model calls of which no journal knows what came of them.
    fn unanswered(&self) -> u64 {
        self.calls.saturating_sub(self.facts.answers + self.facts.failed_calls)
    }

    /// For people.
    pub(super) fn print(&self, output: Output) -> Result<()> {
        let facts = &self.facts;
        let heading = |text: &str| output.line(format!("\n{}", output.paint(Tone::Bold, text)));
        heading("4. What the kills cost")?;
        let resumed = number_of(facts.resumed.len() as u64, "task");
        let steps = number_of(facts.kept_steps, "finished step");
        let answers = number_of(facts.kept_answers, "answered model call");
        output.line(format!("{resumed} lost their worker and were resumed by another one."))?;
        output
            .line(format!("Their journals held {steps} and {answers}: all kept, {} done again.", facts.done_again))?;
        output.line(format!(
            "Model calls: {} started (logs of the workers), {} answered and {} failed (journals). The other {} were \
             under way at a kill and were made, and with a real model paid, once more.",
            count(self.calls),
            count(facts.answers),
            count(facts.failed_calls),
            count(self.unanswered()),
        ))?;
        output.line(format!(
            "CRM: {} written, {} twice; {} came again under the key of a contact that was there and changed nothing.",
            number_of(self.crm.written() as u64, "contact"),
            self.twice,
            number_of(self.crm.repeated as u64, "request"),
        ))?;

        heading("5. What came of it")?;
        let states = [StateName::Succeeded, StateName::Cancelled, StateName::Dead];
        let pipelines: BTreeSet<&str> = facts.tasks.iter().map(|task| task.pipeline.as_str()).collect();
        let rows = pipelines
            .iter()
            .map(|pipeline| {
                let of = || facts.tasks.iter().filter(|task| task.pipeline.as_str() == *pipeline);
                let mut row = vec![(*pipeline).to_owned(), count(of().count() as u64)];
                row.extend(states.iter().map(|state| count(facts.number(pipeline, *state))));
                row.push(count(of().map(|task| task.tokens).sum()));
                row.push(dollars(of().map(|task| task.cost_usd).sum()));
                row
            })
            .collect();
        output.table(&["PIPELINE", "TASKS", "SUCCEEDED", "CANCELLED", "DEAD", "TOKENS", "COST"], rows)?;
        let retries: Vec<String> = facts.retries.iter().map(|(class, n)| format!("{} {class}", count(*n))).collect();
        let all: u64 = facts.retries.values().sum();
        output.line(format!(
            "Retries: {} ({})",
            count(all),
            if retries.is_empty() { "none".to_owned() } else { retries.join(", ") }
        ))?;
        output.line(format!("Approvals: {} approved, {} rejected", self.person.approved, self.person.rejected))?;
        let letters: Vec<Vec<String>> = facts
            .dead()
            .map(|task| {
                let step = task.dead_step.as_ref().map(ToString::to_string).unwrap_or_default();
                let reason = task.dead_reason.map(|reason| reason.to_string()).unwrap_or_default();
                let error = task.error.as_ref().map(|error| cut(&error.to_string(), 160)).unwrap_or_default();
                vec![task.id.to_string(), reason, step, error]
            })
            .collect();
        if letters.is_empty() {
            output.line("Dead letters: none")?;
        } else {
            output.line(format!("Dead letters: {}", letters.len()))?;
            output.table(&["TASK", "REASON", "STEP", "ERROR"], letters)?;
        }
        Ok(())
    }

    /// Commands to go on with.
    pub(super) fn look_further(&self, output: Output, store: &str) -> Result<()> {
        let program = program();
        output.line(format!("\n{}", output.paint(Tone::Bold, "Look further (nothing has to run for this)")))?;
        output.line(format!("  export TEAMSTER_STORE={store}"))?;
        let command = |rest: String, what: &str| output.line(format!("  {program} {rest:<60} # {what}"));
        command(format!("tasks show {}", self.review), "the review of the pull request")?;
        if let Some(id) = self.facts.resumed.first() {
            command(format!("tasks show {id}"), "a lead whose worker was killed")?;
        }
        if let Some(task) = self.facts.dead().next() {
            command(format!("dlq show {}", task.id), "a dead letter and what it would need")?;
        }
        command("tasks list --state succeeded --limit 10".to_owned(), "and so on")?;
        Ok(())
    }

    /// For programs.
    pub(super) fn to_json(&self, store: &str) -> Value {
        let facts = &self.facts;
        let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
        for task in &facts.tasks {
            *outcomes.entry(task.state.as_str()).or_default() += 1;
        }
        let dead: Vec<Value> = facts
            .dead()
            .map(|task| json!({"id": task.id, "reason": task.dead_reason, "step": task.dead_step, "error": task.error}))
            .collect();
        json!({
            "store": store,
            "seconds": self.took.as_secs_f64(),
            "outcomes": outcomes,
            "usage": facts.usage,
            "retries": facts.retries,
            "dead_letters": dead,
            "approvals": {"approved": self.person.approved, "rejected": self.person.rejected},
            "kill": {
                "held": self.held, "resumed": facts.resumed, "kept_steps": facts.kept_steps,
                "kept_answers": facts.kept_answers, "done_again": facts.done_again,
            },
            "model_calls": {"started": self.calls, "answered": facts.answers, "repeated": self.unanswered()},
            "crm": {
                "contacts": self.crm.written(), "twice": self.twice, "repeated": self.crm.repeated,
                "overloaded": self.crm.overloaded, "refused": self.crm.refused,
            },
            "review": self.review,
        })
    }

    /// Whether what Teamster promises was kept.
    pub(super) fn verify(&self) -> Result<()> {
        let facts = &self.facts;
        let open = facts.tasks.iter().find(|task| !task.state.is_terminal());
        ensure!(open.is_none(), "task {} is not done", open.map(|task| task.id.to_string()).unwrap_or_default());
        ensure!(!facts.resumed.is_empty(), "no task was resumed after a kill");
        ensure!(facts.done_again == 0, "{} finished steps were done again", facts.done_again);
        ensure!(self.twice == 0, "{} contacts were written twice", self.twice);
        // The review has three calls under way at once, a lead has one.
        let lost = self.held.iter().map(|id| if *id == self.review { REVIEWERS } else { 1 }).sum::<u64>();
        let unanswered = self.unanswered();
        ensure!(unanswered <= lost, "{unanswered} model calls were repeated, and only {lost} were under way");
        let review = facts.tasks.iter().find(|task| task.id == self.review).context("the review is not there")?;
        ensure!(review.state == StateName::Succeeded, "the review is {}; see {}", review.state, review.id);
        Ok(())
    }
}

/// How this program is called from here.
fn program() -> String {
    let Ok(program) = std::env::current_exe() else { return "teamster".to_owned() };
    let here = std::env::current_dir().unwrap_or_default();
    program.strip_prefix(&here).unwrap_or(&program).display().to_string()
}
