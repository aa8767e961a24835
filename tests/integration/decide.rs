//! What is decided, and that a journal which was cut off anywhere goes on to
//! the same end without repeating anything.

mod budgets;

use std::collections::BTreeMap;

use common::config::{Config, Hooks};
use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{Event, HookDecision, HookEvent, HookRuling, ModelCall, RequestHead, Run, StepOutcome, Usage};
use common::pipeline::model::Pipeline;
use common::task::{DeadReason, State};
use serde_json::{Value, json};
use suite::drive::{Drive, World};
use suite::project::pipeline;
use worker::decide::{Action, Performed};
use worker::hooks::Asking;
use worker::tools::registry::{ToolFilter, Tools};
use worker::tools::{ToolAnswer, ToolError, ToolSet};

/// A world that answers from a script and counts what it was asked.
struct Script {
    tools: ToolSet,
    /// How often each thing was done, by step and what it was.
    done: BTreeMap<String, u32>,
    replies: fn(&Run, &StepKey) -> Vec<Value>,
    answers: fn(&str, u32) -> Result<Value, ToolError>,
    happened: Option<Value>,
    ruling: fn(&Asking, u32) -> HookRuling,
}

impl Script {
    async fn new() -> Self {
        let config =
            Config { effects: [("Bash".to_owned(), common::journal::Effect::Once)].into(), ..Config::default() };
        let tools = Tools::new(&config).unwrap();
        let filter = ToolFilter::rules(&["Read", "Glob", "Bash"]).unwrap();
        Self {
            tools: tools.set(&filter).await.unwrap(),
            done: BTreeMap::new(),
            replies: |_, _| vec![json!({"type": "text", "text": "done"})],
            answers: |_, _| Ok(json!("ok")),
            happened: None,
            ruling: |_, _| HookRuling::default(),
        }
    }

    fn count(&mut self, what: String) -> u32 {
        let count = self.done.entry(what).or_default();
        *count += 1;
        *count
    }
}

impl World for Script {
    fn perform(&mut self, action: &Action, run: &Run) -> Performed {
        match action {
            Action::Prepare { step, start } => Performed::Prepared(Ok(start.then(|| Event::AgentStarted {
                step: step.clone(),
                head: Box::new(head(&self.tools)),
                prompt: "go".to_owned(),
            }))),
            Action::CallModel { step, purpose } => {
                let turns = run.step(step).unwrap().conversation.as_ref().unwrap().turns.len();
                self.count(format!("{step} turn {turns}"));
                let content = (self.replies)(run, step);
                let asks = content.iter().any(|block| block["type"] == "tool_use");
                Performed::Model {
                    purpose: *purpose,
                    answer: Ok(ModelCall {
                        content,
                        stop_reason: if asks { "tool_use" } else { "end_turn" }.to_owned(),
                        model: "m".to_owned(),
                        response_id: "r".to_owned(),
                        usage: Usage { input_tokens: 10, output_tokens: 5, cost_usd: 0.01, ..Usage::default() },
                        duration_ms: 7,
                    }),
                }
            }
            Action::Call { step, call } => {
                let tries = self.count(format!("{step} {}", call.call));
                let content = (self.answers)(&call.tool, tries);
                let answer = content.map(|content| ToolAnswer { content, is_error: false });
                Performed::Call { call: call.clone(), answer, duration_ms: 3 }
            }
            Action::Reserve { .. } => Performed::Reserved(Vec::new()),
            Action::TakePlace { .. } => Performed::Placed,
            Action::AskHooks { step, asking } => {
                let call = asking.call.as_ref().map_or("end", |call| call.as_str());
                let times = self.count(format!("{step} {} {call}", asking.event));
                let ruling = Ok((self.ruling)(asking, times));
                Performed::Hooks { event: asking.event, call: asking.call.clone(), ruling }
            }
            Action::JoinBatch { .. }
            | Action::HeedModelBatch { .. }
            | Action::OpenSession { .. }
            | Action::SaveSession { .. }
            | Action::SubmitChild { .. } => {
                Performed::Child(Err(Failure::new(FailureClass::Configuration, "no children here")))
            }
        }
    }

    fn tools(&mut self, _step: &StepKey) -> ToolSet {
        self.tools.clone()
    }

    fn resolve(&mut self, _step: &StepKey, _call: &str) -> Option<Value> {
        self.happened.clone()
    }
}

