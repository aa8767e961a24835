//! From an input to a submission: pure, and the same for the API, webhooks,
//! batches, schedules and child tasks. Checks the input, seals what is private in
//! all of it, renders the labels, and decides nothing else; ids, time and the
//! store are the caller's.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{BatchId, GroupKey, IdempotencyKey, QueueName, TaskId, Token};
use crate::journal::{Allowance, SealedValues, Submitted};
use crate::pipeline::model::{Pipeline, SchemaIssue};
use crate::pipeline::template::Scope;
use crate::private::{Private, Sealer};
use crate::store::Submission;
use crate::task::Parent;

/// At most so many labels on one task.
const LABELS: usize = 32;
/// The longest name of a label, in bytes.
const LABEL_NAME: usize = 64;
/// The longest value of a label, in bytes.
const LABEL_VALUE: usize = 256;
/// The most private values in one task that comes in.
const PRIVATE_VALUES: usize = 10_000;

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
    /// The task and step that want it.
    pub parent: Option<Parent>,
    /// The W3C `traceparent` that came in with it.
    pub traceparent: Option<String>,
    /// The budgets of its ancestors.
    pub allowances: Vec<Allowance>,
}

/// Something that is wrong with a task that someone wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct Complaint {
    /// Where: a JSON pointer into the body of `POST /v1/tasks`.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

impl Complaint {
    fn new(pointer: &str, message: String) -> Self {
        Self { pointer: pointer.to_owned(), message }
    }
}

/// The submission of a task, or all that is wrong with it. What is private in it is sealed behind the check, and before
/// anything is made of it; complaints do not repeat it.
pub fn submission(
    pipeline: &Pipeline,
    new: NewTask,
    id: TaskId,
    private: Option<&Private>,
) -> Result<Submission, Vec<Complaint>> {
    let known = SealedValues::default();
    let mut sealer = private.map(|private| private.sealer(&known));
    let made = sealed_submission(pipeline, new, id, sealer.as_mut());
    made.map_err(|mut complaints| {
        if let Some(sealer) = &mut sealer {
            for complaint in &mut complaints {
                sealer.text(&mut complaint.message);
            }
        }
        complaints
    })
}

fn sealed_submission(
    pipeline: &Pipeline,
    mut new: NewTask,
    id: TaskId,
    sealer: Option<&mut Sealer<'_>>,
) -> Result<Submission, Vec<Complaint>> {
    let mut complaints = input_complaints(pipeline, &new.input);
    if let Some(priority @ 10..) = new.priority {
        let message = format!("{priority} is not a priority; use 0 (last) to 9 (first)");
        complaints.push(Complaint::new("/priority", message));
    }
    let sealed = match sealer {
        Some(sealer) => {
            complaints.extend(seal(&mut new, sealer));
            sealer.take()
        }
        None => SealedValues::default(),
    };
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let labels = labels(pipeline, &new).map_err(|why| vec![Complaint::new("/labels", why)])?;
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
        parent: new.parent,
        batch,
        line,
        supersede: new.supersede,
        traceparent: new.traceparent,
        allowances: new.allowances,
        sealed,
    };
    Ok(Submission::new(id, task))
}

/// Seals all that a caller says of a task.
fn seal(new: &mut NewTask, sealer: &mut Sealer<'_>) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    sealer.value(&mut new.input);
    for (name, value) in &mut new.labels {
        // Judged as it was given: a token is longer.
        if value.len() <= LABEL_VALUE {
            sealer.named(name, value);
        }
    }
    let mut short = |pointer, text: &str| {
        let mut text = text.to_owned();
        sealer.text(&mut text);
        let too_long = |error| complaints.push(Complaint::new(pointer, format!("with private values sealed, {error}")));
        IdempotencyKey::new(text).map_err(too_long).ok()
    };
    if let Some(key) = new.key.take() {
        new.key = short("/idempotency_key", key.as_str());
    }
    if let Some(group) = new.supersede.take() {
        new.supersede = short("/supersede", group.as_str()).and_then(|group| GroupKey::new(group.as_str()).ok());
    }
    if sealer.len() > PRIVATE_VALUES {
        let message =
            format!("it holds {} private values; at most {PRIVATE_VALUES} are taken in one task", sealer.len());
        complaints.push(Complaint::new("/input", message));
    }
    complaints
}

/// What of an input does not fit the pipeline's schema.
pub fn input_complaints(pipeline: &Pipeline, input: &Value) -> Vec<Complaint> {
    let issues = pipeline.input.as_ref().and_then(|schema| schema.validate(input).err()).unwrap_or_default();
    let complaint = |issue: SchemaIssue| Complaint::new(&format!("/input{}", issue.pointer), issue.message);
    issues.into_iter().map(complaint).collect()
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
        // A value that was within the limit may have grown by its tokens.
        let tokens: usize = Token::all_in(value).map(|(place, _)| place.len()).sum();
        if name.is_empty() || name.len() > LABEL_NAME || value.len() - tokens > LABEL_VALUE {
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
fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit.saturating_sub('…'.len_utf8())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
