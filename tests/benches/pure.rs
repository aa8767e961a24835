//! What is pure, timed: `cargo bench -p teamster-tests --bench pure`.
//!
//! A journal of a thousand turns is what a long agent leaves behind: each turn a
//! reply and one tool result, of the sizes that real ones have.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run must end")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use common::clock::Timestamp;
use common::config::{Config, Hooks, Limits, Permissions};
use common::id::{CallId, Digest, StepId, StepKey, TaskId, WorkerId};
use common::journal::{
    CallResult, Event, EventHash, Fingerprint, ModelCall, Recorded, RequestHead, Run, SealKey, Submitted, Usage,
};
use common::pipeline::model::Pipeline;
use common::pipeline::template::Scope;
use common::submission::{NewTask, submission};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use suite::project::pipeline;
use worker::decide::{Given, decide};
use worker::models::Models;
use worker::models::price::{Prices, Tokens};
use worker::tools::ToolSet;

const TURNS: usize = 1_000;
const DEFINITION: &str = "\
name: long
input: { type: object, required: [text], properties: { text: { type: string } } }
labels: { size: '{{ input.text | length }}' }
retry: { attempts: 4 }
steps:
  - { id: think, agent: thinker, prompt: 'Think of {{ input.text }} and say {{ input.text | upper }}.' }
  - { id: tell, if: steps.think.output, set: { said: '{{ steps.think.output }}', of: '{{ input.text }}' } }
output: '{{ steps.tell.output.said }}'
";
const AGENT: &str = "---\nname: thinker\ndescription: thinks\nmodel: m\nmaxTurns: 5000\n---\nThink.\n";

fn step() -> StepKey {
    StepKey::of(StepId::new("think").unwrap())
}

fn turn(number: usize) -> [Event; 2] {
    let id = format!("toolu_{number:06}");
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(20);
    let content = vec![
        json!({"type": "text", "text": words}),
        json!({"type": "tool_use", "id": id, "name": "Read", "input": {"file_path": format!("src/file_{number}.rs"), "limit": 40}}),
    ];
    let call = ModelCall {
        content,
        stop_reason: "tool_use".to_owned(),
        model: "m".to_owned(),
        response_id: format!("msg_{number}"),
        usage: Usage { input_tokens: 2_000, output_tokens: 300, ..Usage::default() },
        duration_ms: 900,
    };
    let line = |line| format!("{line}\tlet value_{line} = compute({number}, \"é\");");
    let lines = (0..40).map(line).collect::<Vec<_>>().join("\n");
    let result = CallResult::Done { content: json!([{"type": "text", "text": lines}]), is_error: false };
    let call_id = CallId::new(id).unwrap();
    [
        Event::TurnFinished { step: step(), call: Box::new(call), entry: None },
        Event::CallFinished { step: step(), call: call_id, tool: "Read".to_owned(), result, duration_ms: 3 },
    ]
}

/// The task and its journal, up to an answered tool call.
fn journal(pipeline: &Pipeline) -> (TaskId, Vec<Recorded>) {
    let at = Timestamp::from_millis(1_800_000_000_000);
    let new = NewTask { input: json!({"text": "a long question ".repeat(50)}), ..NewTask::default() };
    let (id, submitted) = submission(pipeline, new, TaskId::new(at, [7; 10]), None).unwrap().into_parts();
    let head = RequestHead {
        alias: "m".to_owned(),
        provider: "rehearsal".to_owned(),
        model: "m".to_owned(),
        max_tokens: 8_000,
        system: "Think. ".repeat(300),
        tools: (0..12).map(|n| json!({"name": format!("Tool{n}"), "description": "does ".repeat(60), "input_schema": {"type": "object"}})).collect(),
        ..RequestHead::default()
    };
    let mut events = vec![
        Event::Submitted(Box::new(Submitted { ..submitted })),
        Event::Leased { attempt: 1, worker: WorkerId::new("w").unwrap() },
        Event::AgentStarted { step: step(), head: Box::new(head), prompt: "Think of it.".to_owned() },
    ];
    events.extend((0..TURNS).flat_map(turn));
    (id, (1..).zip(events).map(|(seq, event)| Recorded { seq, at, event }).collect())
}

