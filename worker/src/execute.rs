//! Executes one task under a lease: decide, write down, perform, write down.
//!
//! This is a thin shell over [`crate::decide`]: it owns the journal of the task
//! and the actions that are in flight, and decides nothing itself.

mod asking;
mod batch;
mod child;
mod grant;
mod journal;
mod opening;
mod pause;
mod perform;
mod place;
mod private;
mod session;
mod step_place;
mod workspace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::config::policy::Layer;
use common::config::{Config, Guards, Permissions};
use common::entropy::Entropy;
use common::failure::{Failure, FailureClass};
use common::id::{Digest, ReservationId, StepKey, TaskId};
use common::journal::{Event, Run};
use common::metrics::Metrics;
use common::pipeline::model::Pipeline;
use common::shutdown::Shutdown;
use common::store::{Claim, Next, Store};
use common::task::{DeadReason, StateName};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::batching::Batching;
use crate::decide::{Action, ActionKey, Decision, Given, Performed, Rest, StepPlaces, conclude, decide, mark_answers};
use crate::definitions::{DefinitionError, Definitions};
use crate::fault::Fault;
use crate::halt::{self, Halts};
use crate::lease::Hold;
use crate::outside::Outside;
use crate::quota::charge::{Demand, calls};
use crate::quota::{self, Grant, Quotas, Used};
use crate::tools::ToolSet;

use grant::Over;
use journal::{HeldJournal, Stopped};
use perform::Done;
use step_place::ended;

/// What all tasks of a worker share.
#[derive(Debug)]
pub struct Executor {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: Arc<Config>,
    /// What templates see as `env`.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) definitions: Definitions,
    pub(crate) outside: Arc<Outside>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Where the working directories of tasks are.
    pub(crate) workspaces: PathBuf,
    /// The directory of `teamster.yaml`.
    pub(crate) project: PathBuf,
    pub(crate) fault: Arc<Fault>,
    pub(crate) halts: Arc<Halts>,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) metrics: Arc<Metrics>,
    /// Where requests wait to go out together.
    pub(crate) batching: Batching,
}

/// What an action came to, with its name and what was looked up on the way.
struct Landed {
    key: ActionKey,
    done: Done,
}

/// What is to be done next once the journal has this version: decided while it was written.
struct Ahead {
    version: u64,
    decision: Decision,
}

/// A task under way.
struct Execution<'a> {
    executor: &'a Executor,
    /// The working directory.
    workspace: PathBuf,
    pipeline: &'a Pipeline,
    /// What people are asked, and who.
    permissions: Permissions,
    /// What agents read and write is checked by.
    guards: Guards,
    /// The digest of all policy that holds.
    policy: Digest,
    journal: HeldJournal,
    tools: BTreeMap<StepKey, ToolSet>,
    in_flight: BTreeSet<ActionKey>,
    /// Leave that was given and is not settled.
    grants: BTreeMap<ActionKey, Grant>,
    /// The places that steps have, or ask for.
    places: StepPlaces,
    /// Their names in the store.
    place_ids: BTreeMap<StepKey, ReservationId>,
    /// How many were asked for.
    places_asked: u64,
    /// Children that were asked what the tokens in their answers stand for.
    asked_children: BTreeSet<TaskId>,
    flights: FuturesUnordered<BoxFuture<'a, Landed>>,
}

impl Executor {
    /// Works on a task until it is done, waits, is handed over or is lost.
    pub async fn execute(&self, claim: Claim, hold: &Hold, shutdown: &Shutdown) {
        let task = claim.task;
        let opened = HeldJournal::open(self, &claim, hold.lost.clone());
        let journal = match opened {
            Ok(journal) => journal,
            Err(error) => {
                tracing::error!(%task, %error, "the journal cannot be folded by this version; the task is left to others");
                return;
            }
        };
        tracing::debug!(%task, "started");
        match self.work(journal, hold, shutdown).await {
            Ok(state) => tracing::debug!(%task, %state, "handed back"),
            Err(Stopped::Lost) => tracing::warn!(%task, "the lease is lost; the task is left to others"),
            Err(Stopped::Confused(why)) => tracing::error!(%task, why, "the task is given up until its lease expires"),
        }
    }

