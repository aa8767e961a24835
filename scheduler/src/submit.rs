//! From a request to a submission: the pure part that the API, webhooks,
//! batches and schedules share. Checks the input, renders the labels, and
//! decides nothing else; ids, time and the store are the caller's.

use std::collections::BTreeMap;

use common::clock::Timestamp;
use common::id::{BatchId, GroupKey, IdempotencyKey, QueueName, TaskId};
use common::journal::Submitted;
use common::pipeline::template::Scope;
use common::store::Submission;
use serde_json::Value;

use crate::api::wire::Complaint;
use crate::catalog::Compiled;

/// At most so many labels on one task.
const LABELS: usize = 32;
/// The longest name of a label, in bytes.
const LABEL_NAME: usize = 64;
/// The longest value of a label, in bytes.
const LABEL_VALUE: usize = 256;

/// A task that someone wants. Everything but the input has a default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewTask {
    /// What it works on.
    pub input: Value,
    /// The key under which the submit is idempotent.
    pub key: Option<IdempotencyKey>,
    /// Where it queues; by default as the pipeline says.
    pub queue: Option<QueueName>,
    /// 0 (last) to 9 (first); by default as the pipeline says.
    pub priority: Option<u8>,
    /// Not before this time.
    pub run_at: Option<Timestamp>,
    /// They win over the labels that the pipeline gives.
    pub labels: BTreeMap<String, String>,
    /// The batch and the line in it.
    pub batch: Option<(BatchId, u64)>,
    /// The group of which only the newest task is wanted.
    pub supersede: Option<GroupKey>,
    /// The W3C `traceparent` that came in with it.
    pub traceparent: Option<String>,
}

/// The submission of a task, or all that is wrong with it. Pointers are those
/// of the body of `POST /v1/tasks`.
pub fn submission(
    compiled: &Compiled,
    new: NewTask,
    id: TaskId,
    env: &BTreeMap<String, String>,
) -> Result<Submission, Vec<Complaint>> {
    let pipeline = &compiled.pipeline;
    let mut complaints: Vec<Complaint> = compiled
        .complaints(&new.input)
        .into_iter()
        .map(|found| Complaint { pointer: format!("/input{}", found.pointer), ..found })
        .collect();
    if let Some(priority @ 10..) = new.priority {
        complaints.push(complaint("/priority", format!("{priority} is not a priority; use 0 (last) to 9 (first)")));
    }
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let labels = labels(compiled, &new, env).map_err(|why| vec![complaint("/labels", why)])?;
    let (batch, line) = new.batch.map_or((None, None), |(batch, line)| (Some(batch), Some(line)));
    let task = Submitted {
        pipeline: pipeline.name.clone(),
        digest: pipeline.digest.clone(),
        queue: new.queue.unwrap_or_else(|| pipeline.queue.clone()),
        priority: new.priority.unwrap_or(pipeline.priority),
        input: new.input,
        run_at: new.run_at,
        labels,
        key: new.key,
        parent: None,
        batch,
        traceparent: new.traceparent,
    };
    Ok(Submission { id, task, supersede: new.supersede, line })
}

fn complaint(pointer: &str, message: String) -> Complaint {
    Complaint { pointer: pointer.to_owned(), message }
}

fn labels(
    compiled: &Compiled,
    new: &NewTask,
    env: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    if !compiled.pipeline.labels.is_empty() {
        let scope = Scope::of_input(&new.input, env);
        for (name, template) in &compiled.pipeline.labels {
            let value = template.render_text(&scope).map_err(|failure| failure.message)?;
            // What the pipeline makes of an input is cut; what a person says is refused.
            labels.insert(name.clone(), crate::catalog::cut(value, LABEL_VALUE));
        }
    }
    for (name, value) in &new.labels {
        if name.is_empty() || name.len() > LABEL_NAME || value.len() > LABEL_VALUE {
            return Err(format!(
                "a label's name has 1 to {LABEL_NAME} bytes and its value at most {LABEL_VALUE}; {:?} breaks that",
                crate::catalog::cut(name.clone(), LABEL_NAME)
            ));
        }
        labels.insert(name.clone(), value.clone());
    }
    if labels.len() > LABELS {
        return Err(format!("a task has at most {LABELS} labels, not {}", labels.len()));
    }
    Ok(labels)
}

/// A `traceparent` header, if it is one: <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub fn traceparent(header: &str) -> Option<String> {
    let parts: Vec<&str> = header.split('-').collect();
    let [version, trace, parent, flags, ..] = parts.as_slice() else { return None };
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let known = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && header.len() <= 256;
    known.then(|| header.to_owned())
}
