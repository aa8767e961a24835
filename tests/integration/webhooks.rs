//! Signed webhooks, with bodies as GitHub posts them.

use futures::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use suite::fixtures::scheduler::{Answer, RunningScheduler};

const OPENED: &str = include_str!("../data/webhooks/github/pull_request.opened.json");
const SYNCHRONIZE: &str = include_str!("../data/webhooks/github/pull_request.synchronize.json");
const PING: &str = include_str!("../data/webhooks/github/ping.json");

const REVIEW: &str = "name: review\non:\n  - webhook: github\n    events: [pull_request.opened, pull_request.synchronize]\n    \
    if: not event.pull_request.draft\n    \
    input: { repo: '{{ event.repository.full_name }}', number: '{{ event.number }}' }\n    \
    supersede: '{{ event.repository.full_name }}#{{ event.number }}'\n\
    input: { type: object, required: [repo, number], properties: { repo: { type: string }, number: { type: integer } } }\n\
    steps:\n  - { id: a, set: 1 }\n";
const COUNT: &str = "name: count\non:\n  - { webhook: github, events: [pull_request], input: { action: '{{ event.action }}' } }\n\
    steps:\n  - { id: a, set: 1 }\n";
const PICKY: &str = "name: picky\non:\n  - { webhook: github, events: [pull_request.opened], input: { n: '{{ event.action }}' } }\n\
    input: { type: object, properties: { n: { type: integer } } }\nsteps:\n  - { id: a, set: 1 }\n";

struct Hooks {
    api: RunningScheduler,
    _secrets: tempfile::TempDir,
}

impl Hooks {
    async fn start(pipelines: &[(&str, &str)]) -> Self {
        let secrets = tempfile::tempdir().unwrap();
        for (name, value) in [("old", "old secret\n"), ("new", "new secret\n")] {
            std::fs::write(secrets.path().join(name), value).unwrap();
        }
        let dir = secrets.path().display();
        let config = format!(
            "webhooks:\n  github: {{ sender: github, secret: ['file:{dir}/old', 'file:{dir}/new'] }}\n  \
             shop: {{ sender: hmac, secret: 'file:{dir}/new', hmac: {{ header: X-Signature, event_header: X-Event }} }}\n  \
             lost: {{ sender: github, secret: 'file:{dir}/none' }}\n"
        );
        let mut files = vec![("teamster.yaml", config.as_str())];
        files.extend(pipelines);
        Self { api: RunningScheduler::start(&files).await, _secrets: secrets }
    }

    async fn github(&self, event: &str, delivery: &str, body: &str, secret: &str) -> Answer {
        let request = self
            .api
            .request("POST", "/v1/hooks/github")
            .header("content-type", "application/json")
            .header("x-github-event", event)
            .header("x-github-delivery", delivery)
            .header("x-hub-signature-256", format!("sha256={}", sign(body, secret)))
            .body(body.to_owned());
        self.api.send(request).await
    }
}

fn sign(body: &str, secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[tokio::test]
async fn a_signed_delivery_makes_one_task_for_each_pipeline_that_wants_it() {
    let hooks = Hooks::start(&[("pipelines/review.yaml", REVIEW), ("pipelines/count.yaml", COUNT)]).await;
    let answer = hooks.github("pull_request", "d-1", OPENED, "old secret").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let tasks = answer.json()["tasks"].clone();
    assert_eq!((&tasks[0]["pipeline"], &tasks[1]["pipeline"]), (&json!("count"), &json!("review")));
    let review = hooks.api.get(&format!("/v1/tasks/{}", tasks[1]["id"].as_str().unwrap())).await.json();
    assert_eq!(review["input"], json!({"repo": "Codertocat/Hello-World", "number": 2}));
    assert_eq!(review["idempotency_key"], "hook:github:d-1");
}

#[tokio::test]
async fn twenty_deliveries_at_once_make_one_task_and_get_the_same_id() {
    let hooks = Hooks::start(&[("pipelines/review.yaml", REVIEW)]).await;
    let answers = join_all((0..20).map(|_| hooks.github("pull_request", "d-1", OPENED, "new secret"))).await;
    let first = answers[0].json()["tasks"][0]["id"].clone();
    assert!(answers.iter().all(|answer| answer.json()["tasks"][0]["id"] == first));
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 19);
    assert_eq!(hooks.api.tasks().await, 1);
}

