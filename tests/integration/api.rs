//! The HTTP API, over a real socket and a real store.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use suite::fixtures::scheduler::RunningScheduler;

fn greet(company: &str) -> Value {
    json!({"pipeline": "greet", "input": {"company": company}})
}

#[tokio::test]
async fn a_submitted_task_is_accepted_and_can_be_read() {
    let api = RunningScheduler::start(&[]).await;
    let answer = api
        .post(
            "/v1/tasks",
            &json!({"pipeline": "greet", "input": {"company": "Acme"}, "priority": 7, "labels": {"a": "b"}}),
        )
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(answer.json()["state"], "ready");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let task = api.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!((&task["id"], &task["state"], &task["pipeline"]), (&json!(id), &json!("ready"), &json!("greet")));
    assert_eq!((&task["queue"], &task["priority"]), (&json!("greetings"), &json!(7)));
    assert_eq!(task["labels"], json!({"a": "b", "company": "Acme"}));
    assert_eq!(
        (&task["input"], &task["steps"], &task["output"]),
        (&json!({"company": "Acme"}), &json!([]), &Value::Null)
    );
    let journal = api.get(&format!("/v1/tasks/{id}/journal")).await.json();
    assert_eq!(journal["events"][0]["event"]["type"], "submitted");
}

#[tokio::test]
async fn a_repeated_key_is_answered_with_the_same_task() {
    let api = RunningScheduler::start(&[]).await;
    let mut body = greet("Acme");
    body["idempotency_key"] = json!("order-17");
    let first = api.post("/v1/tasks", &body).await;
    let second = api.post("/v1/tasks", &body).await;
    assert_eq!((first.status, second.status), (202, 200));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(api.tasks().await, 1);
}

#[tokio::test]
async fn a_worker_finishes_what_was_submitted_and_the_task_shows_its_steps() {
    let api = RunningScheduler::start(&[]).await;
    let worker = api.worker();
    let id = api.submit(&greet("Acme")).await;
    let seen = api.watch(&id, None, "end").await;
    assert_eq!(seen.last().unwrap().1, "end");
    let task = api.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!((&task["state"], &task["output"]), (&json!("succeeded"), &json!("Hello Acme")));
    let step = &task["steps"][0];
    assert_eq!((&step["id"], &step["status"], &step["tries"]), (&json!("hello"), &json!("succeeded"), &json!(1)));
    assert_eq!(task["attempts"], 1);
    worker.drain().await;
}

#[tokio::test]
async fn live_events_resume_after_the_last_one_that_was_seen() {
    let api = RunningScheduler::start(&[]).await;
    let id = api.submit(&greet("Acme")).await;
    let cancelled = api.post(&format!("/v1/tasks/{id}/cancel"), &json!({"reason": "not needed", "by": "ann"})).await;
    assert_eq!((cancelled.status, cancelled.json()["applied"].clone()), (200, json!(true)));
    let all = api.watch(&id, None, "end").await;
    assert_eq!(all, [(1, "submitted".into()), (2, "cancelled".into()), (0, "end".into())]);
    assert_eq!(api.watch(&id, Some(1), "end").await, all[1..]);
    assert_eq!(api.watch(&id, Some(2), "end").await, all[2..]);
}

#[tokio::test]
async fn a_cancelled_task_can_be_sent_on_its_way_again() {
    let api = RunningScheduler::start(&[]).await;
    let id = api.submit(&greet("Acme")).await;
    // A body may be left out where nothing has to be said.
    assert_eq!(api.send(api.request("POST", &format!("/v1/tasks/{id}/cancel"))).await.status, 200);
    api.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await.problem(409);
    let retry = format!("/v1/tasks/{id}/retry");
    api.post(&retry, &json!({"input": {"company": 7}})).await.problem(422);
    api.post(&retry, &json!({"from": "nowhere"})).await.problem(422);
    let again = api.post(&retry, &json!({"input": {"company": "Bolt"}, "from": "hello"})).await;
    assert_eq!((again.status, again.json()["state"].clone()), (200, json!("ready")));
    assert_eq!(api.get(&format!("/v1/tasks/{id}")).await.json()["input"]["company"], "Bolt");
}