    async fn work(&self, mut journal: HeldJournal, hold: &Hold, shutdown: &Shutdown) -> Result<StateName, Stopped> {
        let digest = journal.run().head.digest.clone();
        let pipeline = match self.definitions.get(&digest).await {
            Ok(pipeline) => pipeline,
            Err(DefinitionError::Unusable(error)) => {
                journal.append(Vec::new(), Next::Die { reason: DeadReason::Unreadable, error, step: None }).await?;
                return Ok(journal.run().head.state.name());
            }
            Err(DefinitionError::Store(error)) => return Err(Stopped::Confused(error.to_string())),
        };
        if !self.has_place(&mut journal, &pipeline).await? {
            return Ok(journal.run().head.state.name());
        }
        let mut execution = Execution {
            executor: self,
            workspace: self.workspace(journal.run().head.id),
            pipeline: &pipeline,
            permissions: self.permissions(&pipeline),
            guards: pipeline.policy.iter().fold(self.config.guards.clone(), |above, layer| layer.guards(&above)),
            policy: self.policy(&pipeline),
            journal,
            tools: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            grants: BTreeMap::new(),
            places: StepPlaces::new(),
            place_ids: BTreeMap::new(),
            places_asked: 0,
            asked_children: BTreeSet::new(),
            flights: FuturesUnordered::new(),
        };
        let ran = execution.run(hold, shutdown).await;
        execution.settle_rest().await;
        execution.leave_places().await;
        ran?;
        self.leave_place(execution.journal.run(), &pipeline).await;
        let head = &execution.journal.run().head;
        let over = matches!(head.state.name(), StateName::Succeeded | StateName::Cancelled);
        if over && workspace::may_be_used(&pipeline, &self.config.hooks) {
            self.remove_workspace(head.id).await;
        }
        Ok(head.state.name())
    }
}

impl Executor {
    /// The digest of all policy that holds for a pipeline: what approvals are bound to.
    fn policy(&self, pipeline: &Pipeline) -> Digest {
        let above = self.outside.tools.policy();
        if pipeline.policy.is_empty() {
            return above.clone();
        }
        let own: Vec<Permissions> = pipeline.policy.iter().map(Layer::permissions).collect();
        Digest::of(serde_json::json!([above, own]).to_string().as_bytes())
    }
}

