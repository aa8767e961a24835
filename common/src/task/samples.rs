//! One of everything, for tests: a head in each state, and an event of each kind.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::json;

use crate::clock::Timestamp;
use crate::failure::{Failure, FailureClass};
use crate::id::{
    ApprovalId, CallId, Digest, EntryId, PipelineName, QueueName, SessionName, StepId, StepKey, TaskId, Token, WorkerId,
};
use crate::journal::{
    ApprovalDecision, CallRecord, CallResult, Effect, Event, GuardPoint, GuardThen, GuardTrip, HookDecision, HookEvent,
    HookRuling, HookRun, Judging, ModelCall, ModelChoice, Recorded, RequestHead, SealedValues, StepOutcome, Submitted,
    Usage, WakeCause,
};
use crate::task::{DeadReason, Head, Outcome, State, StateName, Wait, WaitOn};

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(crate) fn task() -> TaskId {
    TaskId::new(at(0), [1; 10])
}

pub(crate) fn child() -> TaskId {
    TaskId::new(at(0), [2; 10])
}

pub(crate) fn step() -> StepKey {
    StepKey::of(StepId::new("s").unwrap())
}

pub(crate) fn call() -> CallId {
    CallId::new("call_1").unwrap()
}

pub(crate) fn approval() -> ApprovalId {
    ApprovalId { task: task(), seq: 2 }
}

/// A request in a model batch.
pub(crate) fn entry() -> EntryId {
    EntryId::new(task(), "s")
}

pub(crate) fn worker() -> WorkerId {
    WorkerId::new("w").unwrap()
}

pub(crate) fn failure() -> Failure {
    Failure::new(FailureClass::Tool, "it broke")
}

pub(crate) fn sealed() -> SealedValues {
    let mut sealed = SealedValues::default();
    sealed.add(Token::new("email", [7; 10]), "1.c2VjcmV0".to_owned());
    sealed
}

pub(crate) fn submitted() -> Submitted {
    Submitted {
        pipeline: PipelineName::new("p").unwrap(),
        digest: Digest::of(b"p"),
        queue: QueueName::default_queue(),
        priority: 4,
        input: json!({"n": 1}),
        run_at: None,
        labels: BTreeMap::new(),
        key: None,
        parent: None,
        batch: None,
        line: None,
        supersede: None,
        traceparent: None,
        allowances: Vec::new(),
        sealed: SealedValues::default(),
    }
}

/// The first event of a journal.
pub(crate) fn first() -> Recorded {
    Recorded { seq: 1, at: at(0), event: Event::Submitted(Box::new(submitted())) }
}

pub(crate) fn wait() -> Wait {
    Wait {
        on: vec![
            WaitOn::Approval { approval: approval() },
            WaitOn::Outcome { step: step(), call: call() },
            WaitOn::Child { task: child() },
            WaitOn::ModelBatch { step: step() },
        ],
        until: Some(at(9_000)),
    }
}

/// A head in a state, with one question of each kind and one child open.
pub(crate) fn head(state: StateName) -> Head {
    let mut head = Head::open(task(), at(0), &submitted());
    head.open_approvals.push(approval());
    head.unknown_outcomes.push((step(), call()));
    head.open_children.push(child());
    head.open_entries.push((step(), entry()));
    head.state = match state {
        StateName::Scheduled => State::Scheduled { run_at: at(5) },
        StateName::Ready => State::Ready { since: at(0) },
        StateName::Running => {
            State::Running { worker: worker(), since: at(0), cancel_requested: false, progressed: false }
        }
        StateName::Waiting => State::Waiting { wait: wait(), since: at(0) },
        StateName::Succeeded => State::Succeeded { at: at(0) },
        StateName::Cancelled => State::Cancelled { at: at(0), reason: "enough".to_owned() },
        StateName::Dead => State::Dead { at: at(0), reason: DeadReason::Failed, error: failure(), step: None },
    };
    head
}

pub(crate) fn decision() -> ApprovalDecision {
    ApprovalDecision { approved: true, by: "ann".to_owned(), comment: None, edits: None }
}

fn session() -> SessionName {
    SessionName::new("p/k").unwrap()
}

fn request_head() -> RequestHead {
    RequestHead {
        alias: "m".to_owned(),
        provider: "p".to_owned(),
        model: "m".to_owned(),
        max_tokens: 1,
        ..RequestHead::default()
    }
}

pub(crate) fn model_call() -> ModelCall {
    ModelCall {
        content: vec![json!({"type": "tool_use", "id": "call_1", "name": "t", "input": {}})],
        stop_reason: "tool_use".to_owned(),
        model: "m".to_owned(),
        response_id: "r".to_owned(),
        usage: Usage { input_tokens: 1, output_tokens: 2, cost_usd: 0.5, ..Usage::default() },
        duration_ms: 1,
    }
}

pub(crate) fn intended() -> Event {
    let call = CallRecord {
        call: call(),
        tool: "t".to_owned(),
        arguments: json!({}),
        effect: Effect::Once,
        key: "k".to_owned(),
    };
    Event::CallIntended { step: step(), call }
}

