//! From the seed of an operation to what is asked of the stores.

use std::time::Duration;

use common::failure::{Failure, FailureClass};
use common::id::{CallId, Digest, EntryId, QueueName, StepId, StepKey, TaskId, WorkerId};
use common::journal::{ApprovalDecision, Event, ModelCall, Usage};
use common::store::{
    ClaimTasks, Cursor, Definition, Filter, OpenBatch, RejectedRow, Store, Submission, Take, Transcript,
};
use common::task::{DeadReason, Outcome, Signal, StateName};
use serde_json::json;

use super::append::{append, zombie};
use super::model::Model;
use super::submit::{BATCHES, QUEUES, batch_id, pipeline, queue, step, submissions, valid};
use crate::differential::chance::Chance;
use crate::differential::request::Request;

/// What this operation asks; nothing if there is nothing that it could be about.
pub(in crate::differential) async fn resolve(
    model: &mut Model,
    store: &dyn Store,
    chance: &Chance,
) -> anyhow::Result<Option<Request>> {
    Ok(match chance.below(100) {
        0..=19 => Some(Request::Submit(submissions(model, store, chance).await?)),
        20..=31 => Some(take_one_queue(model, chance)),
        32..=34 => Some(take_several(model, chance)),
        35..=40 => Some(claim(model, chance)),
        41..=63 => append(model, store, chance).await?,
        64 => zombie(model, chance),
        65..=67 => chance.of(&model.appends).cloned(),
        68..=71 => renew(model, chance),
        72..=80 => signal(model, store, chance).await?,
        81..=84 => {
            model.advance(Duration::from_millis(chance.below(30_000) as u64));
            Some(Request::Due { limit: [1, 3, 1_000][chance.below(3)] })
        }
        85 => Some(Request::Due { limit: 1_000 }),
        86 => Some(Request::Pause(queue(chance.below(QUEUES)), chance.once_in(3))),
        87 if chance.once_in(2) => model.some_task(chance).map(Request::Erase),
        87 => forget(model, store, chance).await?,
        88 => restore(model, store, chance).await?,
        89 | 90 => Some(Request::List {
            filter: filter(model, chance),
            after: model.some_task(chance).filter(|_| chance.once_in(2)).map(Cursor),
            limit: 1 + chance.below(40),
        }),
        91 => model.some_task(chance).map(Request::Head),
        92 => model.some_task(chance).map(|task| Request::Journal {
            task,
            after: chance.below(6) as u64,
            limit: 1 + chance.below(10),
        }),
        93 => Some(Request::Queues),
        94 | 95 => Some(batch(model, chance)),
        96 => Some(Request::Unsent(Duration::from_millis(chance.below(5_000) as u64))),
        97 => sent(model, chance),
        98 => Some(definition(model, chance)),
        _ => chance.once_in(4).then_some(Request::Reopen),
    })
}

fn worker(chance: &Chance) -> WorkerId {
    valid(WorkerId::new(format!("w{}", chance.below(3))))
}

fn take_one_queue(model: &mut Model, chance: &Chance) -> Request {
    let (worker, queues, max) = (worker(chance), vec![queue(chance.below(QUEUES))], 1 + chance.below(4));
    Request::Take(Take { worker, queues, max, lease: model.lease(chance) })
}

/// More than a history ever has ready: the order among queues is free.
fn take_several(model: &mut Model, chance: &Chance) -> Request {
    let named: Vec<QueueName> = (0..QUEUES).filter(|_| chance.once_in(2)).map(queue).collect();
    Request::TakeAll(Take { worker: worker(chance), queues: named, max: 1_000, lease: model.lease(chance) })
}

fn claim(model: &mut Model, chance: &Chance) -> Request {
    let mut tasks: Vec<TaskId> = (0..=chance.below(4)).filter_map(|_| model.some_task(chance)).collect();
    if chance.once_in(20) {
        tasks.push(TaskId::new(model.now(), chance.bytes()));
    }
    Request::Claim(ClaimTasks { worker: worker(chance), tasks, lease: model.lease(chance) })
}

fn renew(model: &mut Model, chance: &Chance) -> Option<Request> {
    let mut tokens = vec![chance.of_newest(&model.holds)?.token];
    // Of several that are held, no two may end at the same time: the others are over.
    tokens.extend(chance.of(&model.zombies).filter(|_| chance.once_in(2)));
    Some(Request::Renew { tokens, lease: model.lease(chance) })
}

