//! Steps and groups of steps that run until a condition holds.

use common::failure::FailureClass;
use common::id::TaskId;
use common::journal::{Event, Recorded, Run, StepRun};
use common::task::State;
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Request};
use suite::fixtures::scheduler::RunningScheduler;

const AGENT: &str = "---\nname: worker\ndescription: works\ntools: Glob\nmodel: m\n---\nWork.\n";

struct Ended {
    run: Run,
    journal: Vec<Recorded>,
}

impl Ended {
    #[track_caller]
    fn succeeded(&self, output: &Value) {
        assert!(matches!(self.run.head.state, State::Succeeded { .. }), "{:?}", self.run.head.state);
        assert_eq!(self.run.output.as_ref(), Some(output));
    }

    fn step(&self, id: &str) -> &StepRun {
        self.run.step(&id.parse().unwrap()).unwrap()
    }

    fn rounds(&self) -> Vec<u32> {
        let round = |recorded: &Recorded| match recorded.event {
            Event::RoundStarted { round, .. } => Some(round),
            _ => None,
        };
        self.journal.iter().filter_map(round).collect()
    }
}

async fn run(steps: &str, fake: Option<&FakeModel>) -> Ended {
    let pipeline = format!("name: p\nretry: {{ attempts: 1 }}\nsteps:\n{steps}");
    let config = fake.map_or_else(String::new, |fake| {
        format!(
            "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\nproviders:\n  fake: {{ kind: anthropic, \
             base_url: '{}', key: 'env:PATH' }}\n",
            fake.base_url()
        )
    });
    let files = [("teamster.yaml", &*config), ("pipelines/p.yaml", &*pipeline), ("agents/worker.md", AGENT)];
    let api = RunningScheduler::start(&files).await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "p", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let task: TaskId = id.parse().unwrap();
    let journal = api.store.journal(task, 0, 10_000).await.unwrap();
    let run = Run::fold(task, &journal).unwrap();
    worker.drain().await;
    api.drain().await;
    Ended { run, journal }
}

/// What each effect that was called had as its idempotency key, by the journal.
fn keys(ended: &Ended) -> Vec<String> {
    let key = |recorded: &Recorded| match &recorded.event {
        Event::CallIntended { call, .. } => Some(call.key.clone()),
        _ => None,
    };
    ended.journal.iter().filter_map(key).collect()
}

#[tokio::test]
async fn a_group_runs_until_its_condition_holds_with_keys_of_its_own_in_each_round() {
    let steps = r#"
  - id: before
    set: 10
  - id: loop
    repeat: { until: steps.check.output.ok, max: 5 }
    steps:
      - id: make
        run: { command: [echo, "{{ steps.before.output + round }}"], effect: once }
      - id: check
        set: { ok: "{{ round == 3 }}", made: "{{ steps.make.output }}" }
  - id: after
    set: "{{ steps.loop.output.made }} {{ steps.make.output }}"
"#;
    let ended = run(steps, None).await;
    ended.succeeded(&json!("13 13"));
    assert_eq!(ended.rounds(), [1, 2, 3]);
    let mut keys = keys(&ended);
    assert_eq!(keys.len(), 3);
    keys.dedup();
    assert_eq!(keys.len(), 3, "each round is an effect of its own: {keys:?}");
}

#[tokio::test]
async fn a_verifier_sends_an_implementor_back_with_what_is_wrong() {
    let fake = FakeModel::answering(|request: &Request| {
        let asked = request.messages()[0]["content"][0]["text"].as_str().unwrap().to_owned();
        let answer = match asked.as_str() {
            "Make it." => "first",
            "Make it. too short" => "second, and longer",
            "Check first" => "{\"ok\": false, \"problem\": \"too short\"}",
            "Check second, and longer" => "{\"ok\": true, \"problem\": \"\"}",
            other => panic!("nobody should ask {other:?}"),
        };
        Message::of_text(answer).into()
    })
    .await
    .unwrap();
    let steps = r#"
  - id: loop
    repeat: { until: steps.verify.output.ok, max: 3 }
    steps:
      - id: implement
        agent: worker
        prompt: "Make it.{% if round > 1 %} {{ steps.verify.output.problem }}{% endif %}"
      - id: verify
        agent: worker
        prompt: "Check {{ steps.implement.output }}"
        output: { type: object, required: [ok, problem], properties: { ok: { type: boolean }, problem: { type: string } } }
output: "{{ steps.implement.output }}"
"#;
    let ended = run(steps, Some(&fake)).await;
    assert_eq!(fake.violations(), Vec::<String>::new());
    ended.succeeded(&json!("second, and longer"));
    assert_eq!((ended.rounds(), fake.requests().len()), (vec![1, 2], 4));
    assert_eq!(ended.step("loop").round, 2);
}

#[tokio::test]
async fn a_lone_step_is_repeated_and_what_failed_in_one_round_may_succeed_in_the_next() {
    let steps = r#"
  - id: flaky
    repeat: { until: steps.flaky.status == "succeeded", max: 3 }
    run: { command: [sh, -c, "test {{ round }} = 2 && echo fine"], effect: once }
    on_error: continue
  - id: after
    set: "{{ steps.flaky.output }}"
"#;
    let ended = run(steps, None).await;
    ended.succeeded(&json!("fine\n"));
    assert_eq!(ended.rounds(), [1, 2]);
}

#[tokio::test]
async fn rounds_come_to_an_end_and_the_group_fails_or_goes_on_as_it_says() {
    let steps = |on_error: &str| {
        format!(
            "  - id: loop\n    on_error: {on_error}\n    repeat: {{ until: false, max: 2 }}\n    steps:\n      - id: a\n        \
             set: \"{{{{ round }}}}\"\n  - id: after\n    set: \"{{{{ steps.loop.error.class }}}} {{{{ steps.a.output }}}}\"\n"
        )
    };
    let failed = run(&steps("fail"), None).await;
    let State::Dead { error, .. } = &failed.run.head.state else { panic!("{:?}", failed.run.head.state) };
    assert_eq!((error.class, error.detail.as_ref().unwrap()["output"].clone()), (FailureClass::Limit, json!(2)));
    run(&steps("continue"), None).await.succeeded(&json!("limit 2"));
}

#[tokio::test]
async fn a_group_that_is_skipped_skips_its_steps_and_rounds_start_with_items_anew() {
    let skipped = run(
        "  - id: loop\n    if: false\n    repeat: { until: true, max: 2 }\n    steps:\n      - { id: a, set: 1 }\n  - { id: b, needs: [], set: 2 }\n",
        None,
    )
    .await;
    skipped.succeeded(&json!(2));
    let items = run(
        "  - id: loop\n    repeat: { until: round == 2, max: 2 }\n    steps:\n      - { id: a, foreach: [1, 2], set: \"{{ item * round }}\" }\n",
        None,
    )
    .await;
    items.succeeded(&json!([2, 4]));
}
