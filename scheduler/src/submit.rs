//! From a request to a submission: the pure part that the API, webhooks,
//! batches and schedules share. Checks the input, renders the labels, and
//! decides nothing else; ids, time and the store are the caller's.

use std::collections::BTreeMap;

use common::clock::Timestamp;
use common::id::{BatchId, GroupKey, IdempotencyKey, QueueName, TaskId};
use common::journal::Submitted;
use common::pipeline::model::{Pipeline, SchemaIssue};
use common::pipeline::template::Scope;
use common::store::Submission;
use serde_json::Value;

use crate::api::wire::Complaint;

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
pub fn submission(pipeline: &Pipeline, new: NewTask, id: TaskId) -> Result<Submission, Vec<Complaint>> {
    let mut complaints = input_complaints(pipeline, &new.input);
    if let Some(priority @ 10..) = new.priority {
        complaints.push(complaint("/priority", format!("{priority} is not a priority; use 0 (last) to 9 (first)")));
    }
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let labels = labels(pipeline, &new).map_err(|why| vec![complaint("/labels", why)])?;
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

/// What of an input does not fit the pipeline's schema.
pub(crate) fn input_complaints(pipeline: &Pipeline, input: &Value) -> Vec<Complaint> {
    let issues = pipeline.input.as_ref().and_then(|schema| schema.validate(input).err()).unwrap_or_default();
    let complaint =
        |issue: SchemaIssue| Complaint { pointer: format!("/input{}", issue.pointer), message: issue.message };
    issues.into_iter().map(complaint).collect()
}

fn complaint(pointer: &str, message: String) -> Complaint {
    Complaint { pointer: pointer.to_owned(), message }
}

fn labels(pipeline: &Pipeline, new: &NewTask) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    if !pipeline.labels.is_empty() {
        let scope = Scope::of_input(&new.input);
        for (name, template) in &pipeline.labels {
            let value = template.render_text(&scope).map_err(|failure| failure.message)?;
            // What the pipeline makes of an input is cut; what a person says is refused.
            labels.insert(name.clone(), cut(value, LABEL_VALUE));
        }
    }
    for (name, value) in &new.labels {
        if name.is_empty() || name.len() > LABEL_NAME || value.len() > LABEL_VALUE {
            return Err(format!(
                "a label's name has 1 to {LABEL_NAME} bytes and its value at most {LABEL_VALUE}; {:?} breaks that",
                cut(name.clone(), LABEL_NAME)
            ));
        }
        labels.insert(name.clone(), value.clone());
    }
    if labels.len() > LABELS {
        return Err(format!("a task has at most {LABELS} labels, not {}", labels.len()));
    }
    Ok(labels)
}

/// A text of at most `limit` bytes, cut at a character.
pub(crate) fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit.saturating_sub('…'.len_utf8())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A `traceparent` header, if it is one: <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub fn traceparent(header: &str) -> Option<String> {
    let parts: Vec<&str> = header.split('-').collect();
    let [version, trace, parent, flags, ..] = parts.as_slice() else { return None };
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let known = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && header.len() <= 256;
    known.then(|| header.to_owned())
}
