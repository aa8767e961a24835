//! Child tasks of `pipeline` steps.
//!
//! A child is a task of its own, submitted with a key that is derived from its
//! parent: a fan-out that is repeated after a crash finds its children instead
//! of making more.

use std::sync::Arc;

use common::failure::{Failure, FailureClass};
use common::id::{IdempotencyKey, PipelineName, StepKey, TaskId};
use common::journal::{Allowance, Event, Run, SealedValues};
use common::pipeline::model::{Pipeline, StepKind};
use common::store::{StoreError, Submission};
use common::submission::{self, NewTask};
use common::task::Parent;
use serde_json::Value;

use super::{Executor, internal};
use crate::quota::charge::allowances;
use crate::tools::private::PrivateData;

/// A child that is to be submitted.
pub(super) struct Child {
    pipeline: Option<PipelineName>,
    key: String,
    parent: Parent,
    input: Value,
    /// What the tokens in it stand for.
    sealed: Arc<SealedValues>,
    priority: u8,
    traceparent: Option<String>,
    allowances: Vec<Allowance>,
}

impl Child {
    pub(super) fn of(run: &Run, pipeline: &Pipeline, step: &StepKey, input: Value) -> Self {
        let name = match pipeline.step(&step.step).map(|step| &step.kind) {
            Some(StepKind::Pipeline(child)) => Some(child.pipeline.clone()),
            _ => None,
        };
        let generation = run.step(step).map_or(0, |known| known.generation);
        let depth = run.head.parent.as_ref().map_or(1, |parent| parent.depth + 1);
        Self {
            pipeline: name,
            key: format!("child:{}:{step}:{generation}", run.head.id),
            parent: Parent { task: run.head.id, step: step.clone(), depth },
            input,
            sealed: Arc::clone(&run.sealed),
            priority: run.head.priority,
            traceparent: run.submitted.traceparent.clone(),
            allowances: allowances(run, pipeline),
        }
    }
}

impl Executor {
    /// Submits a child, or finds it.
    pub(super) async fn submit_child(&self, child: Child) -> Result<Vec<Event>, Failure> {
        let step = child.parent.step.clone();
        let depth = self.config.limits.child_depth;
        if child.parent.depth > depth {
            let message = format!("pipelines run each other more than {depth} deep (limits.child_depth)");
            return Err(Failure::new(FailureClass::Limit, message));
        }
        let submission = self.submission(child).await?;
        let receipts = self.store.submit(vec![submission]).await.map_err(store_failure)?;
        let receipt = receipts.into_iter().next().ok_or_else(|| internal("the store gave no receipt"))?;
        // If it is done already, the store says so in its answer to the append.
        Ok(vec![Event::ChildSubmitted { step, child: receipt.id }])
    }

    async fn submission(&self, child: Child) -> Result<Submission, Failure> {
        let name = child.pipeline.ok_or_else(|| internal("the step runs no pipeline"))?;
        let definition = self.store.current(&name).await.map_err(store_failure)?.ok_or_else(|| {
            Failure::new(
                FailureClass::Configuration,
                format!("there is no pipeline {name}; apply it, then replay the task"),
            )
        })?;
        let pipeline = self.definitions.compile(&definition)?;
        let key = IdempotencyKey::new(child.key).map_err(|error| internal(error.to_string()))?;
        let private = self.outside.private.as_ref().map(PrivateData::private);
        // The child's schema is about the values, and its journal needs those that its own tokens stand for.
        let input = private.map(|private| private.reveal(&child.input, &child.sealed));
        let new = NewTask {
            input: input.unwrap_or(child.input),
            key: Some(key),
            priority: Some(child.priority),
            parent: Some(child.parent),
            traceparent: child.traceparent,
            allowances: child.allowances,
            ..NewTask::default()
        };
        let id = TaskId::new(self.clock.now(), self.entropy.bytes());
        submission::submission(&pipeline, new, id, private).map_err(|complaints| {
            let list: Vec<String> = complaints.iter().map(ToString::to_string).collect();
            let message = format!("pipeline {name} does not take the input: {}", list.join("; "));
            Failure::new(FailureClass::InvalidRequest, message)
        })
    }
}

fn store_failure(error: StoreError) -> Failure {
    match error {
        StoreError::Unavailable(why) => Failure::new(FailureClass::Unavailable, why),
        StoreError::Refused(why) => Failure::new(FailureClass::InvalidRequest, why),
        StoreError::Damaged(why) => Failure::new(FailureClass::Internal, why),
    }
}
