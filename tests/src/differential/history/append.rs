//! Appends of a history: every kind of event and every way on.

use common::failure::{Failure, FailureClass};
use common::id::{AppendId, ApprovalId, CallId, EntryId, TaskId};
use common::journal::{CallRecord, CallResult, Effect, Event, ModelCall, StepOutcome, Usage, WakeCause};
use common::store::{Filter, Next, Store};
use common::task::{DeadReason, Wait, WaitOn};
use serde_json::json;

use super::model::{Hold, Model};
use super::submit::{step, valid};
use crate::differential::chance::Chance;
use crate::differential::request::Request;

/// An append of a holder, in good faith or not.
pub(super) async fn append(model: &mut Model, store: &dyn Store, chance: &Chance) -> anyhow::Result<Option<Request>> {
    let Some(Hold { mut token, version }) = chance.of_newest(&model.holds).copied() else { return Ok(None) };
    let mut expected = version;
    let mut events = Vec::new();
    let mut on = Vec::new();
    for _ in 0..[0, 1, 1, 2, 3][chance.below(5)] {
        let number = version + events.len() as u64 + 1;
        event(model, store, chance, (token.task, number), &mut events, &mut on).await?;
    }
    match chance.below(40) {
        0 => expected = expected.saturating_sub(1),
        1 => expected += 1,
        2 => token.attempt = 0,
        3 => events.push(impossible(chance)),
        _ => {}
    }
    let next = next(model, chance, on);
    Ok(Some(Request::Append { token, id: AppendId::new(chance.bytes()), expected, events, next }))
}

/// What a worker writes that does not know that its lease is over.
pub(super) fn zombie(model: &mut Model, chance: &Chance) -> Option<Request> {
    let token = chance.of_newest(&model.zombies).copied()?;
    let expected = 1 + chance.below(20) as u64;
    let next = next(model, chance, Vec::new());
    Some(Request::Append { token, id: AppendId::new(chance.bytes()), expected, events: Vec::new(), next })
}

async fn event(
    model: &mut Model,
    store: &dyn Store,
    chance: &Chance,
    (task, number): (TaskId, u64),
    events: &mut Vec<Event>,
    on: &mut Vec<WaitOn>,
) -> anyhow::Result<()> {
    let at = step(model.step());
    let output = json!("o".repeat(if chance.once_in(12) { 3_000 } else { chance.below(200) }));
    events.push(match chance.below(13) {
        0 => Event::StepStarted { step: at },
        1 => {
            let usage = Usage { input_tokens: 10, output_tokens: 5, cost_usd: 0.001, ..Usage::default() };
            let call = ModelCall {
                content: vec![json!({"type": "text", "text": output})],
                stop_reason: "end_turn".to_owned(),
                model: "m".to_owned(),
                response_id: "r".to_owned(),
                usage,
                duration_ms: 7,
            };
            Event::TurnFinished { step: at, call: Box::new(call), entry: None }
        }
        2 | 3 => {
            on.push(WaitOn::Approval { approval: ApprovalId { task, seq: number } });
            Event::ApprovalRequested {
                step: at,
                title: "?".to_owned(),
                show: output,
                expires: None,
                terms: Box::default(),
            }
        }
        4 => {
            let call: CallId = valid("c1".parse());
            on.push(WaitOn::Outcome { step: at.clone(), call: call.clone() });
            Event::OutcomeUnknown { step: at, call, error: Failure::new(FailureClass::Connection, "gone") }
        }
        5 => {
            let call = CallRecord {
                call: valid("c1".parse()),
                tool: "http".to_owned(),
                arguments: output,
                effect: Effect::Keyed,
                key: format!("{task}/{at}"),
            };
            Event::CallIntended { step: at, call }
        }
        6 => {
            let result = CallResult::Done { content: output, is_error: false };
            Event::CallFinished { step: at, call: valid("c1".parse()), tool: "http".to_owned(), result, duration_ms: 3 }
        }
        7 | 8 => {
            let children = store.list(Filter { parent: Some(task), ..Filter::default() }, None, 10).await?.tasks;
            let Some(child) = chance.of(&children) else { return Ok(()) };
            on.push(WaitOn::Child { task: child.id });
            Event::ChildSubmitted { step: at, child: child.id }
        }
        9 => match store.head(task).await?.and_then(|head| head.open_approvals.first().copied()) {
            Some(approval) => Event::ApprovalExpired { approval },
            None => Event::SleepStarted { step: at, until: model.now() },
        },
        10 => {
            on.push(WaitOn::ModelBatch { step: at.clone() });
            let entry = EntryId::new(task, &number.to_string());
            Event::ModelBatchJoined { step: at, entry, until: model.moment(chance, 0, 40_000) }
        }
        _ => Event::StepFinished { step: at, outcome: StepOutcome::Succeeded { output } },
    });
    Ok(())
}

/// What no holder may write.
fn impossible(chance: &Chance) -> Event {
    match chance.below(3) {
        0 => Event::Woken { cause: WakeCause::Operator },
        1 => Event::Leased { attempt: 7, worker: valid(common::id::WorkerId::new("w")) },
        _ => Event::Succeeded { output: json!(null) },
    }
}

fn next(model: &mut Model, chance: &Chance, mut on: Vec<WaitOn>) -> Next {
    match chance.below(20) {
        0 | 1 => Next::Succeed { output: json!({"n": chance.below(10)}) },
        2 => {
            let reason = [DeadReason::Failed, DeadReason::Timeout, DeadReason::Budget][chance.below(3)];
            Next::Die { reason, error: Failure::new(FailureClass::Tool, "it broke"), step: None }
        }
        3 => Next::Cancel { by: "x".to_owned(), reason: "as asked".to_owned() },
        4 | 5 => Next::Release { reason: "drain".to_owned() },
        6..=9 => {
            if on.is_empty() && !chance.once_in(10) {
                on.push(WaitOn::Timer { step: step("nap") });
            }
            let until = (!chance.once_in(4)).then(|| model.moment(chance, 0, 40_000));
            Next::Park(Wait { on, until })
        }
        _ => Next::Continue,
    }
}
