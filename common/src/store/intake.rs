//! What every store checks and encodes before it goes to its server or its
//! writer: sizes, counts, and values as JSON. Pure; knows no backend.

use super::book::Entry;
use super::ledger;
use super::{Append, Limits, Next, SignalError, StoreError, Submission, Transcript};
use crate::clock::Timestamp;
use crate::id::{BlobName, TaskId};
use crate::journal::chain::{self, Reading};
use crate::journal::{Chained, Event, EventHash, Fingerprint, Recorded, Reference, Seal, SealKey, Submitted};
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
    /// The fingerprint of that event.
    pub print: Fingerprint,
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
    let print = Fingerprint::of(&submitted).map_err(unencodable)?;
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
    Ok(Accepted { id, task: *task, event, print, blobs })
}

impl Accepted {
    /// The task at time `at`: what [`ledger::open`] makes, without a copy of what is encoded already.
    pub fn entry(&self, at: Timestamp) -> Entry {
        let hash = EventHash::of(self.id, None, 1, at, &self.print);
        Entry::open(Head::open(self.id, at, &self.task), self.event.len() as u64, Some(hash))
    }

    /// Its first event in its place.
    pub fn first(&self, entry: &Entry) -> Chained {
        Chained { seq: 1, at: entry.head.created_at, event: self.event.clone(), hash: entry.hash }
    }
}

/// The events of an append as JSON, that of its `next` included.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// In order.
    pub events: Vec<String>,
    /// Their fingerprints.
    pub prints: Vec<Fingerprint>,
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
    let mut prints = Vec::with_capacity(append.events.len() + 1);
    let mut blobs = Vec::new();
    for event in append.events.iter().chain(&append.next.clone().into_event()) {
        let unencodable = |error| StoreError::Refused(format!("an event {} cannot be encoded: {error}", event.kind()));
        let encoded = serde_json::to_string(event).map_err(unencodable)?;
        prints.push(Fingerprint::of(event).map_err(unencodable)?);
        blobs.extend(Reference::in_event(event, &encoded));
        events.push(encoded);
    }
    let ends = matches!(append.next, Next::Cancel { .. } | Next::Die { .. } | Next::Release { .. });
    // A task whose journal is full must still be able to end.
    let counted_bytes =
        if append.events.is_empty() && ends { 0 } else { events.iter().map(|event| event.len() as u64).sum() };
    Ok(Encoded { events, prints, counted_bytes, blobs })
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
    /// Their hashes, as far as they had any.
    pub hashes: Vec<Option<EventHash>>,
    /// The newest seal.
    pub seal: Option<Seal>,
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
    let Transcript { id, journal, hashes, seal } = task;
    Head::fold(id, &journal)
        .map_err(|illegal| StoreError::Refused(format!("what was given for task {id} is no journal: {illegal}")))?;
    let unencodable = |error| StoreError::Refused(format!("an event of task {id} cannot be encoded: {error}"));
    let events: Vec<String> = journal
        .iter()
        .map(|recorded| serde_json::to_string(&recorded.event).map_err(unencodable))
        .collect::<Result<_, _>>()?;
    let hashes = verified(id, &journal, &events, hashes, seal)?;
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
    Ok(Moved { id, journal, events, hashes, seal, blobs })
}

/// The hashes of a journal, one for each event, if it is what was written where it comes from.
fn verified(
    id: TaskId,
    journal: &[Recorded],
    events: &[String],
    mut hashes: Vec<Option<EventHash>>,
    seal: Option<Seal>,
) -> Result<Vec<Option<EventHash>>, StoreError> {
    if hashes.len() > journal.len() {
        return Err(StoreError::Refused(format!("task {id} has more hashes than events")));
    }
    hashes.resize(journal.len(), None);
    let chained = |((recorded, event), hash): ((&Recorded, &String), &Option<EventHash>)| Chained {
        seq: recorded.seq,
        at: recorded.at,
        event: event.clone(),
        hash: *hash,
    };
    let chained: Vec<Chained> = journal.iter().zip(events).zip(&hashes).map(chained).collect();
    let witness = chain::Witness { task: id, version: journal.len() as u64, seal, keys: &[] };
    match chain::verify(&witness, &chained).faults.first() {
        None => Ok(hashes),
        Some(fault) => Err(StoreError::Refused(format!(
            "the journal of task {id} is not what was written: {fault}; nothing of it is taken"
        ))),
    }
}

/// A task that comes from another store, as it is to be here.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The task.
    pub entry: Entry,
    /// Its whole journal, with what its coming added.
    pub journal: Vec<Chained>,
    /// The newest seal.
    pub seal: Option<Seal>,
}

impl Moved {
    /// Makes the task one of this store at time `now`: nobody holds it any more. What that adds is sealed.
    ///
    /// # Errors
    /// [`StoreError::Refused`], if what was given is no journal.
    pub fn settle(&self, now: Timestamp, key: Option<&SealKey>) -> Result<Arrival, StoreError> {
        let refuse = |why: &dyn std::fmt::Display| {
            StoreError::Refused(format!("what was given for task {} is no journal: {why}", self.id))
        };
        let (head, added) = ledger::restore(self.id, &self.journal, now).map_err(|illegal| refuse(&illegal))?;
        let events = self.journal.iter().zip(&self.events).zip(&self.hashes);
        let mut journal: Vec<Chained> = events
            .map(|((r, event), hash)| Chained { seq: r.seq, at: r.at, event: event.clone(), hash: *hash })
            .collect();
        let reading = Reading::of(&self.journal);
        let mut hash = chain::head(self.id, None, reading, self.journal.iter().zip(self.hashes.iter().copied()));
        if self.hashes.iter().all(Option::is_none) {
            for (chained, recorded) in journal.iter_mut().zip(&self.journal) {
                let print = Fingerprint::read(recorded.event.clone(), reading);
                let (print, _) = print.map_err(|error| refuse(&error))?;
                hash = Some(EventHash::of(self.id, hash, chained.seq, chained.at, &print));
                chained.hash = hash;
            }
        }
        let mut seal = self.seal;
        for Recorded { seq, at, event } in &added {
            let print = Fingerprint::of(event).map_err(|error| refuse(&error))?;
            let next = EventHash::of(self.id, hash, *seq, *at, &print);
            let event = serde_json::to_string(event).map_err(|error| refuse(&error))?;
            journal.push(Chained { seq: *seq, at: *at, event, hash: Some(next) });
            hash = Some(next);
        }
        let bytes = journal.iter().map(|chained| chained.event.len() as u64).sum();
        let entry = Entry::open(head, bytes, hash);
        if !added.is_empty() {
            seal = key.and_then(|key| entry.sealed(key)).or(seal);
        }
        Ok(Arrival { entry, journal, seal })
    }
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
