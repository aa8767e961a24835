//! The emergency stop: nothing new starts, nothing is lost, nothing is done twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::routing::post;
use common::clock::{Clock, ManualClock, SystemClock};
use common::id::TaskId;
use common::journal::{Event, Recorded, WakeCause};
use common::store::{HaltChange, HaltState};
use common::task::{State, StateName, WaitOn};
use scheduler::halt::{Liftings, tick};
use serde_json::{Value, json};
use suite::fixtures::process::{SchedulerProcess, until};
use suite::fixtures::program::Program;
use suite::fixtures::scheduler::RunningScheduler;
use suite::project::{CONFIG, ProjectDir};

/// The tasks that a worker works on at once.
const SLOTS: usize = 4;
/// How long a call of the tests takes.
const CALL: Duration = Duration::from_millis(60);
/// What is promised: so long after a halt no call starts.
const PROMISE: Duration = Duration::from_secs(2);
/// For how long it is looked whether nothing happens.
const WATCHED: Duration = Duration::from_millis(1_500);

/// The calls that a server has got: by idempotency key, when each came.
type Calls = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

async fn server() -> (String, Calls) {
    let calls = Calls::default();
    let take = |Shared(calls): Shared<Calls>, headers: HeaderMap| async move {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        calls.lock().unwrap().entry(key).or_default().push(Instant::now());
        tokio::time::sleep(CALL).await;
        "{}"
    };
    let app = Router::new().route("/", post(take)).with_state(Arc::clone(&calls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}/"), calls)
}

/// How many calls were made: different ones, and all.
fn made(calls: &Calls) -> (usize, usize) {
    let calls = calls.lock().unwrap();
    (calls.len(), calls.values().map(Vec::len).sum())
}

fn count(calls: &Calls) -> usize {
    made(calls).1
}

/// A pipeline of so many calls, one after the other.
fn pipeline(name: &str, calls: usize) -> String {
    let steps: String = (0..calls)
        .map(|n| format!("  - {{ id: c{n}, http: {{ method: POST, url: '{{{{ input.url }}}}', effect: keyed }} }}\n"))
        .collect();
    format!("name: {name}\nqueue: q\nsteps:\n{steps}")
}

async fn task(scheduler: &SchedulerProcess, id: &str) -> Value {
    reqwest::get(format!("{}/v1/tasks/{id}", scheduler.address)).await.unwrap().json().await.unwrap()
}

async fn kinds(scheduler: &SchedulerProcess, id: &str) -> Vec<&'static str> {
    let url = format!("{}/v1/tasks/{id}/journal?limit=1000", scheduler.address);
    let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let events: Vec<Recorded> = serde_json::from_value(page["events"].clone()).unwrap();
    events.iter().map(|recorded| recorded.event.kind()).collect()
}