async fn signal(model: &Model, store: &dyn Store, chance: &Chance) -> anyhow::Result<Option<Request>> {
    let Some(task) = model.some_task(chance) else { return Ok(None) };
    let head = store.head(task).await?;
    let (approval, unknown, child, dead) = match &head {
        Some(head) => (
            chance.of(&head.open_approvals).copied(),
            chance.of(&head.unknown_outcomes).cloned(),
            chance.of(&head.open_children).copied(),
            matches!(head.state.name(), StateName::Dead | StateName::Cancelled),
        ),
        None => (None, None, None, false),
    };
    let entry = head.as_ref().and_then(|head| chance.of(&head.open_entries).cloned());
    let by = "ann".to_owned();
    let replay = |input| {
        let step = valid(StepId::new(format!("s{}", chance.below(model.steps + 1))));
        Signal::Replay { by: by.clone(), reset: vec![step], input, sealed: common::journal::SealedValues::default() }
    };
    let signal = match chance.below(20) {
        0 | 1 => Signal::Cancel { by, reason: "no more".to_owned() },
        2 => Signal::Wake,
        3 => replay(None),
        4 if chance.once_in(3) => Signal::Replay {
            by,
            reset: Vec::new(),
            input: Some(json!("x".repeat(70_000))),
            sealed: common::journal::SealedValues::default(),
        },
        5 => Signal::Resolve { step: step("s1"), call: call(), by, happened: None },
        6 => Signal::Decide {
            approval: common::id::ApprovalId { task, seq: chance.below(9) as u64 },
            decision: decision(chance),
        },
        7 if entry.is_none() => answered((step("s1"), EntryId::new(task, "unasked")), chance),
        _ => match (approval, unknown, child) {
            _ if entry.is_some() && chance.once_in(2) => entry.map_or(Signal::Wake, |open| answered(open, chance)),
            (Some(approval), _, _) => Signal::Decide { approval, decision: decision(chance) },
            (_, Some((step, call)), _) => {
                let happened = chance.once_in(2).then(|| json!({"status": 200}));
                Signal::Resolve { step, call, by, happened }
            }
            // Stores send it by themselves; what comes from elsewhere is judged by the same rules.
            (_, _, Some(child)) if chance.once_in(3) => {
                Signal::ChildFinished { child, outcome: Outcome::Succeeded, result: json!("done") }
            }
            _ if dead => replay(chance.once_in(2).then(|| json!({"corrected": true}))),
            _ => Signal::Wake,
        },
    };
    Ok(Some(Request::Signal(task, signal)))
}

/// What came of a request in a model batch.
fn answered((step, entry): (StepKey, EntryId), chance: &Chance) -> Signal {
    if chance.once_in(3) {
        return Signal::ModelFailed { step, entry, error: Failure::new(FailureClass::Timeout, "it expired") };
    }
    let call = ModelCall {
        content: vec![json!({"type": "text", "text": "o".repeat(chance.below(200))})],
        stop_reason: "end_turn".to_owned(),
        model: "m".to_owned(),
        response_id: "r".to_owned(),
        usage: Usage { input_tokens: 10, output_tokens: 5, cost_usd: 0.001, ..Usage::default() },
        duration_ms: 7,
    };
    Signal::ModelAnswered { step, entry, call: Box::new(call) }
}

fn call() -> CallId {
    valid("c1".parse())
}

fn decision(chance: &Chance) -> ApprovalDecision {
    let edits = chance.once_in(3).then(|| json!({"edited": chance.below(10)}));
    ApprovalDecision { approved: chance.once_in(2), by: "ann".to_owned(), comment: None, edits }
}

async fn forget(model: &mut Model, store: &dyn Store, chance: &Chance) -> anyhow::Result<Option<Request>> {
    let dead = Filter { states: vec![StateName::Dead], ..Filter::default() };
    let dead = store.list(dead, None, 50).await?.tasks;
    let task = chance.of(&dead).map(|head| head.id).filter(|_| !chance.once_in(4));
    let Some(task) = task.or_else(|| model.some_task(chance)) else { return Ok(None) };
    let journal = store.journal(task, 0, 10_000).await?;
    if !journal.is_empty() {
        model.transcripts.push(Transcript::bare(task, journal));
    }
    Ok(Some(Request::Forget(task)))
}

