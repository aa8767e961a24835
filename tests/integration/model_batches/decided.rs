//! What is decided of requests in model batches, without a store or a worker.

use std::collections::BTreeMap;

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{Event, HoldBack, ModelCall, ModelSettings, OnOtherModel, RequestHead, Run, Usage, WhenSpent};
use common::pipeline::model::Pipeline;
use common::task::State;
use serde_json::json;
use suite::drive::{Drive, World};
use suite::project::pipeline;
use worker::decide::{Action, Performed, next_entry};
use worker::tools::ToolSet;

const AGENT: &str = "---\nname: thinker\ndescription: thinks\nmodel: m\n---\nThink.\n";

/// A pipeline whose steps are in flow style behind their ids.
fn steps(steps: &[&str]) -> Pipeline {
    let lines: String = steps.iter().map(|step| format!("  - {{ agent: thinker, prompt: Go., {step} }}\n")).collect();
    let retry = "retry: { attempts: 3, backoff: { initial: 1s, max: 10s, jitter: none } }";
    pipeline(&format!("name: p\n{retry}\nsteps:\n{lines}"), &[("thinker", AGENT)])
}

/// Answers of a model, by whether they come in a batch, one after the other.
struct Answers {
    batch: Vec<Result<&'static str, FailureClass>>,
    direct: Vec<&'static str>,
    model: &'static str,
    on_other_model: OnOtherModel,
    /// How often there is no room for a request.
    full: u32,
    /// How often each thing was done.
    done: BTreeMap<&'static str, u32>,
}

impl Answers {
    fn new(batch: &[Result<&'static str, FailureClass>], direct: &[&'static str]) -> Self {
        let (batch, direct) = (batch.to_vec(), direct.to_vec());
        let on_other_model = OnOtherModel::Warn;
        Self { batch, direct, model: "claude-haiku-4-5", on_other_model, full: 0, done: BTreeMap::new() }
    }

    fn call(&self, text: &str, part: f64) -> ModelCall {
        ModelCall {
            content: vec![json!({"type": "text", "text": text})],
            stop_reason: "end_turn".to_owned(),
            model: self.model.to_owned(),
            response_id: "r".to_owned(),
            usage: Usage { input_tokens: 10, output_tokens: 5, cost_usd: 0.001 * part, ..Usage::default() },
            // Longer than any timeout of a step here.
            duration_ms: 9 * 3_600_000,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }
}

impl World for Answers {
    fn perform(&mut self, action: &Action, run: &Run) -> Performed {
        match action {
            Action::Prepare { step, start } => Performed::Prepared(Ok(start.then(|| Event::AgentStarted {
                step: step.clone(),
                head: Box::new(RequestHead {
                    alias: "m".to_owned(),
                    provider: "anthropic".to_owned(),
                    model: "claude-haiku-4-5".to_owned(),
                    max_tokens: 1_000,
                    settings: ModelSettings { on_other_model: self.on_other_model, ..ModelSettings::default() },
                    ..RequestHead::default()
                }),
                prompt: "Go.".to_owned(),
            }))),
            Action::JoinBatch { .. } if self.full > 0 => {
                self.full -= 1;
                self.count("refused");
                let why = HoldBack::RateLimit { rate_limit: "trays".to_owned(), used: 9, limit: 9 };
                Performed::HeldBack { why, then: WhenSpent::Park, until: None }
            }
            Action::JoinBatch { step, until } => {
                self.count("joined");
                Performed::Joined { entry: next_entry(run, step), until: *until }
            }
            Action::HeedModelBatch { step } => {
                let known = run.step(step).unwrap().entry.as_ref().unwrap();
                let common::journal::EntryState::Failed(failure) = &known.state else { panic!("{known:?}") };
                Performed::BatchFailed(failure.clone())
            }
            Action::CallModel { purpose, .. } => {
                self.count("called");
                let text = self.direct.remove(0);
                let mut call = self.call(text, 1.0);
                call.duration_ms = 1;
                Performed::Model { purpose: *purpose, answer: Ok(call) }
            }
            other => panic!("{other:?}"),
        }
    }

    fn tools(&mut self, _step: &StepKey) -> ToolSet {
        ToolSet::default()
    }

    fn batched(&mut self, _step: &StepKey) -> Option<Result<ModelCall, Failure>> {
        if self.batch.is_empty() {
            return None;
        }
        let answer = self.batch.remove(0).map_err(|class| Failure::new(class, "it broke"));
        Some(answer.map(|text| self.call(text, 0.5)))
    }
}

fn finish<'p>(pipeline: &'p Pipeline, world: &mut Answers) -> (State, Drive<'p>) {
    let mut drive = Drive::submit(pipeline, json!({})).unwrap();
    let state = drive.finish(world).unwrap();
    (state, drive)
}

