//! Questions to people: approvals, and calls of unknown outcome. Each is answered once.

use std::sync::Arc;

use anyhow::{Result, ensure};
use common::failure::{Failure, FailureClass};
use common::id::{ApprovalId, CallId, EntryId, Token};
use common::journal::{ApprovalDecision, CallRecord, Effect, Event, ModelCall, SealedValues, Usage};
use common::store::{Next, Renewal, SignalError, Signalled};
use common::task::{Refusal, Signal, StateName, Wait, WaitOn};
use serde_json::{Value, json};

use super::Place;
use super::bench::{Bench, Held, step, valid};

fn asked() -> Event {
    Event::ApprovalRequested {
        step: step("review"),
        title: "Send?".to_owned(),
        show: json!({"x": 1}),
        expires: None,
        terms: Box::default(),
    }
}

fn decide(approval: ApprovalId, by: &str) -> Signal {
    let decision = ApprovalDecision { approved: true, by: by.to_owned(), comment: None, edits: None };
    Signal::Decide { approval, decision }
}

/// A task that asks, and goes on (`park`: waits for the answer).
async fn asking(bench: &Bench, park: bool) -> Result<(Held, ApprovalId)> {
    let mut held = bench.taken().await?;
    let approval = ApprovalId { task: held.task, seq: held.version + 1 };
    let wait = Wait { on: vec![WaitOn::Approval { approval }], until: None };
    let next = if park { Next::Park(wait) } else { Next::Continue };
    bench.append(&mut held, vec![asked()], next).await?;
    Ok((held, approval))
}

fn decided(answer: &Result<Signalled, SignalError>) -> bool {
    matches!(answer, Err(SignalError::Refused(Refusal::Decided(_) | Refusal::Unknown(_))))
}

/// A waiting task goes on with the decision in its journal.
pub async fn a_decision_wakes_the_task(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (held, approval) = asking(&bench, true).await?;
    ensure!(bench.head(held.task).await?.open_approvals == [approval]);
    let answer = bench.store.signal(held.task, decide(approval, "ann")).await?;
    ensure!(answer == Signalled::Applied(StateName::Ready));
    ensure!(bench.head(held.task).await?.open_approvals.is_empty());
    ensure!(bench.kinds(held.task).await?.last() == Some(&"approval_decided"));
    bench.verify().await
}

/// What tokens stand for comes ahead of an answer: the task waits on, its holder gets it in order, and a task that is
/// done takes nothing in.
pub async fn private_values_change_nothing_but_the_journal(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let entries = |kind: &str| {
        let mut entries = SealedValues::default();
        entries.add(Token::new(kind, [3; 10]), "1.c2VhbGVk".to_owned());
        Signal::Seal { entries }
    };
    let (held, approval) = asking(&bench, true).await?;
    let answer = bench.store.signal(held.task, entries("email")).await?;
    ensure!(answer == Signalled::Applied(StateName::Waiting));
    ensure!(bench.head(held.task).await?.open_approvals == [approval]);
    bench.store.signal(held.task, decide(approval, "ann")).await?;
    let (mut running, approval) = asking(&bench, false).await?;
    ensure!(bench.store.signal(running.task, entries("phone")).await? == Signalled::Requested);
    bench.store.signal(running.task, decide(approval, "ann")).await?;
    bench.append(&mut running, Vec::new(), Next::Succeed { output: json!(1) }).await?;
    let kinds = bench.kinds(running.task).await?;
    ensure!(!kinds.contains(&"private_data_sealed"), "a task that is done by then needs nothing: {kinds:?}");
    for (task, last) in [(held.task, ["private_data_sealed", "approval_decided"])] {
        let kinds = bench.kinds(task).await?;
        ensure!(kinds.ends_with(&last), "{kinds:?}");
    }
    let refused = bench.store.signal(running.task, entries("email")).await;
    ensure!(matches!(refused, Err(SignalError::Refused(Refusal::State { .. }))), "{refused:?}");
    bench.verify().await
}

/// The second answer is told that there was a first.
pub async fn a_decision_is_made_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (held, approval) = asking(&bench, true).await?;
    bench.store.signal(held.task, decide(approval, "ann")).await?;
    let second = bench.store.signal(held.task, decide(approval, "bob")).await;
    ensure!(decided(&second), "{second:?}");
    bench.verify().await
}