fn benches(criterion: &mut Criterion) {
    let pipeline = pipeline(DEFINITION, &[("thinker", AGENT)]);
    let (id, journal) = journal(&pipeline);
    let texts: Vec<String> = journal.iter().map(|r| serde_json::to_string(&r.event).unwrap()).collect();
    let run = Run::fold(id, &journal).unwrap();
    let (env, limits) = (BTreeMap::new(), Limits::default());
    let tools: BTreeMap<StepKey, ToolSet> = BTreeMap::from([(step(), ToolSet::default())]);
    let in_flight = BTreeSet::new();
    let (models, grants) = (Models::from_config(&Config::default()).unwrap(), BTreeMap::new());
    let (now, places) = (journal[0].at, worker::decide::StepPlaces::new());
    let (permissions, hooks, policy) = (Permissions::default(), Hooks::default(), Digest::of(b""));
    let guards = common::config::Guards::default();
    let given = || Given {
        pipeline: &pipeline,
        env: &env,
        limits: &limits,
        permissions: &permissions,
        hooks: &hooks,
        guards: &guards,
        policy: &policy,
        workspace: std::path::Path::new("."),
        tools: &tools,
        in_flight: &in_flight,
        models: &models,
        asks_quotas: false,
        grants: &grants,
        places: &places,
        now,
    };
    let next = Recorded { seq: run.head.version + 1, at: now, event: turn(TURNS)[0].clone() };

    criterion.bench_function("journal of 1,000 turns: decode", |b| {
        b.iter(|| texts.iter().map(|text| serde_json::from_str::<Event>(text).unwrap()).collect::<Vec<_>>());
    });
    criterion
        .bench_function("journal of 1,000 turns: fold", |b| b.iter(|| Run::fold(id, black_box(&journal)).unwrap()));
    criterion.bench_function("journal of 1,000 turns: look one event ahead", |b| {
        b.iter(|| {
            let mut ahead = run.clone();
            ahead.apply(black_box(&next)).unwrap();
            ahead
        });
    });
    criterion.bench_function("journal of 1,000 turns: decide", |b| b.iter(|| decide(black_box(&run), given())));
    criterion.bench_function("journal of 1,000 turns: rebuild the request", |b| {
        b.iter(|| run.step(&step()).and_then(|known| known.conversation.as_ref()).map(|c| black_box(c).messages()));
    });

    let prompt = &pipeline.steps[0];
    let scope = Scope::of_run(&pipeline, &run, &env);
    if let common::pipeline::model::StepKind::Agent(agent) = &prompt.kind {
        criterion.bench_function("template: a prompt with two places", |b| {
            b.iter(|| agent.prompt.render_text(black_box(&scope)).unwrap());
        });
    }
    criterion.bench_function("definition: parse, check and compile", |b| {
        b.iter(|| suite::project::pipeline(black_box(DEFINITION), &[("thinker", AGENT)]));
    });
    let prices = Prices::shipped().unwrap();
    let tokens = Tokens { input: 2_000, output: 300, ..Tokens::default() };
    criterion.bench_function("price of a turn", |b| {
        b.iter(|| prices.bill("sonnet", "claude-sonnet-4-6", black_box(tokens), now));
    });

    let small = Event::StepFinished {
        step: step(),
        outcome: common::journal::StepOutcome::Succeeded {
            output: json!({"text": "x".repeat(900), "list": [1, 2, 3]}),
        },
    };
    criterion.bench_function("step of 1 KiB: is a value large?", |b| {
        b.iter(|| {
            let mut large = false;
            black_box(&small).slots(&mut |slot| large |= slot.is_larger_than(64 << 10));
            large
        });
    });
    let encoded = serde_json::to_string(&small).unwrap();
    criterion.bench_function("step of 1 KiB: does it refer to a blob?", |b| {
        b.iter(|| common::journal::Reference::in_event(black_box(&small), black_box(&encoded)));
    });
    criterion.bench_function("step of 1 KiB: fingerprint", |b| b.iter(|| Fingerprint::of(black_box(&small)).unwrap()));
    let print = Fingerprint::of(&small).unwrap();
    let before = EventHash::from_bytes([7; 32]);
    criterion.bench_function("step of 1 KiB: hash in its place", |b| {
        b.iter(|| EventHash::of(id, Some(before), 5, Timestamp::from_millis(5), black_box(&print)));
    });
    let leased = Event::Leased { attempt: 1, worker: WorkerId::new("w").unwrap() };
    criterion.bench_function("lease: fingerprint", |b| b.iter(|| Fingerprint::of(black_box(&leased)).unwrap()));
    let key = SealKey::from_seed(&[7; 32]).unwrap();
    criterion.bench_function("seal of a journal", |b| b.iter(|| key.seal(id, 5, black_box(before))));
    criterion.bench_function("step of 1 KiB: encode", |b| b.iter(|| serde_json::to_string(black_box(&small)).unwrap()));
}

criterion_group!(pure, benches);
criterion_main!(pure);
