//! What a replay of a task starts again: pure.

use super::graph::Graph;
use super::model::Pipeline;
use crate::id::StepId;

/// A step that the pipeline does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has no step {step}; it has {}", known.join(", "))]
pub struct UnknownStep {
    /// What was asked for.
    pub step: StepId,
    /// What there is.
    pub known: Vec<String>,
}

/// The steps that a replay from a step starts from nothing: that step and all
/// that need it, directly or not, in the order of the file. Without one: none,
/// which goes on where the task stopped.
pub fn reset(pipeline: &Pipeline, from: Option<&StepId>) -> Result<Vec<StepId>, UnknownStep> {
    let Some(from) = from else { return Ok(Vec::new()) };
    if pipeline.step(from).is_none() {
        let known = pipeline.steps.iter().map(|step| step.id.to_string()).collect();
        return Err(UnknownStep { step: from.clone(), known });
    }
    let graph = Graph::of(pipeline.steps.iter());
    let again = pipeline.steps.iter().filter(|step| &step.id == from || graph.ancestors(&step.id).contains(from));
    Ok(again.map(|step| step.id.clone()).collect())
}
