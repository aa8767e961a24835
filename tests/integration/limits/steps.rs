//! `concurrency` of steps: what all tasks and items together have under way of a
//! step at once is never passed, also when a worker is lost, and nobody who waits
//! is forgotten.

use std::time::{Duration, Instant};

use common::task::State;
use serde_json::{Value, json};
use suite::fixtures::process::{SchedulerProcess, until};
use suite::fixtures::program::Program;
use suite::fixtures::scheduler::RunningScheduler;
use suite::project::{CONFIG, ProjectDir};
use suite::servers::redis;

use super::{SLOTS, cancel, count, doors, submit};

/// Places that are held of a step's `concurrency`.
fn held(scheduler: &SchedulerProcess) -> Vec<Value> {
    let meters = scheduler.teamster(&["limits", "concurrency "])["meters"].clone();
    meters.as_array().unwrap().iter().filter(|meter| meter["used"] != 0).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_all_tasks_and_workers_share_the_places_of_a_step_also_when_a_worker_is_lost() {
    let (url, doors) = doors().await;
    // Two steps of a task overlap, and the items of each.
    let pipeline = "name: fetch\nqueue: q\nsteps:\n\
         \x20 - id: get\n    foreach: range(6)\n    max_parallel: 6\n    concurrency: { key: '{{ input.site }}', max: 2 }\n\
         \x20   http: { method: POST, url: '{{ input.url }}/get-{{ input.site }}/{{ task.id }}-{{ index }}', effect: keyed }\n\
         \x20 - id: put\n    needs: []\n    concurrency: { key: all }\n\
         \x20   http: { method: POST, url: '{{ input.url }}/put/{{ task.id }}', effect: keyed }\n";
    let config = format!("store: {}\nworker: {{ lease: 2s }}\n", redis::place());
    let project = ProjectDir::new(&[("teamster.yaml", &config), ("pipelines/fetch.yaml", pipeline)]);
    let scheduler = SchedulerProcess::start(project.path());
    let mut tasks = Vec::new();
    for number in 0..12 {
        let site = ["a", "b"][number % 2];
        let input = json!({"url": url, "site": site});
        tasks.push(submit(&scheduler, "fetch", &input).await);
    }
    let mut workers: Vec<Program> = (0..3).map(|_| Program::worker(project.path(), SLOTS)).collect();
    until("the calls are under way", async || doors.lock().unwrap().calls > 10).await;
    workers[0].kill();
    cancel(&scheduler, &tasks[11]).await;
    let started = Instant::now();
    while count(&scheduler, "succeeded").await + count(&scheduler, "cancelled").await < tasks.len() {
        assert!(started.elapsed() < Duration::from_secs(90), "{:?}", scheduler.teamster(&["limits"]));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    {
        let doors = doors.lock().unwrap();
        let most = |key: &str| doors.most[key];
        assert_eq!((most("get-a"), most("get-b"), most("put")), (2, 2, 1), "{:?}", doors.most);
        assert!(doors.calls >= 11 * 7, "{}", doors.calls);
    }
    let kept: Vec<Value> = held(&scheduler);
    // What the killed worker held is given back by who is next refused, and nobody is any more.
    assert!(kept.iter().map(|meter| meter["used"].as_u64().unwrap()).sum::<u64>() <= 5, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_leaves_its_place_to_others_and_takes_one_again() {
    let (url, doors) = doors().await;
    let pipeline = "name: ask\nqueue: q\nretry: { attempts: 2, backoff: { initial: 30s, jitter: none } }\nsteps:\n\
         \x20 - id: go\n    concurrency: { key: one }\n\
         \x20   http: { method: POST, url: '{{ input.url }}', effect: keyed }\n";
    let api = RunningScheduler::start(&[("teamster.yaml", CONFIG), ("pipelines/ask.yaml", pipeline)]).await;
    let worker = api.worker();
    // Nobody listens there: the step tries again in half a minute.
    let waits = api.submit(&json!({"pipeline": "ask", "input": {"url": "http://127.0.0.1:9/x/1"}})).await;
    api.watch(&waits, None, "parked").await;
    let goes = api.submit(&json!({"pipeline": "ask", "input": {"url": format!("{url}/x/2")}})).await;
    api.watch(&goes, None, "end").await;
    let state = api.store.head(goes.parse().unwrap()).await.unwrap().unwrap().state;
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    let meters = api.store.meters("concurrency ask.go/one", 10).await.unwrap();
    assert!(meters.iter().all(|meter| meter.used == 0), "{meters:?}");
    assert_eq!(doors.lock().unwrap().calls, 1);
    api.post(&format!("/v1/tasks/{waits}/cancel"), &json!({})).await;
    api.watch(&waits, None, "end").await;
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_runs_a_child_keeps_its_place_until_that_is_done() {
    let (url, doors) = doors().await;
    let parent = "name: parent\nqueue: q\nsteps:\n\
         \x20 - { id: child, concurrency: { key: one }, foreach: range(3), pipeline: child, input: { url: '{{ input.url }}' } }\n";
    // Two calls: between them, others have time to come.
    let child = "name: child\nqueue: q\nsteps:\n\
         \x20 - { id: first, http: { method: POST, url: '{{ input.url }}/in/{{ task.id }}', effect: keyed } }\n\
         \x20 - { id: nap, sleep: 50ms }\n\
         \x20 - { id: second, http: { method: POST, url: '{{ input.url }}/in/{{ task.id }}', effect: keyed } }\n";
    let files = [("teamster.yaml", CONFIG), ("pipelines/parent.yaml", parent), ("pipelines/child.yaml", child)];
    let api = RunningScheduler::start(&files).await;
    let worker = api.worker();
    let mut tasks = Vec::new();
    for _ in 0..2 {
        tasks.push(api.submit(&json!({"pipeline": "parent", "input": {"url": url}})).await);
    }
    for id in &tasks {
        api.watch(id, None, "end").await;
        let state = api.store.head(id.parse().unwrap()).await.unwrap().unwrap().state;
        assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    }
    {
        let doors = doors.lock().unwrap();
        assert_eq!((doors.calls, doors.most["in"]), (12, 1));
    }
    // No child began before the one before it was over.
    let mut lives = Vec::new();
    let page = api.get("/v1/tasks?pipeline=child&limit=100").await.json();
    for task in page["tasks"].as_array().unwrap() {
        let id: common::id::TaskId = task["id"].as_str().unwrap().parse().unwrap();
        let journal = api.store.journal(id, 0, 100).await.unwrap();
        lives.push((journal.first().unwrap().at, journal.last().unwrap().at));
    }
    lives.sort_unstable();
    assert!(lives.len() == 6 && lives.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{lives:?}");
    let meters = api.store.meters("concurrency parent.child/one", 10).await.unwrap();
    assert!(meters.iter().all(|meter| meter.used == 0), "{meters:?}");
    worker.drain().await;
    api.drain().await;
}