fn head(tools: &ToolSet) -> RequestHead {
    RequestHead {
        alias: "m".to_owned(),
        provider: "anthropic".to_owned(),
        // A dollar a million tokens in, five out.
        model: "claude-haiku-4-5".to_owned(),
        max_tokens: 1000,
        system: String::new(),
        tools: tools.values().map(|tool| tool.spec().to_json()).collect(),
        ..RequestHead::default()
    }
}

/// An agent that reads, then runs a command, then answers.
fn read_then_run(run: &Run, step: &StepKey) -> Vec<Value> {
    let turns = run.step(step).unwrap().conversation.as_ref().unwrap().turns.len();
    match turns {
        0 => vec![
            json!({"type": "text", "text": "let me look"}),
            json!({"type": "tool_use", "id": "a", "name": "Read", "input": {"file_path": "x"}}),
            json!({"type": "tool_use", "id": "b", "name": "Glob", "input": {"pattern": "*"}}),
        ],
        1 => vec![json!({"type": "tool_use", "id": "c", "name": "Bash", "input": {"command": "echo hi >> log"}})],
        _ => vec![json!({"type": "text", "text": "{\"score\": 7}"})],
    }
}

const MIXED: &str = r#"
name: mixed
input: { type: object }
retry: { attempts: 3, backoff: { initial: 1s, max: 10s, jitter: none } }
steps:
  - id: first
    set: { doubled: "{{ input.n * 2 }}" }
  - id: nap
    sleep: 1h
  - id: think
    agent: thinker
    prompt: "{{ steps.first.output.doubled }}"
    output: { type: object, required: [score] }
  - id: each
    needs: [first]
    foreach: input.list
    max_parallel: 2
    set: "{{ item }}-{{ index }}"
  - id: ask
    needs: [think, each]
    approval: { title: "Go on with {{ steps.think.output.score }}?", show: steps.each.output }
  - id: tell
    if: steps.ask.output.approved
    http: { method: POST, url: "http://crm.example/x", json: "{{ steps.think.output }}", effect: keyed }
  - id: note
    run: { command: [note, "{{ steps.tell.output.status }}"], effect: once }
output: { score: "{{ steps.think.output.score }}", list: "{{ steps.each.output }}" }
"#;

const THINKER: &str = "---\nname: thinker\ndescription: thinks\ntools: Read, Glob, Bash\nmodel: m\n---\nThink.\n";

fn mixed() -> Pipeline {
    pipeline(MIXED, &[("thinker", THINKER)])
}

async fn mixed_world() -> Script {
    Script {
        replies: read_then_run,
        answers: |tool, _| Ok(if tool == "http" { json!({"status": 201}) } else { json!("ok") }),
        ..Script::new().await
    }
}

fn input() -> Value {
    json!({"n": 21, "list": ["a", "b", "c"]})
}

#[tokio::test]
async fn a_pipeline_of_every_kind_of_step_runs_to_its_output() {
    let pipeline = mixed();
    let mut world = mixed_world().await;
    let mut drive = Drive::submit(&pipeline, input()).unwrap();
    let state = drive.finish(&mut world).unwrap();
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    assert_eq!(drive.run.output, Some(json!({"score": 7, "list": ["a-0", "b-1", "c-2"]})));
    assert!(world.done.values().all(|count| *count == 1), "{:?}", world.done);
    assert_eq!(drive.run.head.usage.tokens(), 45);
}

#[tokio::test]
async fn a_journal_cut_off_at_any_event_goes_on_to_the_same_end_and_calls_only_what_is_missing() {
    let pipeline = mixed();
    let mut world = mixed_world().await;
    let mut whole = Drive::submit(&pipeline, input()).unwrap();
    whole.finish(&mut world).unwrap();
    let everything = world.done;
    for end in 1..whole.journal.len() {
        let prefix = whole.journal[..end].to_vec();
        let before = answered(&prefix);
        let mut world = mixed_world().await;
        let mut drive = Drive::resume(&pipeline, prefix).unwrap();
        let state = drive.finish(&mut world).unwrap();
        assert!(matches!(state, State::Succeeded { .. }), "cut off after event {end}: {state:?}");
        assert_eq!(drive.run.output, whole.run.output, "cut off after event {end}");
        for what in world.done.keys() {
            assert!(everything.contains_key(what), "cut off after event {end}: {what} was never called before");
            assert!(!before.contains(what), "cut off after event {end}: {what} was done already");
        }
        assert!(world.done.values().all(|count| *count == 1), "cut off after event {end}: {:?}", world.done);
    }
}