/// Also while a worker holds the task, before and after it took the first answer up.
pub async fn a_decision_while_running_is_made_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (mut held, approval) = asking(&bench, false).await?;
    ensure!(bench.store.signal(held.task, decide(approval, "ann")).await? == Signalled::Requested);
    let second = bench.store.signal(held.task, decide(approval, "bob")).await;
    ensure!(matches!(second, Err(SignalError::Refused(Refusal::Decided(_)))), "{second:?}");
    let appended = bench.append(&mut held, Vec::new(), Next::Continue).await?;
    ensure!(appended.recorded.len() == 1);
    let third = bench.store.signal(held.task, decide(approval, "eve")).await;
    ensure!(decided(&third), "{third:?}");
    let decisions = bench.kinds(held.task).await?.iter().filter(|kind| **kind == "approval_decided").count();
    ensure!(decisions == 1);
    bench.verify().await
}

/// What was not asked is not answered.
pub async fn an_unknown_question_is_refused(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (held, approval) = asking(&bench, true).await?;
    let wrong = ApprovalId { seq: approval.seq + 1, ..approval };
    let answer = bench.store.signal(held.task, decide(wrong, "ann")).await;
    ensure!(matches!(answer, Err(SignalError::Refused(Refusal::Unknown(_)))), "{answer:?}");
    bench.verify().await
}

/// Of many people who answer at once, one decides.
pub async fn a_decision_races_with_itself(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    let (held, approval) = asking(&bench, true).await?;
    let mut people = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = if n % 2 == 0 { Arc::clone(&bench.store) } else { Arc::clone(&other) };
        let signal = decide(approval, &format!("person {n}"));
        people.spawn(async move { store.signal(held.task, signal).await });
    }
    let mut counted = 0;
    while let Some(answer) = people.join_next().await {
        let answer = answer?;
        counted += usize::from(answer.is_ok());
        ensure!(answer.is_ok() || decided(&answer), "{answer:?}");
    }
    ensure!(counted == 1, "{counted} decisions");
    bench.verify().await
}

fn call() -> CallId {
    valid(CallId::new("call_1"))
}

fn resolve(happened: Option<Value>) -> Signal {
    Signal::Resolve { step: step("send"), call: call(), by: "ann".to_owned(), happened }
}

/// A call of unknown outcome waits for a person, who says once what happened.
pub async fn an_outcome_is_resolved_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    let record = CallRecord {
        call: call(),
        tool: "mail".to_owned(),
        arguments: json!({}),
        effect: Effect::Once,
        key: "k".to_owned(),
    };
    let events = vec![
        Event::CallIntended { step: step("send"), call: record },
        Event::OutcomeUnknown {
            step: step("send"),
            call: call(),
            error: Failure::new(FailureClass::Connection, "it broke"),
        },
    ];
    let wait = Wait { on: vec![WaitOn::Outcome { step: step("send"), call: call() }], until: None };
    bench.append(&mut held, events, Next::Park(wait)).await?;
    ensure!(bench.head(held.task).await?.unknown_outcomes.len() == 1);
    let answer = bench.store.signal(held.task, resolve(Some(json!("sent")))).await?;
    ensure!(answer == Signalled::Applied(StateName::Ready));
    let again = bench.store.signal(held.task, resolve(None)).await;
    ensure!(matches!(again, Err(SignalError::Refused(_))), "{again:?}");
    ensure!(bench.head(held.task).await?.unknown_outcomes.is_empty());
    bench.verify().await
}

/// A renewal tells the holder that an append would bring it something.
pub async fn renewal_says_that_signals_wait(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (mut held, approval) = asking(&bench, false).await?;
    ensure!(matches!(bench.renew(&held).await?, Renewal::Renewed { signals: false, .. }));
    bench.store.signal(held.task, decide(approval, "ann")).await?;
    ensure!(matches!(bench.renew(&held).await?, Renewal::Renewed { signals: true, .. }));
    bench.append(&mut held, Vec::new(), Next::Continue).await?;
    ensure!(matches!(bench.renew(&held).await?, Renewal::Renewed { signals: false, .. }));
    bench.verify().await
}

