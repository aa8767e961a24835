//! The pure core driven by hand: decisions and folds over a journal in memory,
//! with a clock that jumps. No store and no worker: for tests of what is
//! decided, and for resuming a journal at any of its events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use common::clock::Timestamp;
use common::config::{Config, Guards, Hooks, Limits, Permissions};
use common::failure::Failure;
use common::id::{Digest, StepKey, TaskId, WorkerId};
use common::journal::{ApprovalDecision, Event, ModelCall, Recorded, Run};
use common::pipeline::model::Pipeline;
use common::store::{Next, ledger};
use common::submission::{NewTask, submission};
use common::task::{Signal, State, WaitOn};
use serde_json::Value;
use worker::decide::{Action, ActionKey, Given, Performed, Rest, StepPlace, StepPlaces, conclude, decide};
use worker::models::Models;
use worker::quota::Grant;
use worker::tools::ToolSet;

/// How many decisions one drive may take.
const DECISIONS: usize = 10_000;

/// Answers what the outside world would.
pub trait World {
    /// What comes of an action.
    fn perform(&mut self, action: &Action, run: &Run) -> Performed;
    /// The tools of a step.
    fn tools(&mut self, step: &StepKey) -> ToolSet;
    /// A person's decision on an approval.
    fn approve(&mut self, _title: &str) -> ApprovalDecision {
        ApprovalDecision { approved: true, by: "test".to_owned(), comment: None, edits: None }
    }
    /// How many dollars more a task gets whose budget is spent.
    fn raise(&mut self) -> f64 {
        1.0
    }
    /// What came of a request in a model batch; nothing: no answer in time.
    fn batched(&mut self, _step: &StepKey) -> Option<Result<ModelCall, Failure>> {
        None
    }
    /// A person's word on a call of unknown outcome.
    fn resolve(&mut self, _step: &StepKey, _call: &str) -> Option<Value> {
        None
    }
}

/// A task in memory.
#[derive(Debug)]
pub struct Drive<'a> {
    /// Everything that was written.
    pub journal: Vec<Recorded>,
    /// The fold of it.
    pub run: Run,
    pipeline: &'a Pipeline,
    now: Timestamp,
    env: BTreeMap<String, String>,
    limits: Limits,
    permissions: Permissions,
    /// The hooks of the installation.
    pub hooks: Hooks,
    /// The guards of the installation.
    pub guards: Guards,
    policy: Digest,
    tools: BTreeMap<StepKey, ToolSet>,
    models: Models,
    grants: BTreeMap<ActionKey, Grant>,
    places: StepPlaces,
    /// Whether the lease is this drive's own, and not one that was lost before it.
    held: bool,
}

impl<'a> Drive<'a> {
    /// A task that was just accepted.
    pub fn submit(pipeline: &'a Pipeline, input: Value) -> anyhow::Result<Self> {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let new = NewTask { input, ..NewTask::default() };
        let submission =
            submission(pipeline, new, TaskId::new(now, [7; 10]), None).map_err(|all| anyhow::anyhow!("{all:?}"))?;
        let (id, task) = submission.into_parts();
        let (_, first) = ledger::open(id, task, now);
        Self::resume(pipeline, vec![first])
    }

    /// A task of which so much was durable when everything stopped.
    pub fn resume(pipeline: &'a Pipeline, journal: Vec<Recorded>) -> anyhow::Result<Self> {
        let first = journal.first().context("a journal has a first event")?;
        let run = Run::fold(TaskId::new(first.at, [7; 10]), &journal)?;
        let now = journal.last().map_or(first.at, |last| last.at).plus(Duration::from_secs(10));
        Ok(Self {
            journal,
            run,
            pipeline,
            now,
            env: BTreeMap::new(),
            limits: Limits::default(),
            permissions: Permissions::default(),
            hooks: Hooks::default(),
            guards: Guards::default(),
            policy: Digest::of(b""),
            tools: BTreeMap::new(),
            models: Models::from_config(&Config::default())?,
            grants: BTreeMap::new(),
            places: StepPlaces::new(),
            held: false,
        })
    }

    /// Works until the task is done.
    pub fn finish(&mut self, world: &mut dyn World) -> anyhow::Result<State> {
        for _ in 0..DECISIONS {
            match self.run.head.state.clone() {
                State::Running { .. } if self.held => self.work(world)?,
                State::Running { .. } => self.expire()?,
                State::Ready { .. } => self.lease()?,
                State::Scheduled { run_at } => self.wake_at(run_at)?,
                State::Waiting { wait, .. } => self.wait_over(&wait.on, wait.until, world)?,
                state => return Ok(state),
            }
        }
        bail!("the task does not come to an end")
    }

