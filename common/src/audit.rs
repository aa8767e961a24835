//! The audit of a store: whether journals are what was written, and who did what
//! when, one line an event. Reads only.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::clock::Timestamp;
use crate::id::{CallId, Digest, PipelineName, StepId, StepKey, TaskId};
use crate::journal::chain::{self, Reading, Verified, Witness};
use crate::journal::{
    CallResult, Chained, Event, EventHash, Fingerprint, PublicKey, Slot, StepOutcome, combined_digest, value_digest,
};
use crate::pipeline::compile;
use crate::pipeline::model::StepKind;
use crate::store::{Store, StoreError};
use crate::task::Outcome;

/// Events that are read at once.
const EVENTS: usize = 10_000;

/// Looks at the journal of a task; nothing if there is no such task. With keys, its seal is checked.
///
/// # Errors
/// The store's.
pub async fn verify(store: &dyn Store, task: TaskId, keys: &[PublicKey]) -> Result<Option<Verified>, StoreError> {
    // In this order: what is read later has grown at most.
    let seal = store.seal(task).await?;
    let Some(before) = store.head(task).await? else { return Ok(None) };
    let journal = journal(store, task).await?;
    let Some(after) = store.head(task).await? else { return Ok(None) };
    let last = journal.last().map_or(0, |last| last.seq);
    let version = last.clamp(before.version, after.version);
    Ok(Some(chain::verify(&Witness { task, version, seal, keys }, &journal)))
}

/// The whole journal of a task as it lies in the store.
///
/// # Errors
/// The store's.
pub async fn journal(store: &dyn Store, task: TaskId) -> Result<Vec<Chained>, StoreError> {
    let mut journal: Vec<Chained> = Vec::new();
    loop {
        let more = store.chain(task, journal.last().map_or(0, |last| last.seq), EVENTS).await?;
        let last = more.len() < EVENTS;
        journal.extend(more);
        if last {
            return Ok(journal);
        }
    }
}

/// Who did what when: an event as an auditor wants it. What people, models and tools wrote is there by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The task.
    pub session: TaskId,
    /// Its pipeline.
    pub pipeline: PipelineName,
    /// The number of the event.
    pub seq: u64,
    /// When it was written.
    pub time: Timestamp,
    /// What happened.
    pub event: &'static str,
    /// The step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepKey>,
    /// The agent that runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The call of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// What went in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_hash: Option<Digest>,
    /// What came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_hash: Option<Digest>,
    /// What was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<&'static str>,
    /// Who decided, asked, or did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// The hash of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_hash: Option<EventHash>,
}

/// The agents of the steps of pipelines, by definition.
#[derive(Debug, Default)]
pub struct Agents {
    known: HashMap<Digest, BTreeMap<StepId, String>>,
}

impl Agents {
    /// Those of a definition. One that cannot be read has none.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(&mut self, store: &dyn Store, digest: &Digest) -> Result<&BTreeMap<StepId, String>, StoreError> {
        if !self.known.contains_key(digest) {
            let pipeline = store.definition(digest).await?.and_then(|definition| compile(&definition).ok());
            let steps = pipeline.iter().flat_map(|pipeline| &pipeline.steps);
            let agents = steps.filter_map(|step| match &step.kind {
                StepKind::Agent(agent) => Some((step.id.clone(), agent.agent.clone())),
                _ => None,
            });
            self.known.insert(digest.clone(), agents.collect());
        }
        Ok(self.known.entry(digest.clone()).or_default())
    }
}

/// A journal as records; events that this version cannot read are left out.
pub fn records(
    task: TaskId,
    pipeline: &PipelineName,
    agents: &BTreeMap<StepId, String>,
    journal: &[Chained],
) -> Vec<Record> {
    let events: Vec<Option<Event>> = journal.iter().map(|chained| serde_json::from_str(&chained.event).ok()).collect();
    let erased = matches!(events.last(), Some(Some(Event::Erased { .. })));
    let reading = if erased { Reading::Erased } else { Reading::Whole };
    let mut told = Told { reading, subagents: BTreeMap::new(), calls: HashMap::new() };
    let mut head = None;
    let mut records = Vec::with_capacity(journal.len());
    for (event, chained) in events.into_iter().zip(journal) {
        let Some(event) = event else {
            head = chained.hash;
            continue;
        };
        let print = || Fingerprint::read(event.clone(), reading).ok().map(|(print, _)| print);
        head = chained.hash.or_else(|| {
            let before = head?;
            Some(EventHash::of(task, Some(before), chained.seq, chained.at, &print()?))
        });
        let mut record = Record {
            session: task,
            pipeline: pipeline.clone(),
            seq: chained.seq,
            time: chained.at,
            event: event.kind(),
            step: event.step().cloned(),
            agent: None,
            tool: None,
            call: None,
            input_hash: None,
            output_hash: None,
            decision: None,
            person: None,
            event_hash: head,
        };
        told.tell(&event, &mut record);
        record.agent = record.step.as_ref().and_then(|step| match told.subagents.get(step) {
            Some(agent) => Some(agent.clone()),
            None => agents.get(&step.step).cloned(),
        });
        records.push(record);
    }
    records
}