#[tokio::test]
async fn a_list_is_read_in_pages_and_by_filters() {
    let api = RunningScheduler::start(&[]).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(api.submit(&greet(&format!("c{n}"))).await);
    }
    api.post(&format!("/v1/tasks/{}/cancel", ids[3]), &json!({})).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/tasks?limit=3{cursor}")).await.json();
        seen.extend(page["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    seen.reverse();
    assert_eq!(seen, ids);
    let count = async |query: &str| {
        let answer = api.get(&format!("/v1/tasks?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["tasks"].as_array().unwrap().len()
    };
    assert_eq!(count("state=ready").await, 6);
    assert_eq!(count("state=ready,cancelled").await, 7);
    assert_eq!(count("state=cancelled&state=dead").await, 1);
    assert_eq!(count("label=company:c2").await, 1);
    assert_eq!(count("pipeline=greet&queue=greetings").await, 7);
    assert_eq!(count("queue=elsewhere").await, 0);
    for wrong in ["state=odd", "limit=0", "limit=1001", "cursor=x", "label=x", "colour=red", "limit=1&limit=2"] {
        api.get(&format!("/v1/tasks?{wrong}")).await.problem(422);
    }
}

#[tokio::test]
async fn a_queue_is_paused_and_resumed() {
    let api = RunningScheduler::start(&[]).await;
    api.submit(&greet("Acme")).await;
    let paused = api.send(api.request("POST", "/v1/queues/greetings/pause")).await;
    assert_eq!(paused.json(), json!({"name": "greetings", "paused": true}));
    let queues = api.get("/v1/queues").await.json();
    assert_eq!((&queues["queues"][0]["paused"], &queues["queues"][0]["depth"]["ready"]), (&json!(true), &json!(1)));
    api.send(api.request("POST", "/v1/queues/greetings/resume")).await;
    assert_eq!(api.get("/v1/queues").await.json()["queues"][0]["paused"], false);
}

#[tokio::test]
async fn definitions_are_applied_all_or_none() {
    let api = RunningScheduler::start(&[]).await;
    let other = suite::project::ProjectDir::new(&[
        ("teamster.yaml", suite::project::CONFIG),
        ("pipelines/other.yaml", "name: other\nsteps:\n  - { id: a, set: 1 }\n"),
    ]);
    let body = other.load().definitions[0].body.to_string();
    let put = async |definitions: Value| {
        api.send(api.request("PUT", "/v1/definitions").json(&json!({"definitions": definitions}))).await
    };
    let bad = put(json!([{"name": "other", "body": body}, {"name": "broken", "body": "{}"}])).await;
    assert_eq!(bad.problem(422)["errors"][0]["pointer"], "/definitions/1/body");
    api.post("/v1/tasks", &json!({"pipeline": "other"})).await.problem(404);
    let good = put(json!([{"name": "other", "body": body}])).await;
    assert_eq!((good.status, good.json()["pipelines"][0]["changed"].clone()), (200, json!(true)), "{}", good.text);
    assert_eq!(put(json!([{"name": "other", "body": body}])).await.json()["pipelines"][0]["changed"], false);
    api.submit(&json!({"pipeline": "other"})).await;
    let names = api.get("/v1/pipelines").await.json();
    let names: Vec<_> = names["pipelines"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert_eq!(names, ["greet", "other"]);
}

#[tokio::test]
async fn a_dead_letter_is_listed_replayed_and_dropped() {
    const FAILS: &str =
        "name: fails\nsteps:\n  - { id: no, run: { command: ['false'], effect: read }, retry: { attempts: 1 } }\n";
    let api = RunningScheduler::start(&[("pipelines/fails.yaml", FAILS)]).await;
    let worker = api.worker();
    let (first, second) =
        (api.submit(&json!({"pipeline": "fails"})).await, api.submit(&json!({"pipeline": "fails"})).await);
    for id in [&first, &second] {
        api.watch(id, None, "end").await;
    }
    worker.drain().await;
    let letters = api.get("/v1/dead-letters?reason=failed&pipeline=fails").await.json();
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 2);
    assert_eq!(letters["dead_letters"][0]["dead_step"], "no");
    assert_eq!(api.get("/v1/dead-letters?reason=poison").await.json()["dead_letters"], json!([]));
    api.get("/v1/dead-letters?reason=odd").await.problem(422);

    let gone = format!("/v1/dead-letters/{first}");
    assert_eq!(api.send(api.request("DELETE", &gone)).await.status, 204);
    api.get(&format!("/v1/tasks/{first}")).await.problem(404);
    api.send(api.request("DELETE", &gone)).await.problem(404);

    let many =
        api.post("/v1/dead-letters/replay", &json!({"pipeline": "fails", "limit": 10, "per_second": 1000})).await;
    assert_eq!(many.json(), json!({"replayed": [second], "refused": [], "more": false}));
    api.post(&format!("/v1/dead-letters/{second}/replay"), &json!({})).await.problem(409);
    api.post("/v1/dead-letters/replay", &json!({"limit": 1000, "per_second": 1})).await.problem(422);
    api.send(api.request("DELETE", &format!("/v1/dead-letters/{second}"))).await.problem(409);
}

#[tokio::test]
async fn the_description_lists_every_route_and_every_route_answers() {
    let api = RunningScheduler::start(&[]).await;
    let described = api.get("/v1/openapi.json").await.json();
    let mut found = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            found.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let wanted = [
        "DELETE /v1/dead-letters/{id}",
        "DELETE /v1/halt",
        "DELETE /v1/tasks/{id}/data",
        "GET /healthz",
        "GET /metrics",
        "GET /readyz",
        "GET /v1/approvals",
        "GET /v1/batches/{id}",
        "GET /v1/batches/{id}/results",
        "GET /v1/dead-letters",
        "GET /v1/halt",
        "GET /v1/meters",
        "GET /v1/openapi.json",
        "GET /v1/pipelines",
        "GET /v1/queues",
        "GET /v1/tasks",
        "GET /v1/tasks/{id}",
        "GET /v1/tasks/{id}/events",
        "GET /v1/tasks/{id}/journal",
        "POST /v1/approvals/{id}",
        "POST /v1/batches",
        "POST /v1/dead-letters/replay",
        "POST /v1/dead-letters/{id}/replay",
        "POST /v1/halt",
        "POST /v1/hooks/{name}",
        "POST /v1/queues/{name}/pause",
        "POST /v1/queues/{name}/resume",
        "POST /v1/tasks",
        "POST /v1/tasks/{id}/cancel",
        "POST /v1/tasks/{id}/raise",
        "POST /v1/tasks/{id}/resolve",
        "POST /v1/tasks/{id}/retry",
        "POST /v1/tasks/{id}/wake",
        "PUT /v1/definitions",
    ];
    assert_eq!(found, wanted.iter().map(|&route| route.to_owned()).collect());
    for route in wanted {
        let (method, path) = route.split_once(' ').unwrap();
        let answer = api.send(api.request(method, &path.replace("{id}", "x").replace("{name}", "x"))).await;
        assert_ne!(answer.status, 405, "{route}");
        assert!(answer.status < 500, "{route}: {}", answer.text);
    }
}

#[tokio::test]
async fn probes_say_ready_and_alive() {
    let api = RunningScheduler::start(&[]).await;
    for probe in ["/healthz", "/readyz"] {
        let answer = api.get(probe).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"status": "ok"})));
    }
    api.drain().await;
}