fn submit(scheduler: &SchedulerProcess, pipeline: &str, url: &str) -> String {
    let input = json!({ "url": url }).to_string();
    scheduler.teamster(&["submit", pipeline, "--input", &input])["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_is_halted_calls_nothing_and_goes_on_where_it_stopped() {
    let (url, calls) = server().await;
    let long = pipeline("long", 30);
    let project = ProjectDir::new(&[("teamster.yaml", CONFIG), ("pipelines/long.yaml", &long)]);
    let mut scheduler = SchedulerProcess::start(project.path());
    let workers = [Program::worker(project.path(), SLOTS), Program::worker(project.path(), SLOTS)];
    let mut tasks: Vec<String> = (0..6).map(|_| submit(&scheduler, "long", &url)).collect();
    until("the calls are well under way", async || count(&calls) > 20).await;

    let halt = scheduler.teamster(&["halt", "--reason", "it spends too much", "--by", "ann"]);
    let halted = Instant::now();
    assert_eq!(
        (&halt["in_force"], &halt["by"], &halt["reason"]),
        (&json!(true), &json!("ann"), &json!("it spends too much"))
    );
    // A worker may take it that has not heard yet.
    tasks.push(submit(&scheduler, "long", &url));
    for id in &tasks {
        let waits = async || matches!(task(&scheduler, id).await["state"].as_str(), Some("waiting" | "ready"));
        until("the task waits", waits).await;
    }
    // That nothing happens has no signal: it is watched for a while after the time that is promised.
    tokio::time::sleep((halted + PROMISE + WATCHED).saturating_duration_since(Instant::now())).await;
    let last = calls.lock().unwrap().values().flatten().max().copied().unwrap();
    assert!(last < halted + PROMISE, "a call started {:?} after the halt", last - halted);
    assert!(count(&calls) < 6 * 30, "nothing was left to be halted");
    // It is accepted, and nobody takes it.
    let late = submit(&scheduler, "long", &url);
    tasks.push(late.clone());
    let shown = scheduler.teamster(&["halt", "--show"]);
    assert_eq!(shown["halts"][0]["by"], "ann");

    // Whoever wakes is killed in the middle of it.
    let lifted = scheduler.teamster(&["unhalt", "--by", "ben"]);
    assert_eq!((&lifted["in_force"], &lifted["lifted_by"]), (&json!(false), &json!("ben")));
    scheduler.kill();
    scheduler = SchedulerProcess::start(project.path());
    for id in &tasks {
        until("the task ends", async || task(&scheduler, id).await["state"] == "succeeded").await;
    }
    assert_eq!(made(&calls), (8 * 30, 8 * 30), "each call was made once");
    for id in &tasks {
        let kinds = kinds(&scheduler, id).await;
        let parked = kinds.iter().filter(|kind| **kind == "parked").count();
        let leased = kinds.iter().filter(|kind| **kind == "leased").count();
        let most = usize::from(*id != late);
        assert!(parked <= most && leased == parked + 1, "it was taken {leased} times and parked {parked} times");
    }
    drop(workers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_of_a_pipeline_stops_no_other() {
    let (url, calls) = server().await;
    let (one, other) = (pipeline("one", 40), pipeline("other", 3));
    let api = RunningScheduler::start(&[("pipelines/one.yaml", &one), ("pipelines/other.yaml", &other)]).await;
    let worker = api.worker();
    let input = json!({ "url": url });
    let running = api.submit(&json!({"pipeline": "one", "input": input})).await;
    until("the calls are under way", async || count(&calls) > 2).await;
    let halt = api.post("/v1/halt", &json!({"pipeline": "one", "reason": "why", "by": "ann"})).await;
    assert_eq!(halt.status, 200, "{}", halt.text);
    until("its task waits", async || api.get(&format!("/v1/tasks/{running}")).await.json()["state"] == "waiting").await;
    let id: TaskId = running.parse().unwrap();
    let head = api.store.head(id).await.unwrap().unwrap();
    assert!(matches!(&head.state, State::Waiting { wait, .. } if wait.on == [WaitOn::Halt]), "{:?}", head.state);

    // One that comes meanwhile is taken once and waits; it is not taken again and again.
    let meanwhile = api.submit(&json!({"pipeline": "one", "input": input})).await;
    until("it waits too", async || api.get(&format!("/v1/tasks/{meanwhile}")).await.json()["state"] == "waiting").await;
    let others = api.submit(&json!({"pipeline": "other", "input": input})).await;
    assert_eq!(api.watch(&others, None, "succeeded").await.last().unwrap().1, "succeeded");
    tokio::time::sleep(WATCHED).await;
    let journal = api.store.journal(meanwhile.parse().unwrap(), 0, 100).await.unwrap();
    let kinds: Vec<_> = journal.iter().map(|recorded| recorded.event.kind()).collect();
    assert_eq!(kinds, ["submitted", "leased", "parked"]);

    let again = api.post("/v1/halt", &json!({"pipeline": "one", "by": "zoe"})).await.json();
    assert_eq!(again["by"], "ann", "the first one says who and why");
    api.send(api.request("DELETE", "/v1/halt")).await.problem(404);
    let lifted = api.send(api.request("DELETE", "/v1/halt?pipeline=one&by=ben")).await.json();
    assert_eq!((&lifted["lifted_by"], &lifted["in_force"]), (&json!("ben"), &json!(false)));
    for id in [&running, &meanwhile] {
        assert_eq!(api.watch(id, None, "succeeded").await.last().unwrap().1, "succeeded");
        let journal = api.store.journal(id.parse().unwrap(), 0, 1_000).await.unwrap();
        let woken = journal.iter().filter(|r| matches!(r.event, Event::Woken { cause: WakeCause::Unhalted }));
        assert_eq!(woken.count(), 1);
    }
    assert_eq!(made(&calls), (83, 83), "each call was made once");
    worker.drain().await;
}

#[tokio::test]
async fn a_halt_of_nothing_is_refused() {
    let api = RunningScheduler::start(&[]).await;
    let answer = api.post("/v1/halt", &json!({"pipeline": "gret"})).await.problem(404);
    assert!(answer["detail"].as_str().unwrap().contains("nothing was halted"), "{answer}");
    api.post("/v1/halt", &json!({"pipeline": "greet", "why": "x"})).await.problem(422);
    api.post("/v1/halt", &json!({"reason": "x".repeat(100_000)})).await.problem(422);
    api.send(api.request("DELETE", "/v1/halt?pipeline=greet")).await.problem(404);
    api.send(api.request("DELETE", "/v1/halt?all=1")).await.problem(422);
    assert_eq!(api.get("/v1/halt").await.json(), json!({"halts": []}));
    let empty = api.send(api.request("POST", "/v1/halt")).await;
    assert_eq!(empty.status, 200, "in an emergency, a bare request must do: {}", empty.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn waking_goes_on_where_another_scheduler_was_lost_and_ends_when_nobody_waits_any_more() {
    let (url, _) = server().await;
    let api = RunningScheduler::start(&[("pipelines/one.yaml", &pipeline("one", 1))]).await;
    let store = Arc::clone(&api.store);
    let one = |number: u32| json!({"pipeline": "one", "input": {"url": url}, "idempotency_key": number.to_string()});
    api.post("/v1/halt", &json!({"pipeline": "one"})).await;
    let mut ids: Vec<TaskId> = Vec::new();
    for number in 0..20 {
        ids.push(api.submit(&one(number)).await.parse().unwrap());
    }
    let worker = api.worker();
    for id in &ids {
        let waits = async || store.head(*id).await.unwrap().unwrap().state.name() == StateName::Waiting;
        until("all wait", waits).await;
    }
    worker.drain().await;
    // What a scheduler leaves that is lost: the halt is lifted, and some were woken.
    let lift = HaltChange::Lift { pipeline: Some("one".parse().unwrap()), by: "ben".to_owned() };
    let _project = Arc::clone(&api.project);
    api.drain().await;
    store.change_halt(lift).await.unwrap().unwrap();
    for id in &ids[..7] {
        store.signal(*id, common::task::Signal::Unhalt).await.unwrap();
    }
    let clock = ManualClock::at(SystemClock.now());
    let mut liftings = Liftings::default();
    assert_eq!(tick(&*store, &mut liftings, clock.now()).await.unwrap(), 13);
    assert_eq!(tick(&*store, &mut liftings, clock.now()).await.unwrap(), 0);
    for _ in 0..1_000 {
        clock.advance(Duration::from_millis(500));
        tick(&*store, &mut liftings, clock.now()).await.unwrap();
    }
    let halts = store.halts().await.unwrap();
    assert!(matches!(halts[0].state, HaltState::Over { .. }), "{halts:?}");
}
