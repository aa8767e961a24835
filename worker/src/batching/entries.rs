//! The entries of batches and their tasks: the request that an entry stands for,
//! what is settled of its budget, and its answer on the way to its task.

use std::sync::Arc;
use std::time::Duration;

use common::failure::Failure;
use common::id::{EntryId, StepKey};
use common::journal::{Conversation, Entry, ModelCall, Run, Usage};
use common::store::{Settle, SignalError, Store, StoreError};
use common::task::{Signal, State};

use super::tray::Waiting;
use super::{Surroundings, reservation};
use crate::definitions::{DefinitionError, Definitions};
use crate::models::ModelRequest;
use crate::models::batches::{Answer, Batches};
use crate::outside::Outside;
use crate::quota::charge::{Demand, Quota};
use crate::quota::estimate::Worst;
use crate::quota::{Grant, Quotas, Used};

/// The most events of a journal that are read.
const MOST_EVENTS: usize = 100_000;
/// For how long a request whose task does not say that it waits is kept: its worker writes it here first.
const JOINING: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Entries {
    around: Surroundings,
    definitions: Arc<Definitions>,
}

/// What becomes of a request whose batch is about to go out.
pub(super) enum Draft {
    /// It goes: the request in JSON.
    Goes(Vec<u8>),
    /// It waits for a later batch: its task is halted, or does not say yet that it waits.
    Later,
    /// Nobody waits for it any more.
    Gone,
    /// It cannot be sent as it is.
    Wrong(Failure),
}

/// A request, and all that is known of its task.
struct Known {
    run: Run,
    step: StepKey,
    entry: Entry,
}

impl Known {
    /// Whether the task waits for what comes of it.
    fn is_awaited(&self) -> bool {
        self.run.head.open_entries.iter().any(|(_, open)| *open == self.entry.id)
    }

    fn conversation(&self) -> Option<&Conversation> {
        self.run.step(&self.step)?.conversation.as_ref()
    }
}

impl Entries {
    pub(super) fn new(around: &Surroundings, definitions: Definitions) -> Self {
        Self { around: around.clone(), definitions: Arc::new(definitions) }
    }

    fn store(&self) -> &dyn Store {
        &*self.around.store
    }

    fn quotas(&self) -> &Quotas {
        &self.around.quotas
    }

    fn outside(&self) -> &Outside {
        &self.around.outside
    }

    /// What becomes of a request now.
    pub(super) async fn draft(&self, waiting: &Waiting, batches: &dyn Batches) -> Result<Draft, StoreError> {
        let Some(head) = self.store().head(waiting.id.task()).await? else { return Ok(Draft::Gone) };
        if !head.open_entries.iter().any(|(_, entry)| *entry == waiting.id) {
            let is_young = self.around.clock.now().since(waiting.at) < JOINING;
            let may_come = matches!(head.state, State::Ready { .. } | State::Running { .. });
            return Ok(if is_young && may_come { Draft::Later } else { Draft::Gone });
        }
        if self.around.halts.cover(&head.pipeline) {
            return Ok(Draft::Later);
        }
        let Some(known) = self.known(&waiting.id).await? else { return Ok(Draft::Gone) };
        let Some(conversation) = known.conversation() else { return Ok(Draft::Gone) };
        let messages = conversation.messages();
        let request = ModelRequest { head: &conversation.head, messages, no_tools: false, traceparent: None };
        Ok(batches.request(waiting.id.as_str(), &request).map_or_else(Draft::Wrong, Draft::Goes))
    }

    /// Gives back what is reserved for a request that is not sent.
    pub(super) async fn give_back(&self, entry: &EntryId) -> Result<(), StoreError> {
        match self.known(entry).await? {
            Some(known) => self.settle(&known, Used::Nothing).await,
            None => Ok(()),
        }
    }

