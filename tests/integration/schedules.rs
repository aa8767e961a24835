//! Timers and schedules, by a scheduler that runs.

use std::time::Duration;

use common::clock::{Clock, SystemClock};
use serde_json::json;
use suite::fixtures::scheduler::RunningScheduler;

const TICKS: &str =
    "name: ticks\non:\n  - schedule: { cron: '* * * * * *', input: { from: cron } }\nsteps:\n  - { id: a, set: 1 }\n";
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_task_for_later_becomes_ready_in_time() {
    let api = RunningScheduler::start(&[]).await;
    let run_at = SystemClock.now().plus(Duration::from_millis(400));
    let body = json!({"pipeline": "greet", "input": {"company": "Acme"}, "run_at": run_at});
    let answer = api.post("/v1/tasks", &body).await.json();
    assert_eq!(answer["state"], "scheduled");
    let id = answer["id"].as_str().unwrap();
    let seen = api.watch(id, None, "woken").await;
    assert_eq!(seen.last().unwrap().1, "woken");
    assert!(SystemClock.now() >= run_at);
    let late =
        api.submit(&json!({"pipeline": "greet", "input": {"company": "B"}, "run_at": "2999-01-01T00:00:00Z"})).await;
    assert_eq!(api.send(api.request("POST", &format!("/v1/tasks/{late}/wake"))).await.json()["state"], "ready");
}

#[tokio::test]
async fn each_time_of_a_schedule_makes_one_task_however_many_schedulers_run() {
    let api = RunningScheduler::start(&[("pipelines/ticks.yaml", TICKS)]).await;
    let twin = RunningScheduler::beside(&api).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let tasks = loop {
        let tasks = api.get("/v1/tasks?pipeline=ticks").await.json()["tasks"].as_array().unwrap().clone();
        if tasks.len() >= 3 {
            break tasks;
        }
        assert!(tokio::time::Instant::now() < deadline, "no tasks came: {tasks:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut keys: Vec<_> = tasks.iter().map(|task| task["idempotency_key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count);
    assert!(keys[0].starts_with("cron:ticks:"), "{keys:?}");
    let task = api.get(&format!("/v1/tasks/{}", tasks[0]["id"].as_str().unwrap())).await.json();
    assert_eq!(task["input"], json!({"from": "cron"}));
    twin.drain().await;
}