    fn lease(&mut self) -> anyhow::Result<()> {
        self.tools.clear();
        self.held = true;
        let worker = WorkerId::new("driver")?;
        self.write(|head, at| Ok(ledger::lease(head, &worker, at)?))
    }

    fn expire(&mut self) -> anyhow::Result<()> {
        self.write(|head, at| Ok(ledger::expire(head, &[], u32::MAX, at)?))
    }

    fn wake_at(&mut self, at: Timestamp) -> anyhow::Result<()> {
        self.now = self.now.max(at);
        self.write(|head, at| Ok(ledger::wake(head, at)?))
    }

    fn wait_over(&mut self, on: &[WaitOn], until: Option<Timestamp>, world: &mut dyn World) -> anyhow::Result<()> {
        for reason in on {
            let signal = match reason {
                WaitOn::Approval { approval } => {
                    let title = self.journal.iter().find_map(|recorded| match &recorded.event {
                        Event::ApprovalRequested { title, .. } if recorded.seq == approval.seq => Some(title.clone()),
                        _ => None,
                    });
                    let decision = world.approve(&title.context("the approval stands in the journal")?);
                    Signal::Decide { approval: *approval, decision }
                }
                WaitOn::Budget { .. } => {
                    Signal::Raise { by: "test".to_owned(), usd: Some(world.raise()), tokens: None }
                }
                WaitOn::Outcome { step, call } => Signal::Resolve {
                    step: step.clone(),
                    call: call.clone(),
                    by: "test".to_owned(),
                    happened: world.resolve(step, call.as_str()),
                },
                WaitOn::ModelBatch { step } => {
                    let entry =
                        self.run.step(step).and_then(|known| known.waiting_entry()).map(|entry| entry.id.clone());
                    let (step, entry) = (step.clone(), entry.context("the step has a request in a batch")?);
                    match world.batched(&step) {
                        Some(Ok(call)) => Signal::ModelAnswered { step, entry, call: Box::new(call) },
                        Some(Err(error)) => Signal::ModelFailed { step, entry, error },
                        None => continue,
                    }
                }
                _ => continue,
            };
            return self.write(|head, at| ledger::signal(head, &[], &signal, at)?.context("nobody holds the task"));
        }
        self.wake_at(until.context("the task waits for what no test brings")?)
    }

    fn work(&mut self, world: &mut dyn World) -> anyhow::Result<()> {
        let in_flight: BTreeSet<ActionKey> = BTreeSet::new();
        let decision = decide(&self.run, self.given(&in_flight));
        let next = match decision.rest {
            Rest::Busy => Next::Continue,
            Rest::Park(wait) => Next::Park(wait),
            Rest::Finish(next) => next,
        };
        if !decision.events.is_empty() || next != Next::Continue {
            self.append(decision.events, next)?;
        }
        // Each action in turn, so that the journal is the same at every run.
        for action in decision.actions {
            let key = action.key().step;
            if matches!(action, Action::Prepare { .. }) {
                let tools = world.tools(&key);
                self.tools.insert(key.clone(), tools);
            }
            let performed = world.perform(&action, &self.run);
            if let (Action::TakePlace { step, key }, Performed::Placed) = (&action, &performed) {
                self.places.insert(step.clone(), StepPlace { key: key.clone(), held: true });
            }
            let events = conclude(&self.run, self.pipeline, &key, performed, self.now, 0.5);
            if !events.is_empty() {
                self.append(events, Next::Continue)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, events: Vec<Event>, next: Next) -> anyhow::Result<()> {
        self.write(|head, at| Ok(ledger::append(head, events, next, &[], at)?))
    }

    fn write(
        &mut self,
        operation: impl FnOnce(&mut common::task::Head, Timestamp) -> anyhow::Result<Vec<Recorded>>,
    ) -> anyhow::Result<()> {
        let mut head = self.run.head.clone();
        let recorded = operation(&mut head, self.now)?;
        for event in &recorded {
            self.run.apply(event)?;
        }
        anyhow::ensure!(self.run.head == head, "the two folds of one journal differ");
        self.journal.extend(recorded);
        self.now = self.now.plus(Duration::from_millis(1));
        Ok(())
    }

    fn given<'g>(&'g self, in_flight: &'g BTreeSet<ActionKey>) -> Given<'g> {
        Given {
            pipeline: self.pipeline,
            env: &self.env,
            limits: &self.limits,
            permissions: &self.permissions,
            hooks: &self.hooks,
            guards: &self.guards,
            policy: &self.policy,
            workspace: std::path::Path::new("."),
            tools: &self.tools,
            in_flight,
            models: &self.models,
            asks_quotas: false,
            grants: &self.grants,
            places: &self.places,
            now: self.now,
        }
    }
}
