//! Decisions of people, from the list to the end of the task.

use serde_json::json;
use suite::fixtures::scheduler::RunningScheduler;

const ASKS: &str = "name: asks\nsteps:\n  - { id: draft, set: { text: hello } }\n  \
    - { id: review, approval: { title: 'Send to {{ input.company }}?', show: steps.draft.output, expires: 1h } }\n\
    output: '{{ steps.review.output }}'\n";

#[tokio::test]
async fn an_approval_is_listed_decided_once_and_carried_out() {
    let api = RunningScheduler::start(&[("pipelines/asks.yaml", ASKS)]).await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "asks", "input": {"company": "Acme"}})).await;
    api.watch(&id, None, "parked").await;
    assert_eq!(api.get(&format!("/v1/tasks/{id}")).await.json()["waiting_on"], json!(["approval"]));

    let open = api.get("/v1/approvals").await.json();
    let approval = &open["approvals"][0];
    assert_eq!((&approval["title"], &approval["show"]), (&json!("Send to Acme?"), &json!({"text": "hello"})));
    assert_eq!(
        (&approval["task"], &approval["pipeline"], &approval["step"]),
        (&json!(id), &json!("asks"), &json!("review"))
    );
    assert!(approval["expires"].is_string());

    let route = format!("/v1/approvals/{}", approval["id"].as_str().unwrap());
    api.post(&route, &json!({"decision": "perhaps"})).await.problem(422);
    let (one, two) = (json!({"decision": "approve", "comment": "good", "by": "ann"}), json!({"decision": "reject"}));
    let (first, second) = tokio::join!(api.post(&route, &one), api.post(&route, &two));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert!(statuses == [200, 409] || statuses == [202, 409], "{statuses:?}");
    api.watch(&id, None, "end").await;
    api.post(&route, &one).await.problem(409);
    assert_eq!(api.get("/v1/approvals").await.json()["approvals"], json!([]));
    let task = api.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!(task["output"]["approved"], first.status < 300);
    worker.drain().await;
}

#[tokio::test]
async fn an_approval_that_nobody_asked_for_is_not_found() {
    let api = RunningScheduler::start(&[]).await;
    let id = api.submit(&json!({"pipeline": "greet", "input": {"company": "Acme"}})).await;
    for wrong in [format!("{id}.1"), format!("{id}.99"), id, "x".to_owned()] {
        api.post(&format!("/v1/approvals/{wrong}"), &json!({"decision": "approve"})).await.problem(404);
    }
}