    /// Tells the task of a request what came of it. Once more changes nothing.
    pub(super) async fn deliver(&self, entry: &EntryId, answer: Result<Answer, Failure>) -> Result<(), StoreError> {
        self.around.fault.before_delivery();
        let Some(known) = self.known(entry).await? else {
            // It was replayed from before the request, or is gone.
            tracing::info!(%entry, "an answer came to a request that no task knows of any more");
            return Ok(());
        };
        let answer = answer.map(|answer| self.billed(&known, answer));
        self.settle(&known, answer.as_ref().map_or(Used::Nothing, |call| Used::Model(call.usage))).await?;
        if !known.is_awaited() {
            if let Ok(call) = &answer {
                let (task, cost) = (known.run.head.id, call.usage.cost_usd);
                tracing::info!(%task, step = %known.step, cost, "an answer came that nobody waits for (any more)");
            }
            return Ok(());
        }
        let (step, entry) = (known.step.clone(), entry.clone());
        let mut signal = match answer {
            Ok(call) => Signal::ModelAnswered { step, entry, call: Box::new(call) },
            Err(error) => Signal::ModelFailed { step, entry, error },
        };
        if let Some(private) = &self.outside().private {
            let mut sealer = private.private().sealer(&known.run.sealed);
            sealer.signal(&mut signal);
            let entries = sealer.take();
            if !entries.is_empty() {
                self.signal(&known, Signal::Seal { entries }).await?;
            }
        }
        self.signal(&known, signal).await
    }

    async fn signal(&self, known: &Known, signal: Signal) -> Result<(), StoreError> {
        match self.store().signal(known.run.head.id, signal).await {
            Ok(_) => Ok(()),
            // It has it, or went on or came to its end meanwhile.
            Err(error @ (SignalError::NotFound(_) | SignalError::Refused(_))) => {
                tracing::debug!(task = %known.run.head.id, %error, "a task does not take what came of its request");
                Ok(())
            }
            Err(SignalError::Store(error)) => Err(error),
        }
    }

    fn billed(&self, known: &Known, answer: Answer) -> ModelCall {
        let now = self.around.clock.now();
        let Answer { content, stop_reason, model, response_id, tokens } = answer;
        let usage = known
            .conversation()
            .map_or_else(Usage::default, |of| self.outside().models.bill_in_batch(&of.head, tokens, now));
        let duration_ms = u64::try_from(now.since(known.entry.since).as_millis()).unwrap_or(u64::MAX);
        ModelCall { content, stop_reason, model, response_id, usage, duration_ms }
    }

    /// Says what a request has used of what was reserved for it.
    async fn settle(&self, known: &Known, used: Used) -> Result<(), StoreError> {
        let Some(conversation) = known.conversation() else { return Ok(()) };
        let pipeline = match self.definitions.get(&known.run.head.digest).await {
            Ok(pipeline) => pipeline,
            Err(DefinitionError::Store(error)) => return Err(error),
            // What is reserved counts until it lapses.
            Err(DefinitionError::Unusable(_)) => return Ok(()),
        };
        if !self.quotas().concern(&known.run, &pipeline) {
            return Ok(());
        }
        // Which meters there are, and not how much is asked of them.
        let worst = Worst { tokens: 0, micros: Some(0) };
        let (provider, alias) = (&conversation.head.provider, &conversation.head.alias);
        let demand = Demand::Model { provider, alias, worst };
        let Ok(mut counted) = self.quotas().charges(&known.run, &pipeline, &known.step, demand) else { return Ok(()) };
        counted.retain(|counted| matches!(counted.of, Quota::Budget(_)));
        let Ok(id) = reservation(&known.entry.id) else { return Ok(()) };
        if counted.is_empty() {
            return Ok(());
        }
        let spent = Grant { id: None, counted, begun: true, outlives: true }.spent(used);
        let settled = self.store().settle(Settle { id, spent }).await?;
        for task in settled.called {
            if let Err(error) = self.store().signal(task, Signal::Room).await {
                tracing::debug!(%task, %error, "its turn has come, and it cannot be told");
            }
        }
        Ok(())
    }

    /// The newest request of a step, if it is this one.
    async fn known(&self, id: &EntryId) -> Result<Option<Known>, StoreError> {
        let task = id.task();
        let journal = self.store().journal(task, 0, MOST_EVENTS).await?;
        let Ok(run) = Run::fold(task, &journal) else { return Ok(None) };
        let found = run.steps.iter().find_map(|(step, known)| {
            let entry = known.entry.as_ref().filter(|entry| entry.id == *id)?;
            Some((step.clone(), entry.clone()))
        });
        Ok(found.map(|(step, entry)| Known { run, step, entry }))
    }
}