/// Tasks that are there, that were there, or that are new here.
async fn restore(model: &Model, store: &dyn Store, chance: &Chance) -> anyhow::Result<Option<Request>> {
    if !chance.once_in(2)
        && let Some(old) = chance.of_newest(&model.transcripts)
    {
        return Ok(Some(Request::Restore(vec![old.clone()])));
    }
    let Some(task) = model.some_task(chance) else { return Ok(None) };
    let mut journal = store.journal(task, 0, 10_000).await?;
    // One that was forgotten has none.
    if chance.once_in(8) && !journal.is_empty() {
        journal.remove(chance.below(journal.len().max(1)).min(journal.len().saturating_sub(1)));
    }
    let own = |event: &Event| {
        let names_itself = matches!(event, Event::ApprovalDecided { .. } | Event::ApprovalExpired { .. });
        names_itself || matches!(event, Event::ChildSubmitted { .. })
    };
    let mut id = task;
    if let Some(Event::Submitted(submitted)) = journal.first_mut().map(|first| &mut first.event)
        && submitted.parent.is_none()
        && !chance.once_in(4)
    {
        // The same life under another name; what a row or a key leads to stays one task.
        (submitted.key, submitted.batch, submitted.line) = (None, None, None);
        id = Submission::new(TaskId::new(model.now(), chance.bytes()), (**submitted).clone()).id();
        journal.truncate(journal.iter().position(|recorded| own(&recorded.event)).unwrap_or(journal.len()));
    }
    Ok((!journal.is_empty()).then_some(Request::Restore(vec![Transcript::bare(id, journal)])))
}

fn filter(model: &Model, chance: &Chance) -> Filter {
    let mut filter = Filter::default();
    match chance.below(8) {
        0 => filter.states = vec![*chance.of(&StateName::ALL).unwrap_or(&StateName::Ready), StateName::Dead],
        1 => filter.pipeline = Some(pipeline(chance.below(2))),
        2 => filter.queue = Some(queue(chance.below(QUEUES))),
        3 => filter.labels = [("colour".to_owned(), "red".to_owned())].into(),
        4 => filter.parent = model.some_task(chance),
        5 => filter.dead_reason = Some([DeadReason::Failed, DeadReason::Poison][chance.below(2)]),
        6 => filter.awaiting_approval = true,
        _ => {}
    }
    if chance.once_in(3) {
        filter.states.push(*chance.of(&StateName::ALL).unwrap_or(&StateName::Waiting));
    }
    filter
}

fn batch(model: &mut Model, chance: &Chance) -> Request {
    let id = batch_id(chance.below(BATCHES));
    if !model.batches.contains(&id) && chance.once_in(2) {
        model.batches.push(id.clone());
        return Request::OpenBatch(OpenBatch { id, pipeline: pipeline(0) });
    }
    match chance.below(8) {
        0 => Request::OpenBatch(OpenBatch { id, pipeline: pipeline(chance.below(2)) }),
        1 => Request::CloseBatch(id),
        2 | 3 => {
            let rows = (0..chance.below(4)).map(|_| {
                let line = 100 + chance.below(150) as u64;
                RejectedRow { line, reason: format!("{line} is no {}", FailureClass::InvalidRequest) }
            });
            Request::RejectRows(id, rows.collect())
        }
        4 | 5 => Request::Batch(id),
        _ => Request::BatchRows { batch: id, after: chance.below(40) as u64, limit: 1 + chance.below(40) },
    }
}

fn sent(model: &Model, chance: &Chance) -> Option<Request> {
    let tasks: Vec<TaskId> = model.hints.iter().filter(|_| !chance.once_in(3)).copied().collect();
    (!tasks.is_empty()).then_some(Request::Sent(tasks))
}

fn definition(model: &Model, chance: &Chance) -> Request {
    match chance.below(4) {
        0 => Request::Definitions,
        1 => {
            let back = Duration::from_millis(chance.below(100_000) as u64);
            let at = model.now().as_millis() - i64::try_from(back.as_millis()).unwrap_or(0);
            Request::ServeSchedule(common::clock::Timestamp::from_millis(at))
        }
        _ => {
            let name = pipeline(chance.below(2));
            let body = format!("{{\"name\":\"{name}\",\"n\":{}}}", chance.below(5));
            let digest = Digest::of(body.as_bytes());
            Request::Apply(Definition { name, digest, body: body.into() })
        }
    }
}