/// What earlier events told of later ones.
struct Told {
    reading: Reading,
    subagents: BTreeMap<StepKey, String>,
    /// The tool and the input of a call, by step.
    calls: HashMap<(StepKey, CallId), (String, Option<Digest>)>,
}

impl Told {
    fn tell(&mut self, event: &Event, record: &mut Record) {
        let reading = self.reading;
        let value = |value: &serde_json::Value| value_digest(&Slot::Value(value), reading);
        let text = |text: &str| value_digest(&Slot::Text(text), reading);
        match event {
            Event::Submitted(submitted) => record.input_hash = value(&submitted.input),
            Event::Succeeded { output } | Event::StepFinished { outcome: StepOutcome::Succeeded { output }, .. } => {
                record.output_hash = value(output);
            }
            Event::AgentStarted { prompt, .. } | Event::Prompted { text: prompt, .. } => {
                record.input_hash = text(prompt);
            }
            Event::SubagentCalled { step, call, agent, prompt, .. } => {
                record.input_hash = text(prompt);
                record.call = Some(call.clone());
                self.subagents.insert(step.clone(), agent.clone());
            }
            Event::TurnFinished { step, call, .. } => {
                record.output_hash = combined_digest(call.content.iter().map(Slot::Value), reading);
                for block in call.content.iter().filter(|block| block["type"] == "tool_use") {
                    if let (Some(Ok(id)), Some(name)) = (block["id"].as_str().map(CallId::new), block["name"].as_str())
                    {
                        let input = value(&block["input"]);
                        self.calls.insert((step.clone(), id), (name.to_owned(), input));
                    }
                }
            }
            Event::CallIntended { step, call } => {
                let input = value(&call.arguments);
                self.calls.insert((step.clone(), call.call.clone()), (call.tool.clone(), input.clone()));
                (record.call, record.tool, record.input_hash) =
                    (Some(call.call.clone()), Some(call.tool.clone()), input);
            }
            Event::CallFinished { step, call, tool, result, .. } => {
                self.name_call(step, call, record);
                record.tool = Some(tool.clone());
                if let CallResult::Done { content, .. } = result {
                    record.output_hash = value(content);
                }
            }
            Event::OutcomeUnknown { step, call, .. } => self.name_call(step, call, record),
            Event::OutcomeResolved { step, call, by, happened } => {
                self.name_call(step, call, record);
                record.person = Some(by.clone());
                record.decision = Some(if happened.is_some() { "it happened" } else { "it did not happen" });
                record.output_hash = happened.as_ref().and_then(value);
            }
            Event::ApprovalRequested { step, show, terms, .. } => {
                if let Some(call) = &terms.call {
                    self.name_call(step, call, record);
                }
                record.input_hash = value(show);
            }
            Event::ApprovalDecided { decision, .. } => {
                record.person = Some(decision.by.clone());
                record.decision = Some(if decision.approved { "approved" } else { "rejected" });
                record.output_hash = decision.edits.as_ref().and_then(value);
            }
            Event::ApprovalExpired { .. } => record.decision = Some("nobody decided"),
            Event::CancelRequested { by, .. } | Event::Cancelled { by, .. } => {
                (record.person, record.decision) = (Some(by.clone()), Some("cancel"));
            }
            Event::Replayed { by, input, .. } => {
                (record.person, record.decision) = (Some(by.clone()), Some("replay"));
                record.input_hash = input.as_ref().and_then(value);
            }
            Event::BudgetRaised { by, .. } => (record.person, record.decision) = (Some(by.clone()), Some("raise")),
            Event::Erased { by, .. } => (record.person, record.decision) = (Some(by.clone()), Some("erase")),
            Event::ChildFinished { outcome, result, .. } => {
                record.output_hash = value(result);
                record.decision = Some(match outcome {
                    Outcome::Succeeded => "succeeded",
                    Outcome::Cancelled => "cancelled",
                    Outcome::Dead => "dead",
                });
            }
            _ => {}
        }
    }

    fn name_call(&self, step: &StepKey, call: &CallId, record: &mut Record) {
        record.call = Some(call.clone());
        if let Some((tool, input)) = self.calls.get(&(step.clone(), call.clone())) {
            (record.tool, record.input_hash) = (Some(tool.clone()), input.clone());
        }
    }
}