/// What a journal says is answered, in the words of [`Script::done`].
fn answered(journal: &[common::journal::Recorded]) -> Vec<String> {
    let mut turns: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = Vec::new();
    for recorded in journal {
        match &recorded.event {
            Event::TurnFinished { step, .. } => {
                let turn = turns.entry(step.to_string()).or_default();
                done.push(format!("{step} turn {turn}"));
                *turn += 1;
            }
            Event::CallFinished { step, call, .. } => done.push(format!("{step} {call}")),
            Event::HookDecided { step, event, call, .. } => {
                let call = call.as_ref().map_or("end", common::id::CallId::as_str);
                done.push(format!("{step} {event} {call}"));
            }
            _ => {}
        }
    }
    done
}

/// Denies the first look, changes the command, and adds a word to every result.
fn ruling(asking: &Asking, _: u32) -> HookRuling {
    let changed = || Some(json!({"command": "echo changed"}));
    let (decision, updated, context) = match (asking.event, asking.call.as_ref().map(common::id::CallId::as_str)) {
        (HookEvent::PreToolUse, Some("a")) => (HookDecision::Deny, None, None),
        (HookEvent::PreToolUse, Some("c")) => (HookDecision::Allow, changed(), Some("changed")),
        (HookEvent::PostToolUse, _) => (HookDecision::Pass, None, Some("seen")),
        _ => (HookDecision::Pass, None, None),
    };
    let context = context.map(str::to_owned).into_iter().collect();
    HookRuling { decision, updated, context, ..HookRuling::default() }
}

#[tokio::test]
async fn a_journal_cut_off_at_any_event_asks_no_hook_again_and_makes_the_same_request() {
    let pipeline = mixed();
    let hooks = json!([{"hooks": [{"type": "command", "command": "check"}]}]);
    let hooks = json!({"PreToolUse": hooks, "PostToolUse": hooks, "Stop": hooks});
    let hooks: Hooks = serde_json::from_value(hooks).unwrap();
    let mut world = Script { ruling, ..mixed_world().await };
    let mut whole = Drive::submit(&pipeline, input()).unwrap();
    whole.hooks = hooks.clone();
    whole.finish(&mut world).unwrap();
    let asked = |done: &BTreeMap<String, u32>| done.keys().filter(|what| what.contains("Use ")).count();
    assert_eq!((asked(&world.done), world.done.get("think Stop end")), (5, Some(&1)), "{:?}", world.done);
    let think = StepKey::of("think".parse().unwrap());
    let messages = |run: &Run| run.step(&think).unwrap().conversation.as_ref().unwrap().messages();
    for end in 1..whole.journal.len() {
        let prefix = whole.journal[..end].to_vec();
        let before = answered(&prefix);
        let mut world = Script { ruling, ..mixed_world().await };
        let mut drive = Drive::resume(&pipeline, prefix).unwrap();
        drive.hooks = hooks.clone();
        let state = drive.finish(&mut world).unwrap();
        assert!(matches!(state, State::Succeeded { .. }), "cut off after event {end}: {state:?}");
        assert_eq!(messages(&drive.run), messages(&whole.run), "cut off after event {end}");
        for what in world.done.keys() {
            assert!(!before.contains(what), "cut off after event {end}: {what} was done already");
        }
    }
}