pub(crate) fn answered() -> Event {
    let result = CallResult::Done { content: json!("yes"), is_error: false };
    Event::CallFinished { step: step(), call: call(), tool: "t".to_owned(), result, duration_ms: 1 }
}

pub(crate) fn finished() -> Event {
    Event::StepFinished { step: step(), outcome: StepOutcome::Succeeded { output: json!(1) } }
}

/// An answer to a request in a model batch.
pub(crate) fn batched() -> Event {
    Event::TurnFinished { step: step(), call: Box::new(model_call()), entry: Some(entry()) }
}

/// An event of each kind, fit for what [`head`] has open.
pub(crate) fn events() -> Vec<Event> {
    let (by, reason) = ("ann".to_owned(), "enough".to_owned());
    vec![
        Event::Submitted(Box::new(submitted())),
        Event::Leased { attempt: 1, worker: worker() },
        Event::Released { reason: reason.clone() },
        Event::LeaseExpired { worker: worker() },
        Event::Parked { wait: wait() },
        Event::Woken { cause: WakeCause::Timer },
        Event::CancelRequested { by: by.clone(), reason: reason.clone() },
        Event::Cancelled { by: by.clone(), reason: reason.clone() },
        Event::Succeeded { output: json!(1) },
        Event::Died { reason: DeadReason::Failed, error: failure(), step: Some(step()) },
        Event::Replayed { by: by.clone(), reset: vec![step().step], input: Some(json!(2)), sealed: sealed() },
        Event::PrivateDataSealed { entries: sealed() },
        Event::StepStarted { step: step() },
        Event::RoundStarted { step: step(), round: 1, reset: Vec::new() },
        Event::Expanded { step: step(), items: vec![json!(1)] },
        Event::StepRetrying { step: step(), error: failure(), not_before: at(10) },
        finished(),
        Event::SleepStarted { step: step(), until: at(10) },
        Event::AgentStarted { step: step(), head: Box::new(request_head()), prompt: "go".to_owned() },
        Event::TurnFinished { step: step(), call: Box::new(model_call()), entry: None },
        Event::ModelBatchJoined { step: step(), entry: EntryId::new(task(), "more"), until: at(10) },
        Event::ModelBatchLeft { step: step(), entry: EntryId::new(task(), "more") },
        Event::ModelBatchFailed { step: step(), entry: entry(), error: failure() },
        Event::Compacted { step: step(), call: Box::new(model_call()), kept_from: 0 },
        Event::ModelChanged {
            step: step(),
            from: "m".to_owned(),
            to: Box::new(ModelChoice { alias: "n".to_owned(), ..ModelChoice::default() }),
            why: failure(),
        },
        Event::OtherModel { step: step(), asked: "m".to_owned(), answered: "n".to_owned() },
        Event::Prompted {
            step: step(),
            text: "go on".to_owned(),
            reason: "continue".to_owned(),
            subagents: Vec::new(),
        },
        Event::SessionOpened {
            step: step(),
            session: session(),
            from: Some(child()),
            history: vec![json!(1)],
            dropped: 1,
        },
        Event::SessionAwaited { step: step(), session: session(), holder: child(), until: at(10) },
        Event::SessionSaved { step: step(), session: session(), kept: true },
        Event::SubagentCalled {
            step: step().subagent(1),
            call: call(),
            agent: "helper".to_owned(),
            prompt: "go".to_owned(),
            background: false,
        },
        Event::JudgeAsked {
            step: step().subagent(1),
            judging: Box::new(Judging {
                guard: "polite".to_owned(),
                on: GuardPoint::Output,
                call: None,
                digest: crate::id::Digest::of(b"text"),
            }),
        },
        Event::GuardTripped {
            step: step(),
            trip: Box::new(GuardTrip {
                guard: "no_keys".to_owned(),
                on: GuardPoint::Output,
                call: None,
                then: GuardThen::Ask,
                found: "sk-".to_owned(),
                excerpt: "the key is sk-1".to_owned(),
                at: "/key".to_owned(),
            }),
        },
        Event::HookDecided {
            step: step(),
            event: HookEvent::PreToolUse,
            call: Some(call()),
            ruling: Box::new(HookRuling {
                decision: HookDecision::Allow,
                reason: Some("fine".to_owned()),
                updated: Some(json!({})),
                context: vec!["note".to_owned()],
                ran: vec![HookRun {
                    hook: "check".to_owned(),
                    decision: HookDecision::Allow,
                    failure: None,
                    duration_ms: 1,
                }],
            }),
        },
        intended(),
        answered(),
        Event::OutcomeUnknown { step: step(), call: call(), error: failure() },
        Event::OutcomeResolved { step: step(), call: call(), by, happened: None },
        Event::ApprovalRequested {
            step: step(),
            title: "?".to_owned(),
            show: json!(1),
            expires: None,
            terms: Box::default(),
        },
        Event::ApprovalDecided { approval: approval(), decision: decision() },
        Event::ApprovalExpired { approval: approval() },
        Event::ChildSubmitted { step: step(), child: child() },
        Event::ChildFinished { child: child(), outcome: Outcome::Succeeded, result: json!(1) },
    ]
}
