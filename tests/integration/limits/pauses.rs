//! Providers that say in their headers what they still take: all workers hold
//! calls back until the reset, and run into no refusal.

use std::sync::Mutex;
use std::time::Duration;

use common::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};
use suite::fakes::model::{Api, FakeModel, Message, Reply, Request};
use suite::fixtures::process::{SchedulerProcess, until};
use suite::fixtures::program::Program;
use suite::project::ProjectDir;
use suite::servers::redis;

use super::{SLOTS, count, submit};

const AGENT: &str = "---\nname: thinker\ndescription: thinks\n---\nThink.\n";
/// How long the provider takes nothing more.
const PAUSE: Duration = Duration::from_secs(6);

/// An API that takes one call of a model, and the next after the reset; those before are refused.
fn limited(request: &Request, resets: &Mutex<std::collections::BTreeMap<String, Timestamp>>) -> Reply {
    let model = request.json["model"].as_str().unwrap().to_owned();
    let mut resets = resets.lock().unwrap();
    let now = SystemClock.now();
    let message = Message::of_text("Done.");
    match resets.get(&model) {
        Some(reset) if now < *reset => Reply::error(429, "rate_limit_error", "too many requests"),
        Some(_) => message.into(),
        None => {
            let reset = now.plus(PAUSE);
            resets.insert(model, reset);
            let message = match request.api {
                Api::Chat => message
                    .header("x-ratelimit-limit-requests", "1")
                    .header("x-ratelimit-remaining-requests", "0")
                    .header("x-ratelimit-reset-requests", &format!("{}ms", PAUSE.as_millis())),
                _ => message
                    .header("anthropic-ratelimit-requests-limit", "1")
                    .header("anthropic-ratelimit-requests-remaining", "0")
                    .header("anthropic-ratelimit-requests-reset", &reset.to_string()),
            };
            message.into()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_is_left_all_workers_wait_for_the_reset_and_none_is_refused() {
    let resets = Mutex::default();
    let fake = FakeModel::answering(move |request| limited(request, &resets)).await.unwrap();
    let base = fake.base_url();
    let config = format!(
        "store: {}\nmodels:\n  a: {{ provider: first, model: claude-sonnet-4-6 }}\n  b: {{ provider: second, model: gpt-x }}\n  \
         c: {{ provider: first, model: claude-haiku-4-5 }}\nproviders:\n  first: {{ kind: anthropic, base_url: '{base}', \
         key: 'env:PATH' }}\n  second: {{ kind: openai, base_url: '{base}/v1', key: 'env:PATH' }}\n",
        redis::place()
    );
    let pipeline =
        "name: think\nqueue: q\nsteps: [{ id: think, agent: thinker, prompt: Go., model: '{{ input.model }}' }]\n";
    let project = ProjectDir::new(&[
        ("teamster.yaml", &config),
        ("pipelines/think.yaml", pipeline),
        ("agents/thinker.md", AGENT),
    ]);
    let scheduler = SchedulerProcess::start(project.path());
    let _workers: [Program; 2] = [Program::worker(project.path(), SLOTS), Program::worker(project.path(), SLOTS)];
    for model in ["a", "b"] {
        submit(&scheduler, "think", &json!({ "model": model })).await;
    }
    let held = || scheduler.teamster(&["limits", "model "])["meters"].clone();
    until("both are held back", async || held().as_array().unwrap().len() == 2).await;
    let meters = held();
    assert_eq!(
        [&meters[0]["name"], &meters[1]["name"]],
        ["model first/claude-sonnet-4-6 calls", "model second/gpt-x calls"]
    );
    let resets: Vec<Timestamp> =
        meters.as_array().unwrap().iter().map(|m| m["held_until"].as_str().unwrap().parse().unwrap()).collect();
    assert!(resets.iter().all(|reset| *reset > SystemClock.now()), "{meters}");
    // More tasks than one worker has slots.
    for _ in 0..20 {
        for model in ["a", "b"] {
            submit(&scheduler, "think", &json!({ "model": model })).await;
        }
    }
    // Another model of the provider is asked meanwhile.
    submit(&scheduler, "think", &json!({"model": "c"})).await;
    fake.received(3).await.unwrap();
    until("the others wait", async || count(&scheduler, "waiting").await == 40).await;
    assert!(SystemClock.now() < *resets.iter().min().unwrap(), "the machine is too slow for this test");
    let before: Vec<Value> = fake.requests().iter().map(|request| request.json["model"].clone()).collect();
    assert_eq!(before.len(), 3, "{before:?}");
    until("all are done", async || count(&scheduler, "succeeded").await == 43).await;
    assert_eq!(fake.requests().len(), 43, "not one was refused and made again");
    assert_eq!(held(), json!([]));
}