#[tokio::test]
async fn a_once_call_that_was_cut_short_is_never_repeated_by_itself() {
    let pipeline = mixed();
    let mut world = mixed_world().await;
    let mut whole = Drive::submit(&pipeline, input()).unwrap();
    whole.finish(&mut world).unwrap();
    let intents = whole.journal.iter().enumerate().filter_map(|(index, recorded)| match &recorded.event {
        Event::CallIntended { step, call } if call.effect == common::journal::Effect::Once => {
            Some((index, step.clone(), call.call.clone()))
        }
        _ => None,
    });
    let mut seen = 0;
    for (index, step, call) in intents {
        seen += 1;
        // A person says that it happened: it is not made again.
        let mut world = Script { happened: Some(json!({"status": 201})), ..mixed_world().await };
        let mut drive = Drive::resume(&pipeline, whole.journal[..=index].to_vec()).unwrap();
        let state = drive.finish(&mut world).unwrap();
        assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
        assert_eq!(world.done.get(&format!("{step} {call}")), None, "a call that happened was made again");
        let asked = |event: &Event| matches!(event, Event::OutcomeUnknown { call: c, .. } if *c == call);
        assert_eq!(drive.journal.iter().filter(|recorded| asked(&recorded.event)).count(), 1);
        // A person says that it did not: it is made once more.
        let mut world = mixed_world().await;
        let mut drive = Drive::resume(&pipeline, whole.journal[..=index].to_vec()).unwrap();
        drive.finish(&mut world).unwrap();
        assert_eq!(world.done.get(&format!("{step} {call}")), Some(&1));
    }
    assert_eq!(seen, 2, "the agent's Bash and the run step are of class once");
}

