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
    let again = pipeline.steps.iter().filter(|step| {
        &step.id == from || step.within.as_ref() == Some(from) || graph.ancestors(&step.id).contains(from)
    });
    Ok(again.map(|step| step.id.clone()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::diagnostic::{Diagnostics, SourceFile};
    use crate::id::Digest;
    use crate::pipeline::source::{self, Files};

    fn pipeline() -> Pipeline {
        let text = "name: p\nsteps:\n  - {id: a, set: 1}\n  - {id: b, set: 1}\n  - {id: c, needs: [a], set: 1}\n  - {id: d, needs: [b, c], set: 1}\n";
        let file = SourceFile::new("pipelines/p.yaml", text);
        source::read(&file, &Files::default(), &Digest::of(b""), &mut Diagnostics::new()).unwrap().pipeline
    }

    #[test]
    fn a_replay_resets_a_step_and_all_that_need_it() {
        let pipeline = pipeline();
        for (from, expected) in [("a", "a b c d"), ("b", "b d"), ("c", "c d"), ("d", "d")] {
            let steps = reset(&pipeline, Some(&StepId::new(from).unwrap())).unwrap();
            let steps: Vec<&str> = steps.iter().map(StepId::as_str).collect();
            assert_eq!(steps.join(" "), expected);
        }
        assert_eq!(reset(&pipeline, None), Ok(vec![]));
    }

    #[test]
    fn a_replay_from_an_unknown_step_says_which_there_are() {
        let error = reset(&pipeline(), Some(&StepId::new("x").unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "the pipeline has no step x; it has a, b, c, d");
    }
}
