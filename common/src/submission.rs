//! Making a task of an input: pure, and the same for the API, webhooks,
//! batches, schedules and child tasks.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::failure::Failure;
use crate::journal::Submitted;
use crate::pipeline::model::{Pipeline, SchemaIssue};
use crate::pipeline::template::Scope;

/// The most labels of a task, given and rendered together.
pub const LABELS: usize = 32;
/// The longest key or value of a label, in bytes.
pub const LABEL_BYTES: usize = 256;

/// Why an input makes no task.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InputRefused {
    /// It does not fit the pipeline's schema.
    #[error("the input does not fit its schema: {}", list(.0))]
    Schema(Vec<SchemaIssue>),
    /// A label of the pipeline cannot be rendered from it.
    #[error("a label cannot be rendered: {0}")]
    Label(Failure),
    /// There are too many labels, or one is too long.
    #[error("a task may have {LABELS} labels of at most {LABEL_BYTES} bytes")]
    LabelLimit,
}

fn list(issues: &[SchemaIssue]) -> String {
    issues.iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A task for an input, by the pipeline's definition; without key, parent,
/// batch, time or trace, which are the caller's to add.
pub fn submitted(
    pipeline: &Pipeline,
    input: Value,
    given: &BTreeMap<String, String>,
) -> Result<Submitted, InputRefused> {
    if let Some(schema) = &pipeline.input {
        schema.validate(&input).map_err(InputRefused::Schema)?;
    }
    let mut labels = BTreeMap::new();
    if !pipeline.labels.is_empty() {
        let scope = Scope::of_input(&input);
        for (name, template) in &pipeline.labels {
            labels.insert(name.clone(), template.render_text(&scope).map_err(InputRefused::Label)?);
        }
    }
    labels.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
    if labels.len() > LABELS || labels.iter().any(|(name, value)| name.len().max(value.len()) > LABEL_BYTES) {
        return Err(InputRefused::LabelLimit);
    }
    Ok(Submitted {
        pipeline: pipeline.name.clone(),
        digest: pipeline.digest.clone(),
        queue: pipeline.queue.clone(),
        priority: pipeline.priority,
        input,
        run_at: None,
        labels,
        key: None,
        parent: None,
        batch: None,
        traceparent: None,
    })
}