#[tokio::test]
async fn a_newer_event_of_the_same_group_supersedes_the_older_task() {
    let hooks = Hooks::start(&[("pipelines/review.yaml", REVIEW)]).await;
    let first = hooks.github("pull_request", "d-1", OPENED, "old secret").await.json();
    let mut second: serde_json::Value = serde_json::from_str(OPENED).unwrap();
    second["action"] = json!("synchronize");
    assert_eq!(hooks.github("pull_request", "d-2", &second.to_string(), "old secret").await.status, 202);
    let task = hooks.api.get(&format!("/v1/tasks/{}", first["tasks"][0]["id"].as_str().unwrap())).await.json();
    assert_eq!(task["state"], "cancelled");
}

#[tokio::test]
async fn what_no_pipeline_wants_is_answered_and_makes_no_task() {
    let hooks = Hooks::start(&[("pipelines/review.yaml", REVIEW)]).await;
    let mut draft: serde_json::Value = serde_json::from_str(SYNCHRONIZE).unwrap();
    draft["pull_request"]["draft"] = json!(true);
    for (event, body) in [("ping", PING), ("issues", r#"{"action":"opened"}"#), ("pull_request", &draft.to_string())] {
        let answer = hooks.github(event, "d-1", body, "old secret").await;
        assert_eq!((answer.status, answer.json()), (200, json!({"tasks": []})), "{event}");
    }
    assert_eq!(hooks.api.tasks().await, 0);
}

#[tokio::test]
async fn a_bad_or_missing_signature_is_401_before_the_body_is_parsed() {
    let hooks = Hooks::start(&[("pipelines/review.yaml", REVIEW)]).await;
    hooks.github("pull_request", "d-1", OPENED, "wrong secret").await.problem(401);
    hooks.github("pull_request", "d-1", "{ not json", "wrong secret").await.problem(401);
    let unsigned = hooks.api.post_bytes("/v1/hooks/github", "application/json", OPENED).await;
    unsigned.problem(401);
    hooks.github("pull_request", "d-1", "{ not json", "old secret").await.problem(400);
    assert_eq!(hooks.api.tasks().await, 0);
}

#[tokio::test]
async fn an_unknown_source_a_large_body_and_a_wrong_type_are_refused() {
    let hooks = Hooks::start(&[]).await;
    hooks.api.post_bytes("/v1/hooks/nobody", "application/json", "{}").await.problem(404);
    hooks.api.post_bytes("/v1/hooks/lost", "application/json", "{}").await.problem(503);
    hooks.api.post_bytes("/v1/hooks/github", "application/json", "x".repeat((5 << 20) + 1)).await.problem(413);
    let form = "payload=%7B%7D";
    let request = hooks
        .api
        .request("POST", "/v1/hooks/github")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-hub-signature-256", format!("sha256={}", sign(form, "old secret")))
        .body(form);
    hooks.api.send(request).await.problem(415);
}

#[tokio::test]
async fn a_pipeline_that_cannot_take_an_event_is_named_and_keeps_no_other_back() {
    let hooks = Hooks::start(&[("pipelines/review.yaml", REVIEW), ("pipelines/picky.yaml", PICKY)]).await;
    let problem = hooks.github("pull_request", "d-1", OPENED, "old secret").await.problem(422);
    assert!(problem["errors"][0]["message"].as_str().unwrap().contains("pipeline picky"), "{problem}");
    let tasks = hooks.api.get("/v1/tasks").await.json();
    assert_eq!((tasks["tasks"].as_array().unwrap().len(), &tasks["tasks"][0]["pipeline"]), (1, &json!("review")));
}

#[tokio::test]
async fn any_sender_that_signs_with_hmac_can_be_configured() {
    const ORDERS: &str = "name: orders\non:\n  - { webhook: shop, events: [order], key: 'order-{{ event.id }}' }\n\
        steps:\n  - { id: a, set: 1 }\n";
    let hooks = Hooks::start(&[("pipelines/orders.yaml", ORDERS)]).await;
    let send = async |body: &'static str| {
        let request = hooks.api.request("POST", "/v1/hooks/shop").header("content-type", "application/json");
        let request =
            request.header("x-event", "order.paid").header("x-signature", sign(body, "new secret")).body(body);
        hooks.api.send(request).await
    };
    let (first, again, other) = (send(r#"{"id":17}"#).await, send(r#"{ "id": 17 }"#).await, send(r#"{"id":18}"#).await);
    assert_eq!((first.status, again.status, other.status), (202, 200, 202), "{}", first.text);
    let task = hooks.api.get(&format!("/v1/tasks/{}", first.json()["tasks"][0]["id"].as_str().unwrap())).await.json();
    assert_eq!((&task["input"], &task["idempotency_key"]), (&json!({"id": 17}), &json!("order-17")));
}