impl Execution<'_> {
    async fn run(&mut self, hold: &Hold, shutdown: &Shutdown) -> Result<(), Stopped> {
        let mut landed: Vec<Event> = Vec::new();
        let mut drain_ends = None;
        loop {
            let mut ahead = None;
            if !landed.is_empty() {
                let next = self.look_ahead(&landed, &mut ahead);
                let done = ended(&landed);
                self.journal.append(std::mem::take(&mut landed), next).await?;
                self.leave_ended(&done).await;
            }
            if !self.journal.is_held() {
                return Ok(());
            }
            self.ask_children().await?;
            if self.must_stop() {
                // A call that is cut off here stays intended: what became of it is a question for later.
                self.flights.clear();
                self.in_flight.clear();
                ahead = None;
            }
            let (halts, pipeline) = (&self.executor.halts, &self.journal.run().head.pipeline);
            let halted = halts.cover(pipeline);
            if halted && self.in_flight.is_empty() && !self.must_stop() {
                // It may have been lifted since, and this task been woken by that.
                if !halts.cover_now(pipeline, &*self.executor.store).await {
                    continue;
                }
                let wait = halt::wait(self.journal.now());
                return self.rest_or(Next::Park(wait)).await;
            }
            if shutdown.is_draining() && self.in_flight.is_empty() {
                return self.rest_or(Next::Release { reason: "drain".to_owned() }).await;
            }
            // What is under way goes on, and nothing new starts.
            let idles = shutdown.is_draining() || halted;
            if !idles || self.must_stop() {
                // A signal may have come with the append; then what was decided ahead no longer follows.
                let version = self.journal.run().head.version;
                let decision = match ahead.filter(|ahead| ahead.version == version) {
                    Some(Ahead { decision, .. }) => decision,
                    None => self.decide(self.journal.run()),
                };
                if decision.actions.is_empty() && !decision.events.is_empty() {
                    landed = decision.events;
                    continue;
                }
                let is_idle = decision.events.is_empty() && decision.actions.is_empty();
                if is_idle && self.leave_idle().await {
                    // Others of the task may go on with what they held.
                    continue;
                }
                let next = into_next(decision.rest);
                if !decision.events.is_empty() || next != Next::Continue {
                    let done = ended(&decision.events);
                    self.journal.append(decision.events, next).await?;
                    self.leave_ended(&done).await;
                    if !self.journal.is_held() {
                        return Ok(());
                    }
                }
                for action in decision.actions {
                    self.start(action);
                }
            }
            if self.in_flight.is_empty() {
                continue;
            }
            let time_left = self.time_left().min(self.next_try());
            // In this order: what ends the task's right to go on is seen before what it has done.
            tokio::select! {
                biased;
                () = hold.lost.cancelled() => return Err(Stopped::Lost),
                () = shutdown.stopping() => return Err(Stopped::Confused("told to stop at once".to_owned())),
                Some(flight) = self.flights.next() => landed = self.land(flight).await,
                () = hold.signals.notified() => self.journal.append(Vec::new(), Next::Continue).await?,
                () = tokio::time::sleep(time_left) => {}
                () = until_drained(shutdown, self.executor.config.worker.drain.get(), &mut drain_ends) => {
                    tracing::warn!(task = %self.journal.run().head.id, "calls outlast the drain and are cut off");
                    self.flights.clear();
                    self.in_flight.clear();
                }
            }
        }
    }

    fn given(&self) -> Given<'_> {
        Given {
            pipeline: self.pipeline,
            env: &self.executor.env,
            limits: &self.executor.config.limits,
            permissions: &self.permissions,
            hooks: &self.executor.config.hooks,
            guards: &self.guards,
            policy: &self.policy,
            workspace: &self.workspace,
            tools: &self.tools,
            in_flight: &self.in_flight,
            models: &self.executor.outside.models,
            asks_quotas: self.executor.quotas.concern(self.journal.run(), self.pipeline),
            grants: &self.grants,
            places: &self.places,
            now: self.journal.now(),
        }
    }

    /// What happens to the task after these events, if nothing else is to be
    /// done before: then it rides along with them. If there is more to be done, that is kept for when they are written.
    fn look_ahead(&self, events: &[Event], ahead: &mut Option<Ahead>) -> Next {
        if !self.in_flight.is_empty() {
            return Next::Continue;
        }
        let Ok(run) = self.journal.with(events, self.journal.now()) else { return Next::Continue };
        let decision = self.decide(&run);
        let waits = matches!(decision.rest, Rest::Park(_)) && self.has_idle_places();
        if decision.events.is_empty() && decision.actions.is_empty() && !waits {
            return into_next(decision.rest);
        }
        *ahead = Some(Ahead { version: run.head.version, decision });
        Next::Continue
    }

    /// Whether what is in flight must not go on: cancelled, or out of time.
    fn must_stop(&self) -> bool {
        self.journal.run().cancel.is_some() || self.time_left().is_zero()
    }

    fn time_left(&self) -> Duration {
        let worked = self.journal.run().head.worked(self.journal.now());
        self.pipeline.timeout.get().saturating_sub(worked)
    }

    /// Gives the task up in this way, unless it comes to rest by itself.
    async fn rest_or(&mut self, otherwise: Next) -> Result<(), Stopped> {
        let next = match self.rest(self.journal.run()) {
            Next::Continue => otherwise,
            next => next,
        };
        self.journal.append(Vec::new(), next).await
    }

    fn start(&mut self, action: Action) {
        let key = action.key();
        if matches!(action, Action::CallModel { .. } | Action::Call { .. })
            && let Some(grant) = self.grants.get_mut(&key)
        {
            grant.begun = true;
        }
        if let Action::TakePlace { step, key } = &action {
            self.ask_place(step, key);
        }
        let (now, tools) = (self.journal.now(), self.tools.get(&key.step));
        let flight = self.executor.perform(action, self.journal.run(), self.pipeline, tools, self.places_asked, now);
        self.in_flight.insert(key.clone());
        self.flights.push(Box::pin(async move { Landed { key, done: flight.await } }));
    }

    async fn land(&mut self, Landed { key, done }: Landed) -> Vec<Event> {
        let Done { performed, tools, grant, pause } = done;
        self.in_flight.remove(&key);
        self.note_place(&key.step, &performed);
        if let Some(tools) = tools {
            self.tools.insert(key.step.clone(), tools);
        }
        match grant {
            Some(grant) => drop(self.grants.insert(key.clone(), grant)),
            None => self.settle(&key, &performed, pause).await,
        }
        let (now, unit) = (self.journal.now(), self.executor.entropy.unit());
        let events = conclude(self.journal.run(), self.pipeline, &key.step, performed, now, unit);
        let mut events = self.sealed(self.journal.run(), events);
        // Behind the sealing: the digest in a mark must not be one of a private value.
        mark_answers(self.journal.run(), self.pipeline, &mut events);
        events
    }

    /// Says what a call has used, and how the other side is.
    async fn settle(&mut self, key: &ActionKey, performed: &Performed, pause: Option<Duration>) {
        let workspace = &self.workspace;
        let (subject, model) = match performed {
            Performed::Model { .. } => {
                let known = self.journal.run().step(&key.step).and_then(|known| known.conversation.as_ref());
                let Some(head) = known.map(|known| &known.head) else { return };
                (Some(quota::of_provider(&head.provider)), calls(&head.provider, &head.model).ok())
            }
            Performed::Call { call, .. } => {
                (quota::subject(Demand::Tool { name: &call.tool, arguments: &call.arguments, workspace }), None)
            }
            // It is settled with the answer, by whoever gets that.
            Performed::Joined { .. } => return drop(self.grants.remove(key)),
            _ => return,
        };
        let grant = self.grants.remove(key);
        let over = Over { grant, subject, model, pause, performed };
        self.executor.settle(over, self.journal.now()).await;
    }

    /// Gives back what is reserved for calls that are not made, and leaves to those that were cut off what they may use.
    async fn settle_rest(&mut self) {
        // What is reserved for a request that has not joined its batch yet is found by the next attempt.
        for grant in std::mem::take(&mut self.grants).into_values().filter(|grant| !grant.outlives) {
            let used = if grant.begun { Used::Unknown } else { Used::Nothing };
            let spent = grant.spent(used);
            if let Some(id) = grant.id {
                self.executor.give_back(id, spent).await;
            }
        }
    }

    /// What is to be done next, with nothing private in it that is not sealed.
    fn decide(&self, run: &Run) -> Decision {
        self.sealed_decision(run, decide(run, self.given()))
    }

    /// What happens to a task that has nothing to do and nothing to write.
    fn rest(&self, run: &Run) -> Next {
        let decision = self.decide(run);
        if decision.events.is_empty() && decision.actions.is_empty() {
            into_next(decision.rest)
        } else {
            Next::Continue
        }
    }
}

fn into_next(rest: Rest) -> Next {
    match rest {
        Rest::Busy => Next::Continue,
        Rest::Park(wait) => Next::Park(wait),
        Rest::Finish(next) => next,
    }
}

/// Ends when a drain has lasted for so long.
async fn until_drained(shutdown: &Shutdown, patience: Duration, ends: &mut Option<tokio::time::Instant>) {
    shutdown.draining().await;
    let ends = *ends.get_or_insert_with(|| tokio::time::Instant::now() + patience);
    tokio::time::sleep_until(ends).await;
}

/// A failure of this program's own making.
pub(crate) fn internal(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Internal, message)
}
