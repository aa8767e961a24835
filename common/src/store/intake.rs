//! What every store checks and encodes before it goes to its server or its
//! writer: sizes, counts, and values as JSON. Pure; knows no backend.

use super::{Append, Limits, Next, SignalError, StoreError, Submission, Transcript};
use crate::id::{BlobName, TaskId};
use crate::journal::{Event, Recorded, Reference, Submitted};
use crate::task::{Head, Signal};

/// Names, labels and the like beside a value, in bytes of JSON.
const ENVELOPE: usize = 64 << 10;

/// A submission with its first event as JSON.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The id that it gets, if it is new.
    pub id: TaskId,
    /// The task.
    pub task: Submitted,
    /// Its `submitted` event as JSON.
    pub event: String,
    /// What it refers to: refused if that is not kept.
    pub blobs: Vec<BlobName>,
}

/// Checks a call of `submit`, and encodes it.
///
/// # Errors
/// [`StoreError::Refused`], which names the task by its number in the call, from 1.
pub fn submissions(submissions: Vec<Submission>, limits: &Limits) -> Result<Vec<Accepted>, StoreError> {
    number_of_submissions(submissions.len(), limits)?;
    submissions.into_iter().zip(1..).map(|(submission, number)| accept(number, submission, limits)).collect()
}

/// Checks how many tasks there are in one call of `submit`.
///
/// # Errors
/// [`StoreError::Refused`].
pub fn number_of_submissions(number: usize, limits: &Limits) -> Result<(), StoreError> {
    if number <= limits.submissions {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{number} tasks in one call; at most {} are allowed (limits.submissions): send them in several calls",
        limits.submissions
    )))
}

/// The answer to an input of so many bytes, of the task of this number in the call, from 1.
pub fn too_large_an_input(number: usize, bytes: usize, limits: &Limits) -> StoreError {
    StoreError::Refused(format!(
        "the input of task {number} of the call has {bytes} bytes; at most {} are allowed (limits.input)",
        limits.input_bytes
    ))
}

fn accept(number: usize, submission: Submission, limits: &Limits) -> Result<Accepted, StoreError> {
    let unencodable = |error| StoreError::Refused(format!("task {number} of the call cannot be encoded: {error}"));
    let (id, task) = submission.into_parts();
    // Moved in and out: an event is encoded as it will be read, without a copy of the input.
    let submitted = Event::Submitted(Box::new(task));
    let event = serde_json::to_string(&submitted).map_err(unencodable)?;
    let blobs = Reference::in_event(&submitted, &event);
    let Event::Submitted(task) = submitted else {
        return Err(StoreError::Refused(format!("task {number} of the call is not a submission")));
    };
    if event.len() > limits.input_bytes {
        let input = serde_json::to_string(&task.input).map_err(unencodable)?.len();
        if input > limits.input_bytes {
            return Err(too_large_an_input(number, input, limits));
        }
        if event.len() - input > ENVELOPE {
            return Err(StoreError::Refused(format!(
                "the labels and names of task {number} of the call have {} bytes; at most {ENVELOPE} are allowed",
                event.len() - input
            )));
        }
    }
    Ok(Accepted { id, task: *task, event, blobs })
}

/// The events of an append as JSON, that of its `next` included.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// In order.
    pub events: Vec<String>,
    /// What counts against the limit of the journal.
    pub counted_bytes: u64,
    /// What they refer to: refused if that is not kept.
    pub blobs: Vec<BlobName>,
}

/// Encodes the events of an append.
///
/// # Errors
/// [`StoreError::Refused`] if one of them has no form in JSON.
pub fn append(append: &Append) -> Result<Encoded, StoreError> {
    let mut events = Vec::with_capacity(append.events.len() + 1);
    let mut blobs = Vec::new();
    for event in append.events.iter().chain(&append.next.clone().into_event()) {
        let encoded = serde_json::to_string(event)
            .map_err(|error| StoreError::Refused(format!("an event {} cannot be encoded: {error}", event.kind())))?;
        blobs.extend(Reference::in_event(event, &encoded));
        events.push(encoded);
    }
    let ends = matches!(append.next, Next::Cancel { .. } | Next::Die { .. } | Next::Release { .. });
    // A task whose journal is full must still be able to end.
    let counted_bytes =
        if append.events.is_empty() && ends { 0 } else { events.iter().map(|event| event.len() as u64).sum() };
    Ok(Encoded { events, counted_bytes, blobs })
}

/// A task that comes from another store, with its events as JSON.
#[derive(Debug, Clone)]
pub struct Moved {
    /// The task.
    pub id: TaskId,
    /// All that it had, in order.
    pub journal: Vec<Recorded>,
    /// The same events as JSON.
    pub events: Vec<String>,
    /// What they refer to: refused if that is not kept.
    pub blobs: Vec<BlobName>,
}

impl Moved {
    /// What was submitted once.
    pub fn submitted(&self) -> Option<&Submitted> {
        match self.journal.first().map(|first| &first.event) {
            Some(Event::Submitted(submitted)) => Some(submitted),
            _ => None,
        }
    }
}

/// Checks a call of `restore`, and encodes it: each journal must be one.
///
/// # Errors
/// [`StoreError::Refused`], which names the task.
pub fn transcripts(tasks: Vec<Transcript>, limits: &Limits) -> Result<Vec<Moved>, StoreError> {
    number_of_submissions(tasks.len(), limits)?;
    tasks.into_iter().map(|task| transcript(task, limits)).collect()
}

fn transcript(task: Transcript, limits: &Limits) -> Result<Moved, StoreError> {
    let Transcript { id, journal } = task;
    Head::fold(id, &journal)
        .map_err(|illegal| StoreError::Refused(format!("what was given for task {id} is no journal: {illegal}")))?;
    let unencodable = |error| StoreError::Refused(format!("an event of task {id} cannot be encoded: {error}"));
    let events: Vec<String> = journal
        .iter()
        .map(|recorded| serde_json::to_string(&recorded.event).map_err(unencodable))
        .collect::<Result<_, _>>()?;
    let bytes: u64 = events.iter().map(|event| event.len() as u64).sum();
    // A journal may be full and still have grown: by what others sent to its task, and by its end.
    let limit = limits.journal_bytes.saturating_add(limits.input_bytes as u64).saturating_mul(2);
    if bytes > limit {
        return Err(StoreError::Refused(format!(
            "the journal of task {id} has {bytes} bytes; at most {limit} are taken from another store (limits.journal)"
        )));
    }
    let references = journal.iter().zip(&events).flat_map(|(r, encoded)| Reference::in_event(&r.event, encoded));
    let blobs = references.collect();
    Ok(Moved { id, journal, events, blobs })
}

/// Checks that what a person sends into a journal is as large as an input at most.
///
/// # Errors
/// [`StoreError::Refused`].
pub fn signal(signal: &Signal, limits: &Limits) -> Result<(), SignalError> {
    let encoded = serde_json::to_string(signal).map_err(|error| StoreError::Refused(error.to_string()))?;
    if encoded.len() > largest_signal(limits) {
        return Err(too_large_a_signal(encoded.len(), limits).into());
    }
    Ok(())
}

/// How large a signal may be, in bytes of JSON.
pub fn largest_signal(limits: &Limits) -> usize {
    limits.input_bytes.saturating_add(ENVELOPE)
}

/// The answer to a signal of so many bytes.
pub fn too_large_a_signal(bytes: usize, limits: &Limits) -> StoreError {
    let limit = largest_signal(limits);
    StoreError::Refused(format!("the signal has {bytes} bytes; at most {limit} are allowed (limits.input)"))
}