/// A task that waits for the answer to a request in a model batch.
async fn batched(bench: &Bench) -> Result<(Held, EntryId)> {
    let mut held = bench.taken().await?;
    let entry = EntryId::new(held.task, "think");
    let until = bench.now().plus(std::time::Duration::from_secs(3_600));
    let joined = Event::ModelBatchJoined { step: step("think"), entry: entry.clone(), until };
    let wait = Wait { on: vec![WaitOn::ModelBatch { step: step("think") }], until: Some(until) };
    let started = Event::AgentStarted { step: step("think"), head: Box::default(), prompt: "Go.".to_owned() };
    bench.append(&mut held, vec![started, joined], Next::Park(wait)).await?;
    Ok((held, entry))
}

fn answered(entry: &EntryId, text: &str) -> Signal {
    let call = ModelCall {
        content: vec![json!({"type": "text", "text": text})],
        stop_reason: "end_turn".to_owned(),
        model: "m".to_owned(),
        response_id: "r".to_owned(),
        usage: Usage { input_tokens: 3, output_tokens: 4, cost_usd: 0.5, ..Usage::default() },
        duration_ms: 1,
    };
    Signal::ModelAnswered { step: step("think"), entry: entry.clone(), call: Box::new(call) }
}

/// An answer that comes again and again, also from several who tell it, is in the journal once, paid for once, and
/// wakes the task. A large one is kept whole.
pub async fn an_answer_of_a_model_batch_is_taken_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    let (held, entry) = batched(&bench).await?;
    ensure!(bench.head(held.task).await?.open_entries == [(step("think"), entry.clone())]);
    let text = "x".repeat(100_000);
    let mut tellers = tokio::task::JoinSet::new();
    for n in 0..10 {
        let store = if n % 2 == 0 { Arc::clone(&bench.store) } else { Arc::clone(&other) };
        let signal = answered(&entry, &text);
        tellers.spawn(async move { store.signal(held.task, signal).await });
    }
    let mut taken = 0;
    while let Some(answer) = tellers.join_next().await {
        let answer = answer?;
        taken += usize::from(answer.is_ok());
        ensure!(answer.is_ok() || decided(&answer), "{answer:?}");
    }
    let head = bench.head(held.task).await?;
    ensure!((taken, head.usage.tokens(), head.state.name()) == (1, 7, StateName::Ready), "{taken} {head:?}");
    let journal = bench.store.journal(held.task, 0, 100).await?;
    let told = journal.iter().filter_map(|recorded| match &recorded.event {
        Event::TurnFinished { call, entry: Some(of), .. } if *of == entry => Some(call.content[0]["text"] == *text),
        _ => None,
    });
    ensure!(told.collect::<Vec<_>>() == [true]);
    bench.verify().await
}

/// A task that asks directly takes neither the answer nor the failure that come late; nor does one that is done.
pub async fn who_left_a_model_batch_takes_no_answer(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (waiting, entry) = batched(&bench).await?;
    bench.store.signal(waiting.task, Signal::Wake).await?;
    let mut held = bench.claimed(waiting.task).await?;
    // One comes while the worker that goes on is at it: the worker's word was first.
    let left = Event::ModelBatchLeft { step: step("think"), entry: entry.clone() };
    ensure!(bench.store.signal(held.task, answered(&entry, "late")).await? == Signalled::Requested);
    bench.append(&mut held, vec![left], Next::Continue).await?;
    let failed = Signal::ModelFailed {
        step: step("think"),
        entry: entry.clone(),
        error: Failure::new(FailureClass::Timeout, "it expired"),
    };
    for signal in [answered(&entry, "later"), failed] {
        let answer = bench.store.signal(held.task, signal).await;
        ensure!(decided(&answer), "{answer:?}");
    }
    let head = bench.head(held.task).await?;
    ensure!(head.usage.tokens() == 0 && head.open_entries.is_empty(), "{head:?}");
    let (waiting, entry) = batched(&bench).await?;
    bench.store.signal(waiting.task, Signal::Cancel { by: "ann".to_owned(), reason: "enough".to_owned() }).await?;
    let answer = bench.store.signal(waiting.task, answered(&entry, "late")).await;
    ensure!(matches!(answer, Err(SignalError::Refused(_))), "{answer:?}");
    bench.verify().await
}