#[tokio::test]
async fn a_resumed_conversation_sends_the_request_that_would_have_been_sent() {
    let pipeline = mixed();
    let mut world = mixed_world().await;
    let mut whole = Drive::submit(&pipeline, input()).unwrap();
    whole.finish(&mut world).unwrap();
    let think = StepKey::of("think".parse().unwrap());
    let messages =
        |run: &Run| serde_json::to_vec(&run.step(&think).unwrap().conversation.as_ref().unwrap().messages()).unwrap();
    let last = messages(&whole.run);
    for end in 1..=whole.journal.len() {
        let journal: Vec<_> = whole.journal[..end]
            .iter()
            .map(|recorded| serde_json::from_slice(&serde_json::to_vec(recorded).unwrap()).unwrap())
            .collect();
        let run = Run::fold(whole.run.head.id, &journal).unwrap();
        let conversation = run.step(&think).and_then(|step| step.conversation.as_ref());
        if conversation.is_none_or(|conversation| !conversation.open_calls().is_empty()) {
            continue; // no request is made before all results are there
        }
        let now = messages(&run);
        assert!(
            last.starts_with(&now[..now.len() - 1]) || now == last,
            "after event {end} the conversation is another one"
        );
    }
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_and_then_ends_the_task() {
    let pipeline = pipeline(
        "name: p\nretry: { attempts: 3, backoff: { initial: 1s, jitter: none } }\nsteps: [{ id: get, http: { method: GET, url: 'http://x.example' } }]\n",
        &[],
    );
    let busy = |_: &str, _: u32| Err(ToolError::Failed(Failure::new(FailureClass::Overloaded, "busy")));
    let mut world = Script { answers: busy, ..Script::new().await };
    let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
    let state = drive.finish(&mut world).unwrap();
    let State::Dead { reason: DeadReason::Failed, error, step, .. } = state else { panic!("{state:?}") };
    assert_eq!((error.class, step.unwrap().to_string()), (FailureClass::Overloaded, "get".to_owned()));
    assert_eq!(world.done.values().sum::<u32>(), 3, "{:?}", world.done);
}

#[tokio::test]
async fn a_lost_once_request_waits_for_a_person_and_a_lost_keyed_one_is_repeated_with_its_key() {
    let lost = |_: &str, tries: u32| match tries {
        1 => Err(ToolError::Lost(Failure::new(FailureClass::Timeout, "no answer"))),
        _ => Ok(json!("ok")),
    };
    for (effect, asked) in [("once", 1), ("keyed", 0)] {
        let source = format!(
            "name: p\nsteps: [{{ id: put, http: {{ method: POST, url: 'http://x.example', effect: {effect} }} }}]\n"
        );
        let pipeline = pipeline(&source, &[]);
        let mut world = Script { answers: lost, ..Script::new().await };
        let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
        let state = drive.finish(&mut world).unwrap();
        assert!(matches!(state, State::Succeeded { .. }), "{effect}: {state:?}");
        let unknown =
            drive.journal.iter().filter(|recorded| matches!(recorded.event, Event::OutcomeUnknown { .. })).count();
        assert_eq!(unknown, asked, "{effect}");
        let keys: Vec<_> = drive
            .journal
            .iter()
            .filter_map(|recorded| match &recorded.event {
                Event::CallIntended { call, .. } => Some(call.key.clone()),
                _ => None,
            })
            .collect();
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{effect}: {keys:?}");
    }
}

#[tokio::test]
async fn an_agent_that_repeats_itself_is_nudged_and_then_stopped() {
    let pipeline = pipeline(
        "name: p\nsteps: [{ id: think, agent: thinker, prompt: go, limits: { repetition: 2 } }]\n",
        &[("thinker", THINKER)],
    );
    let same = |run: &Run, step: &StepKey| {
        let turns = run.step(step).unwrap().conversation.as_ref().unwrap().turns.len();
        vec![json!({"type": "tool_use", "id": format!("t{turns}"), "name": "Glob", "input": {"pattern": "*"}})]
    };
    let mut world = Script { replies: same, ..Script::new().await };
    let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
    let state = drive.finish(&mut world).unwrap();
    let State::Dead { error, .. } = state else { panic!("{state:?}") };
    assert_eq!(error.class, FailureClass::Limit);
    let calls = world.done.keys().filter(|what| !what.contains("turn")).count();
    assert_eq!(calls, 2, "the third is answered with a nudge, the fourth ends the step: {:?}", world.done);
}

#[tokio::test]
async fn an_output_that_does_not_fit_is_repaired_once_and_then_fails_with_both_texts() {
    let pipeline = pipeline(
        "name: p\nsteps: [{ id: think, agent: thinker, prompt: go, output: { type: object, required: [score] } }]\n",
        &[("thinker", THINKER)],
    );
    let mut world = Script { replies: |_, _| vec![json!({"type": "text", "text": "{}"})], ..Script::new().await };
    let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
    let state = drive.finish(&mut world).unwrap();
    let State::Dead { error, .. } = state else { panic!("{state:?}") };
    assert_eq!(error.class, FailureClass::InvalidOutput);
    assert_eq!(error.detail.unwrap()["attempts"], json!(["{}", "{}"]));
    assert_eq!(world.done.len(), 2);
}

#[tokio::test]
async fn unknown_tools_and_arguments_that_do_not_fit_are_answered_and_the_step_goes_on() {
    let pipeline = pipeline("name: p\nsteps: [{ id: think, agent: thinker, prompt: go }]\n", &[("thinker", THINKER)]);
    let replies = |run: &Run, step: &StepKey| match run.step(step).unwrap().conversation.as_ref().unwrap().turns.len() {
        0 => vec![
            json!({"type": "tool_use", "id": "a", "name": "Nope", "input": {}}),
            json!({"type": "tool_use", "id": "b", "name": "Glob", "input": {"pattern": 7}}),
        ],
        _ => vec![json!({"type": "text", "text": "I see"})],
    };
    let mut world = Script { replies, ..Script::new().await };
    let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
    drive.finish(&mut world).unwrap();
    assert_eq!(drive.run.output, Some(json!("I see")));
    let think = StepKey::of("think".parse().unwrap());
    let messages = drive.run.step(&think).unwrap().conversation.as_ref().unwrap().messages();
    let results = messages[2]["content"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|result| result["is_error"] == true), "{results:?}");
    assert!(results[0]["content"].as_str().unwrap().contains("Glob"), "the tools that there are must be named");
}

#[tokio::test]
async fn a_failed_step_with_on_error_continue_is_seen_by_later_steps() {
    let source = r#"
name: p
steps:
  - id: risky
    http: { method: GET, url: "http://x.example" }
    retry: { attempts: 1 }
    on_error: continue
  - id: after
    if: steps.risky.error
    set: "{{ steps.risky.error.class }}"
  - id: never
    if: steps.risky.output
    set: 1
  - id: behind
    needs: [never]
    set: 2
"#;
    let pipeline = pipeline(source, &[]);
    let broken = |_: &str, _: u32| Err(ToolError::Failed(Failure::new(FailureClass::Connection, "refused")));
    let mut world = Script { answers: broken, ..Script::new().await };
    let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
    drive.finish(&mut world).unwrap();
    assert_eq!(drive.run.output, Some(json!("connection")));
    let outcome = |id: &str| drive.run.step(&StepKey::of(id.parse().unwrap())).unwrap().outcome().cloned();
    assert_eq!(outcome("never"), Some(StepOutcome::Skipped));
    assert_eq!(outcome("behind"), Some(StepOutcome::Skipped));
}
