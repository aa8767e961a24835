//! The journal of a task that this worker holds: every write of the executor
//! goes through here, and the fold is always that of what is durable.

use std::sync::Arc;
use std::time::Duration;

use common::clock::Timestamp;
use common::entropy::Entropy;
use common::failure::{Failure, FailureClass};
use common::id::{AppendId, LeaseToken};
use common::journal::{Event, Recorded, Run};
use common::metrics::Metrics;
use common::store::{Append, AppendError, Claim, Next, Store, StoreError};
use common::task::{DeadReason, IllegalEvent, State};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Executor;
use crate::fault::Fault;

/// The longest wait between two tries of an append.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Why nothing more can be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// Another may hold the task by now: forget it.
    #[error("the lease is lost")]
    Lost,
    /// The journal is not what this worker thinks: forget the task, its lease will expire.
    #[error("{0}")]
    Confused(String),
}

/// A journal under a lease.
#[derive(Debug)]
pub(super) struct HeldJournal {
    store: Arc<dyn Store>,
    entropy: Arc<dyn Entropy>,
    token: LeaseToken,
    lost: CancellationToken,
    fault: Arc<Fault>,
    metrics: Arc<Metrics>,
    run: Run,
    /// The store's time when it last answered, and when that was.
    heard: (Timestamp, Instant),
}

impl HeldJournal {
    /// Folds what came with a claim.
    pub(super) fn open(executor: &Executor, claim: &Claim, lost: CancellationToken) -> Result<Self, IllegalEvent> {
        let run = Run::fold(claim.task, &claim.journal)?;
        let heard = (run.head.updated_at, Instant::now());
        Ok(Self {
            store: Arc::clone(&executor.store),
            entropy: Arc::clone(&executor.entropy),
            token: claim.token,
            lost,
            fault: Arc::clone(&executor.fault),
            metrics: Arc::clone(&executor.metrics),
            run,
            heard,
        })
    }

    /// What is known of the task.
    pub(super) const fn run(&self) -> &Run {
        &self.run
    }

    /// The time by the store's clock, late by what an answer takes. Timers are
    /// judged by it and not by the worker's own clock: one that is behind would not
    /// believe that a task was woken in time, and park it again and again.
    pub(super) fn now(&self) -> Timestamp {
        let (at, when) = self.heard;
        at.plus(when.elapsed())
    }

    /// Whether this worker still holds the task.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.run.head.state, State::Running { .. })
    }

    /// What would be known if these events were written now.
    pub(super) fn with(&self, events: &[Event], at: Timestamp) -> Result<Run, IllegalEvent> {
        let mut run = self.run.clone();
        for event in events {
            run.apply(&Recorded { seq: run.head.version + 1, at, event: event.clone() })?;
        }
        Ok(run)
    }

    /// Writes events, and what happens to the task. Tries again while the store
    /// is out of reach and the lease holds; the same append is never written twice.
    pub(super) async fn append(&mut self, events: Vec<Event>, next: Next) -> Result<(), Stopped> {
        match self.try_append(events, next).await {
            Ok(()) => Ok(()),
            Err(AppendError::LeaseLost(_)) => Err(Stopped::Lost),
            Err(error @ AppendError::JournalFull { .. }) => {
                self.die(DeadReason::Limit, Failure::new(FailureClass::Limit, error.to_string())).await
            }
            Err(error @ AppendError::Illegal(_)) => {
                tracing::error!(task = %self.run.head.id, %error, "a fault of the program");
                self.die(DeadReason::Failed, Failure::new(FailureClass::Internal, error.to_string())).await
            }
            Err(AppendError::Store(StoreError::Refused(why))) => {
                self.die(DeadReason::Limit, Failure::new(FailureClass::Limit, why)).await
            }
            Err(error @ (AppendError::Conflict { .. } | AppendError::Store(_))) => {
                Err(Stopped::Confused(error.to_string()))
            }
        }
    }

    async fn die(&mut self, reason: DeadReason, error: Failure) -> Result<(), Stopped> {
        let next = Next::Die { reason, error, step: None };
        self.try_append(Vec::new(), next).await.map_err(|error| match error {
            AppendError::LeaseLost(_) => Stopped::Lost,
            error => Stopped::Confused(error.to_string()),
        })
    }

    async fn try_append(&mut self, events: Vec<Event>, next: Next) -> Result<(), AppendError> {
        let task = self.run.head.id;
        let append = Append {
            task,
            token: self.token,
            id: AppendId::new(self.entropy.bytes()),
            expected: self.run.head.version,
            events,
            next,
        };
        let number = self.fault.before_append();
        let mut wait = Duration::from_millis(20);
        let appended = loop {
            let answer = tokio::select! {
                biased;
                answer = self.store.append(append.clone()) => answer,
                () = self.lost.cancelled() => return Err(AppendError::LeaseLost(task)),
            };
            match answer {
                Err(AppendError::Store(StoreError::Unavailable(why))) => {
                    tracing::warn!(%task, why, "the store cannot be written to; trying again");
                    tokio::select! {
                        biased;
                        () = self.lost.cancelled() => return Err(AppendError::LeaseLost(task)),
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                answer => break answer?,
            }
        };
        self.fault.after_append(number);
        for recorded in &appended.recorded {
            self.run.apply(recorded)?;
            if let Event::StepFinished { step, .. } = &recorded.event
                && let Some(started) = self.run.step(step).and_then(|step| step.started_at)
            {
                self.metrics.step_took(recorded.at.since(started));
            }
        }
        // The answer to an append that was repeated may be an old one.
        let heard = self.run.head.updated_at;
        if heard > self.now() {
            self.heard = (heard, Instant::now());
        }
        Ok(())
    }
}
