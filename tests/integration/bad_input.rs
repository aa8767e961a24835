//! What a client can get wrong: each is refused with its place, and stores nothing.

use serde_json::json;
use suite::fixtures::scheduler::RunningScheduler;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JSON: &str = "application/json";

#[tokio::test]
async fn what_is_wrong_with_a_submit_is_named_by_its_pointer_and_stores_nothing() {
    let api = RunningScheduler::start(&[]).await;
    api.post("/v1/tasks", &json!({"pipeline": "nowhere", "input": {}})).await.problem(404);
    let pointer = async |body: serde_json::Value| {
        let problem = api.post("/v1/tasks", &body).await.problem(422);
        problem["errors"][0]["pointer"].as_str().unwrap().to_owned()
    };
    assert_eq!(pointer(json!({"pipeline": "greet", "input": {"company": ""}})).await, "/input/company");
    assert_eq!(pointer(json!({"pipeline": "greet", "input": {}})).await, "/input");
    assert_eq!(pointer(json!({"pipeline": "greet", "input": {"company": "A"}, "colour": 1})).await, "/colour");
    assert_eq!(pointer(json!({"pipeline": "greet", "input": {"company": "A"}, "priority": 10})).await, "/priority");
    assert_eq!(pointer(json!({"pipeline": "No Such"})).await, "/pipeline");
    assert_eq!(pointer(json!({"pipeline": "greet", "input": {"company": "A"}, "run_at": "soon"})).await, "/run_at");
    assert_eq!(pointer(json!({"pipeline": "greet", "input": {"company": "A"}, "labels": {"": "x"}})).await, "/labels");
    assert_eq!(
        pointer(json!({"pipeline": "greet", "input": {"company": "A"}, "idempotency_key": ""})).await,
        "/idempotency_key"
    );
    assert_eq!(api.tasks().await, 0);
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused_and_the_process_lives_on() {
    let api = RunningScheduler::start(&[]).await;
    let deep = format!(r#"{{"pipeline":"greet","input":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let large = format!(r#"{{"pipeline":"greet","input":{{"company":"{}"}}}}"#, "x".repeat(2 << 20));
    api.post_bytes("/v1/tasks", JSON, deep).await.problem(400);
    api.post_bytes("/v1/tasks", JSON, large.clone()).await.problem(413);
    let chunks = futures::stream::iter(
        large.into_bytes().chunks(4_096).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    api.post_bytes("/v1/tasks", JSON, reqwest::Body::wrap_stream(chunks)).await.problem(413);
    api.post_bytes("/v1/tasks", JSON, r#"{"pipeline":"#).await.problem(400);
    api.post_bytes("/v1/tasks", JSON, "").await.problem(400);
    api.post_bytes("/v1/tasks", JSON, &b"{\"pipeline\":\"\xff\"}"[..]).await.problem(400);
    api.post_bytes("/v1/tasks", "text/plain", "{}").await.problem(415);
    api.send(api.request("POST", "/v1/tasks").body("{}")).await.problem(415);
    assert_eq!(api.tasks().await, 0);
    api.submit(&json!({"pipeline": "greet", "input": {"company": "Acme"}})).await;
}

#[tokio::test]
async fn a_route_that_does_not_exist_and_a_method_that_does_not_fit_are_problems_too() {
    let api = RunningScheduler::start(&[]).await;
    api.get("/v1/nothing").await.problem(404);
    let answer = api.send(api.request("PATCH", "/v1/tasks")).await;
    answer.problem(405);
    assert!(answer.headers["allow"].contains("POST"), "{:?}", answer.headers);
    for id in ["x", "0198c0de-7b3a-7000-8000-000000000000"] {
        for route in ["", "/journal", "/events"] {
            api.get(&format!("/v1/tasks/{id}{route}")).await.problem(404);
        }
        api.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await.problem(404);
        api.post(&format!("/v1/tasks/{id}/resolve"), &json!({"call": "c", "happened": false})).await.problem(404);
    }
    api.get("/v1/batches/none").await.problem(404);
}

#[tokio::test]
async fn a_store_that_cannot_be_written_answers_503_and_never_success() {
    let api = RunningScheduler::start(&[]).await;
    api.submit(&json!({"pipeline": "greet", "input": {"company": "before"}})).await;
    let other = rusqlite::Connection::open(api.database()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let refused = api.post("/v1/tasks", &json!({"pipeline": "greet", "input": {"company": "lost"}})).await;
    refused.problem(503);
    assert!(refused.headers.contains_key("retry-after"));
    api.get("/readyz").await.problem(503);
    other.execute_batch("ROLLBACK").unwrap();
    api.submit(&json!({"pipeline": "greet", "input": {"company": "after"}})).await;
    assert_eq!(api.tasks().await, 2);
}

#[tokio::test]
async fn a_token_is_asked_for_where_one_is_configured_but_not_by_probes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "t0p\n").unwrap();
    let config = format!("api: {{ token: 'file:{}' }}\n", file.display());
    let api = RunningScheduler::start(&[("teamster.yaml", &config)]).await;
    let refused = api.get("/v1/tasks").await;
    refused.problem(401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    api.send(api.request("GET", "/v1/tasks").bearer_auth("wrong")).await.problem(401);
    assert_eq!(api.send(api.request("GET", "/v1/tasks").bearer_auth("t0p")).await.status, 200);
    assert_eq!(api.get("/healthz").await.status, 200);
    assert_eq!(api.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn without_a_token_no_other_machine_and_no_web_page_is_served() {
    use scheduler::{HttpLimits, Scheduler, SchedulerOptions};
    let api = RunningScheduler::start(&[]).await;
    let options = SchedulerOptions {
        store: api.store.clone(),
        broker: None,
        config: std::sync::Arc::default(),
        listen: ([0, 0, 0, 0], 0).into(),
        clock: std::sync::Arc::new(common::clock::SystemClock),
        entropy: suite::fixtures::worker::entropy(),
        http: HttpLimits::default(),
        metrics: suite::fixtures::worker::metrics(),
    };
    let error = Scheduler::bind(options).await.unwrap_err().to_string();
    assert!(error.contains("api: { token: env:TEAMSTER_TOKEN }"), "{error}");
    let page = api.request("POST", "/v1/queues/greetings/pause").header("origin", "https://evil.example");
    api.send(page).await.problem(403);
    api.send(api.request("GET", "/v1/tasks").header("host", "evil.example")).await.problem(403);
}

#[tokio::test]
async fn garbage_instead_of_http_ends_that_connection_only() {
    let api = RunningScheduler::start(&[]).await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    let many = (0..300).fold(api.request("GET", "/v1/tasks"), |request, n| request.header(format!("x-{n}"), "y"));
    assert_eq!(api.send(many).await.status, 431);
    assert_eq!(api.get("/healthz").await.status, 200);
}