fn kinds(drive: &Drive<'_>) -> Vec<&'static str> {
    let of_batches = |kind: &&str| kind.contains("model_batch") || matches!(*kind, "turn_finished" | "step_retrying");
    drive.journal.iter().map(|recorded| recorded.event.kind()).filter(of_batches).collect()
}

#[test]
fn an_answer_of_a_batch_is_a_turn_at_its_price_and_waiting_is_no_work() {
    let pipeline = steps(&["id: a, batch: { max_wait: 6h }, timeout: 1h"]);
    let mut world = Answers::new(&[Ok("done")], &[]);
    let (state, drive) = finish(&pipeline, &mut world);
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    assert_eq!(drive.run.output, Some(json!("done")));
    assert_eq!(kinds(&drive), ["model_batch_joined", "turn_finished"]);
    assert!((drive.run.head.usage.cost_usd - 0.0005).abs() < 1e-12);
    assert!(drive.run.head.open_entries.is_empty());
}

#[test]
fn a_journal_cut_off_at_any_event_goes_on_to_the_same_end_and_joins_once() {
    let pipeline = steps(&["id: a, batch: { max_wait: 6h }"]);
    let answers = [Err(FailureClass::Timeout), Ok("done")];
    let (_, whole) = finish(&pipeline, &mut Answers::new(&answers, &[]));
    for end in 1..whole.journal.len() {
        let prefix = whole.journal[..end].to_vec();
        let count = |kind: &str| prefix.iter().filter(|recorded| recorded.event.kind() == kind).count();
        let (joined, told) = (count("model_batch_joined"), count("model_batch_failed") + count("turn_finished"));
        let mut world = Answers::new(&answers[told..], &[]);
        let mut drive = Drive::resume(&pipeline, prefix.clone()).unwrap();
        let state = drive.finish(&mut world).unwrap();
        assert!(matches!(state, State::Succeeded { .. }), "cut off after event {end}: {state:?}");
        assert_eq!(drive.run.output, whole.run.output);
        assert_eq!(world.done.get("joined").copied().unwrap_or_default() as usize, 2 - joined, "after event {end}");
    }
}

#[test]
fn tries_wait_no_longer_together_than_one_may_and_failures_that_do_not_pass_end_the_step() {
    let pipeline = steps(&["id: a, batch: { max_wait: 6h }"]);
    let (state, drive) = finish(&pipeline, &mut Answers::new(&[Err(FailureClass::Timeout), Ok("done")], &[]));
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    let joined = drive.journal.iter().filter_map(|recorded| match &recorded.event {
        Event::ModelBatchJoined { entry, until, .. } => Some((entry.clone(), *until)),
        _ => None,
    });
    let [first, second] = joined.collect::<Vec<_>>().try_into().unwrap();
    assert!(first.1 == second.1 && first.0 != second.0, "{first:?} {second:?}");

    let (state, drive) = finish(&pipeline, &mut Answers::new(&[Err(FailureClass::InvalidRequest)], &[]));
    assert!(matches!(&state, State::Dead { error, .. } if error.class == FailureClass::InvalidRequest), "{state:?}");
    assert_eq!(kinds(&drive), ["model_batch_joined", "model_batch_failed"]);
    let broken = [Err(FailureClass::Overloaded); 3];
    let (state, _) = finish(&pipeline, &mut Answers::new(&broken, &[]));
    assert!(matches!(&state, State::Dead { error, .. } if error.class == FailureClass::Overloaded), "{state:?}");
}

#[test]
fn who_finds_no_room_or_no_money_waits_before_it_asks_again() {
    let pipeline = steps(&["id: a, batch: { max_wait: 6h }"]);
    let mut full = Answers { full: 2, ..Answers::new(&[Ok("done")], &[]) };
    let mut unpaid = Answers::new(&[Err(FailureClass::Billing), Ok("done")], &[]);
    for (world, times) in [(&mut full, 2), (&mut unpaid, 1)] {
        let (state, drive) = finish(&pipeline, world);
        assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
        let kind = |recorded: &&common::journal::Recorded, kind: &str| recorded.event.kind() == kind;
        let held: Vec<_> = drive.journal.iter().filter(|recorded| kind(recorded, "held_back")).collect();
        assert_eq!(held.len(), times);
        for recorded in held {
            let next = drive.journal.iter().find(|other| other.seq > recorded.seq).unwrap();
            assert!(matches!(next.event, Event::Parked { .. }), "{:?}", next.event);
        }
    }
    assert_eq!(full.done, [("joined", 1), ("refused", 2)].into());
}

#[test]
fn without_an_answer_in_time_the_model_is_asked_directly() {
    let pipeline = steps(&["id: a, batch: { max_wait: 6h }"]);
    let mut world = Answers::new(&[], &["done"]);
    let (state, drive) = finish(&pipeline, &mut world);
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    assert_eq!(kinds(&drive), ["model_batch_joined", "model_batch_left", "turn_finished"]);
    assert_eq!(world.done, [("called", 1), ("joined", 1)].into());
}

#[test]
fn a_wait_that_is_too_short_is_none() {
    for step in ["id: a, batch: { max_wait: 4m }", "id: a, batch: { max_wait: 6h }, timeout: 4m", "id: a"] {
        let mut world = Answers::new(&[], &["done"]);
        let (state, _) = finish(&steps(&[step]), &mut world);
        assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
        assert_eq!(world.done, [("called", 1)].into(), "{step}");
    }
}

#[test]
fn what_follows_upon_the_answer_is_asked_directly() {
    let schema = "output: { type: object, required: [score] }";
    let pipeline = steps(&[&format!("id: a, batch: {{ max_wait: 6h }}, {schema}")]);
    let mut world = Answers::new(&[Ok("seven")], &[r#"{"score": 7}"#]);
    let (state, drive) = finish(&pipeline, &mut world);
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    assert_eq!(drive.run.output, Some(json!({"score": 7})));
    assert_eq!(kinds(&drive), ["model_batch_joined", "turn_finished", "turn_finished"]);
}

#[test]
fn an_answer_from_another_model_is_noticed_in_a_batch_too() {
    let pipeline = steps(&["id: a, batch: { max_wait: 6h }"]);
    let count = |drive: &Drive<'_>| {
        drive.journal.iter().filter(|recorded| matches!(recorded.event, Event::OtherModel { .. })).count()
    };
    let other = || Answers { model: "claude-opus-5", ..Answers::new(&[Ok("done")], &[]) };
    let (state, drive) = finish(&pipeline, &mut other());
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    assert_eq!(count(&drive), 1);
    let mut failing = Answers { on_other_model: OnOtherModel::Fail, ..other() };
    let (state, drive) = finish(&pipeline, &mut failing);
    assert!(matches!(&state, State::Dead { error, .. } if error.class == FailureClass::Configuration), "{state:?}");
    assert_eq!(count(&drive), 1);
}

#[test]
fn the_worst_case_of_a_request_that_waits_counts_for_the_tasks_budget() {
    // Haiku: a dollar a million tokens in, five out: the worst case is about $0.006, and half of it in a batch.
    let first = "id: a, batch: { max_wait: 6h }";
    let second = "id: b, needs: [], batch: { max_wait: 6h }";
    let run = |budget: &str, batch: &[Result<&'static str, FailureClass>]| {
        let lines = format!(
            "  - {{ agent: thinker, prompt: Go., {first} }}\n  - {{ agent: thinker, prompt: Go., {second} }}\n"
        );
        let source = format!("name: p\nbudget: {{ usd: {budget} }}\nsteps:\n{lines}");
        let pipeline = pipeline(&source, &[("thinker", AGENT)]);
        let mut world = Answers::new(batch, &[]);
        let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
        let state = drive.finish(&mut world).unwrap();
        assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
        kinds(&drive).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let answers = [Ok("one"), Ok("two")];
    let together = ["model_batch_joined", "model_batch_joined", "turn_finished", "turn_finished"];
    let in_turn = ["model_batch_joined", "turn_finished", "model_batch_joined", "turn_finished"];
    assert_eq!(run("0.0075", &answers), together, "two at half price fit where one and a bit at full price would");
    assert_eq!(run("0.005", &answers), in_turn, "what waits may still be spent");
}

#[test]
fn what_does_not_go_with_a_batch_is_refused_and_what_does_nothing_is_said() {
    let check = |step: &str, agent: &str| {
        let source = format!("name: p\nsteps:\n  - {{ id: a, agent: thinker, prompt: Go., {step} }}\n");
        let agent = format!("---\nname: thinker\ndescription: thinks\n{agent}\n---\nThink.\n");
        let config = "models:\n  m: { provider: anthropic, model: claude-haiku-4-5 }\n  r: { provider: rehearsal, model: rehearsal }\n";
        let dir = suite::project::ProjectDir::new(&[
            ("teamster.yaml", config),
            ("pipelines/p.yaml", &source),
            ("agents/thinker.md", &agent),
        ]);
        match common::project::Project::load(dir.path()) {
            Ok(project) => project.warnings.to_string(),
            Err(diagnostics) => format!("refused: {diagnostics}"),
        }
    };
    let batch = "batch: { max_wait: 6h }";
    assert_eq!(check(batch, "model: m"), "");
    assert_eq!(check(batch, "model: m\ntools: []"), "");
    for (step, agent, why) in [
        (format!("{batch}, session: x"), "model: m", "does not go with `session`"),
        (batch.to_owned(), "model: m\ntools: Read", "has tools (Read)"),
        ("batch: { max_wait: 8d }".to_owned(), "model: m", "at most 7d"),
        ("batch: {}".to_owned(), "model: m", "max_wait"),
        ("batch: { max_wait: 6h, linger: 1s }".to_owned(), "model: m", "linger"),
    ] {
        let said = check(&step, agent);
        assert!(said.starts_with("refused") && said.contains(why), "{step} {agent}: {said}");
    }
    let said = check(batch, "model: r");
    assert!(!said.starts_with("refused") && said.contains("takes no batches"), "{said}");
    assert!(check(&format!("{batch}, model: r"), "model: m").contains("takes no batches"));
}
