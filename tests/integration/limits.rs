//! Budgets, rate limits, places and breakers, with real processes that race for
//! them: what all together may use is never passed, and who waits gets its turn.

mod pauses;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as Segment, State as Shared};
use axum::routing::post;
use common::journal::{Event, HoldBack, Run};
use common::task::{DeadReason, State};
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply};
use suite::fixtures::process::{SchedulerProcess, until};
use suite::fixtures::program::Program;
use suite::fixtures::scheduler::RunningScheduler;
use suite::project::{CONFIG, ProjectDir};
use suite::servers::redis;

const THINKER: &str = "---\nname: thinker\ndescription: thinks\ntools: Glob\nmodel: m\n---\nThink.\n";
const THINK: &str = "name: think\nqueue: q\nlabels: { tenant: '{{ input.tenant | default(\"none\") }}' }\n\
     steps: [{ id: think, agent: thinker, prompt: Go., limits: { max_tokens: 1000 } }]\n";
/// How many tasks race.
const TASKS: usize = 200;
/// Processes that race.
const WORKERS: usize = 4;
/// The tasks that each of them works on at once.
const SLOTS: usize = 20;

/// How many tasks are in a state.
async fn count(scheduler: &SchedulerProcess, state: &str) -> usize {
    let url = format!("{}/v1/tasks?state={state}&limit=1000", scheduler.address);
    let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    page["tasks"].as_array().unwrap().len()
}

async fn submit(scheduler: &SchedulerProcess, pipeline: &str, input: &Value) -> String {
    let body = json!({"pipeline": pipeline, "input": input});
    let url = format!("{}/v1/tasks", scheduler.address);
    let answer: Value = reqwest::Client::new().post(url).json(&body).send().await.unwrap().json().await.unwrap();
    answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Cancels a task, unless it is done already.
async fn cancel(scheduler: &SchedulerProcess, id: &str) {
    let url = format!("{}/v1/tasks/{id}/cancel", scheduler.address);
    let status = reqwest::Client::new().post(url).json(&json!({})).send().await.unwrap().status().as_u16();
    assert!([200, 202, 409].contains(&status), "{status}");
}

/// One model at a fake of its API, and what else the operator says.
fn config(fake: &FakeModel, more: &str) -> String {
    format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\nproviders:\n  fake: {{ kind: anthropic, \
         base_url: '{}', key: 'env:PATH' }}\n{more}",
        fake.base_url()
    )
}

/// An API that takes a moment for each answer, so that calls overlap.
async fn slow_model() -> FakeModel {
    FakeModel::answering(|_| Reply::Slow(Message::of_text("Done."), Duration::from_millis(3))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racing_tasks_make_fifty_calls_and_not_one_more() {
    let fake = slow_model().await;
    let more =
        format!("store: {}\nrate_limits: {{ fifty: {{ model: m, requests: 50, every: 30d }} }}\n", redis::place());
    let project = ProjectDir::new(&[
        ("teamster.yaml", &config(&fake, &more)),
        ("pipelines/think.yaml", THINK),
        ("agents/thinker.md", THINKER),
    ]);
    let scheduler = SchedulerProcess::start(project.path());
    for _ in 0..TASKS {
        submit(&scheduler, "think", &json!({})).await;
    }
    let mut workers: Vec<Program> = (0..WORKERS).map(|_| Program::worker(project.path(), SLOTS)).collect();
    fake.received(10).await.unwrap();
    workers[0].kill();
    until("all others wait", async || count(&scheduler, "ready").await + count(&scheduler, "running").await == 0).await;
    let (done, waiting) = (count(&scheduler, "succeeded").await, count(&scheduler, "waiting").await);
    assert_eq!(fake.requests().len(), 50, "what a killed worker asked for counts too");
    assert!(done <= 50 && done + 20 >= 50 && done + waiting == TASKS, "{done} {waiting}");
    let meters = scheduler.teamster(&["limits", "rate "]);
    assert_eq!(meters["meters"][0]["name"], "rate fifty requests");
    assert_eq!((&meters["meters"][0]["used"], &meters["meters"][0]["limit"]), (&json!(50), &json!(50)));
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_tasks_never_spend_more_than_their_budget_and_each_tenant_has_its_own() {
    let fake = slow_model().await;
    // The worst case of a call is about 1,700 tokens, and it uses about 300.
    let more = format!(
        "store: {}\nbudgets:\n  tenants: {{ label: tenant, tokens: 3000 }}\n  big: {{ label: tenant, value: big, tokens: 5000 }}\n",
        redis::place()
    );
    let project = ProjectDir::new(&[
        ("teamster.yaml", &config(&fake, &more)),
        ("pipelines/think.yaml", THINK),
        ("agents/thinker.md", THINKER),
    ]);
    let scheduler = SchedulerProcess::start(project.path());
    let mut tasks = BTreeMap::new();
    for number in 0..TASKS {
        let tenant = ["small", "other", "big"][number % 3];
        tasks.insert(submit(&scheduler, "think", &json!({ "tenant": tenant })).await, tenant);
    }
    let workers: Vec<Program> = (0..WORKERS).map(|_| Program::worker(project.path(), SLOTS)).collect();
    // The rest of a reservation comes back, and tasks that wait for it go on, until nothing fits any more.
    let nearly = [
        ("budget big/big tokens", 3_200),
        ("budget tenants/other tokens", 1_200),
        ("budget tenants/small tokens", 1_200),
    ];
    until("the budgets are nearly spent", async || {
        let meters = scheduler.teamster(&["limits", "budget "]);
        let used = |name: &str| meters["meters"].as_array()?.iter().find(|m| m["name"] == name)?["used"].as_u64();
        nearly.iter().all(|(name, least)| used(name).is_some_and(|used| used > *least))
            && count(&scheduler, "waiting").await > TASKS / 2
    })
    .await;
    drop(workers);
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    let mut waiting = 0;
    for (id, tenant) in &tasks {
        let url = format!("{}/v1/tasks/{id}", scheduler.address);
        let task: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        *used.entry(tenant).or_default() += task["tokens"].as_u64().unwrap();
        waiting += usize::from(task["state"] == "waiting" && task["waiting_on"][0] == "budget");
    }
    assert!(used["small"] <= 3_000 && used["other"] <= 3_000 && used["big"] <= 5_000, "{used:?}");
    assert!(used["small"] > 1_200 && used["big"] > 3_000, "what was not used was given back: {used:?}");
    assert!(waiting > TASKS / 2, "{waiting}");
    let meters = scheduler.teamster(&["limits", "budget "]);
    let names: Vec<&str> = meters["meters"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["budget big/big tokens", "budget tenants/other tokens", "budget tenants/small tokens"]);
}

/// A server that counts how many tasks have calls of each key under way at once.
#[derive(Default)]
struct Doors {
    /// By key: the tasks of the calls.
    inside: BTreeMap<String, Vec<String>>,
    most: BTreeMap<String, usize>,
    calls: usize,
}

/// A call that is under way. Its end counts also if nobody waits for the answer any more.
struct Inside {
    doors: Arc<Mutex<Doors>>,
    key: String,
    task: String,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut doors = self.doors.lock().unwrap();
        let inside = doors.inside.get_mut(&self.key).unwrap();
        let place = inside.iter().position(|other| *other == self.task).unwrap();
        inside.remove(place);
    }
}

async fn doors() -> (String, Arc<Mutex<Doors>>) {
    let doors = Arc::new(Mutex::new(Doors::default()));
    let enter = |Shared(doors): Shared<Arc<Mutex<Doors>>>, Segment((key, task)): Segment<(String, String)>| async move {
        {
            let mut doors = doors.lock().unwrap();
            doors.calls += 1;
            let inside = doors.inside.entry(key.clone()).or_default();
            inside.push(task.clone());
            let now = inside.iter().collect::<BTreeSet<_>>().len();
            let most = doors.most.entry(key.clone()).or_default();
            *most = now.max(*most);
        }
        let _inside = Inside { doors, key, task };
        tokio::time::sleep(Duration::from_millis(5)).await;
        "{}"
    };
    let app = Router::new().route("/{key}/{task}", post(enter)).with_state(Arc::clone(&doors));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), doors)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_one_key_are_under_way_one_at_a_time_also_when_a_worker_is_lost() {
    let (url, doors) = doors().await;
    let pipeline = "name: visit\nqueue: q\nconcurrency: { key: '{{ input.key }}', max: 1 }\nsteps:\n\
         \x20 - { id: first, http: { method: POST, url: '{{ input.url }}/{{ input.key }}/{{ task.id }}', effect: keyed } }\n\
         \x20 - { id: second, http: { method: POST, url: '{{ input.url }}/{{ input.key }}/{{ task.id }}', effect: keyed } }\n";
    let config = format!("store: {}\nworker: {{ lease: 2s }}\n", redis::place());
    let project = ProjectDir::new(&[("teamster.yaml", &config), ("pipelines/visit.yaml", pipeline)]);
    let scheduler = SchedulerProcess::start(project.path());
    let mut tasks = Vec::new();
    for number in 0..40 {
        let input = json!({"url": url, "key": format!("k{}", number % 4)});
        tasks.push(submit(&scheduler, "visit", &input).await);
    }
    let mut workers: Vec<Program> = (0..WORKERS).map(|_| Program::worker(project.path(), SLOTS)).collect();
    until("the calls are under way", async || doors.lock().unwrap().calls > 10).await;
    workers[0].kill();
    // A task that is cancelled while it waits, or has its place, keeps nobody out.
    cancel(&scheduler, &tasks[38]).await;
    let most = Duration::from_secs(90);
    let started = Instant::now();
    while count(&scheduler, "succeeded").await + count(&scheduler, "cancelled").await < tasks.len() {
        assert!(started.elapsed() < most, "{:?}", scheduler.teamster(&["limits"]));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let doors = doors.lock().unwrap();
    assert!(doors.most.len() == 4 && doors.most.values().all(|most| *most == 1), "{:?}", doors.most);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_use_a_resource_share_its_places() {
    let (url, doors) = doors().await;
    let pipeline = "name: scrape\nqueue: q\nsteps:\n  - id: get\n    uses: scraper\n    foreach: range(10)\n    max_parallel: 10\n\
         \x20   http: { method: POST, url: '{{ input.url }}/scraper/{{ index }}', effect: keyed }\n";
    let config = format!("{CONFIG}rate_limits: {{ scraper: {{ at_once: 3 }} }}\n");
    let api = RunningScheduler::start(&[("teamster.yaml", &config), ("pipelines/scrape.yaml", pipeline)]).await;
    let worker = api.worker();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(api.submit(&json!({"pipeline": "scrape", "input": {"url": url}})).await);
    }
    for id in &tasks {
        api.watch(id, None, "end").await;
    }
    {
        let doors = doors.lock().unwrap();
        assert_eq!((doors.calls, doors.most["scraper"]), (30, 3));
    }
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_spend_of_their_parents_budget() {
    let fake = slow_model().await;
    let parent = "name: parent\nbudget: { tokens: 4000, then: fail }\nsteps:\n\
         \x20 - { id: own, agent: thinker, prompt: Go., limits: { max_tokens: 1000 } }\n\
         \x20 - { id: child, needs: [], foreach: range(8), max_parallel: 8, on_error: continue, pipeline: think }\n";
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config(&fake, "")),
        ("pipelines/parent.yaml", parent),
        ("pipelines/think.yaml", THINK),
        ("agents/thinker.md", THINKER),
    ])
    .await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "parent", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let used: u64 = fake.requests().iter().map(|request| request.body.len() as u64 / 4 + 10).sum();
    assert!(fake.requests().len() < 9 && used <= 4_000, "{} requests, {used} tokens", fake.requests().len());
    let page = api.get("/v1/tasks?state=dead&pipeline=think").await.json();
    let dead = page["tasks"].as_array().unwrap();
    assert!(!dead.is_empty() && dead.iter().all(|task| task["dead_reason"] == "budget"), "{page}");
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_budget_is_spent_waits_and_goes_on_with_more() {
    let fake = slow_model().await;
    let pipeline = "name: think\nbudget: { usd: 0.001 }\nsteps: [{ id: think, agent: thinker, prompt: Go. }]\n";
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config(&fake, "")),
        ("pipelines/think.yaml", pipeline),
        ("agents/thinker.md", THINKER),
    ])
    .await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    until("it waits", async || {
        let task = api.get(&format!("/v1/tasks/{id}")).await.json();
        task["state"] == "waiting" && task["waiting_on"] == json!(["budget"])
    })
    .await;
    assert_eq!(fake.requests().len(), 0);
    api.post(&format!("/v1/tasks/{id}/raise"), &json!({})).await.problem(422);
    api.post(&format!("/v1/tasks/{id}/raise"), &json!({"usd": -1.0})).await.problem(422);
    let raised = api.post(&format!("/v1/tasks/{id}/raise"), &json!({"usd": 1.0, "by": "ann"})).await;
    assert_eq!((raised.status, &raised.json()["state"]), (200, &json!("ready")));
    api.watch(&id, None, "end").await;
    assert_eq!(fake.requests().len(), 1);
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_task_that_is_given_more_is_replayed_to_its_end() {
    let fake = slow_model().await;
    let pipeline =
        "name: think\nbudget: { usd: 0.001, then: fail }\nsteps: [{ id: think, agent: thinker, prompt: Go. }]\n";
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config(&fake, "")),
        ("pipelines/think.yaml", pipeline),
        ("agents/thinker.md", THINKER),
    ])
    .await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let task = api.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!((&task["state"], &task["dead_reason"]), (&json!("dead"), &json!("budget")), "{task}");
    let replay = format!("/v1/dead-letters/{id}/replay");
    api.post(&replay, &json!({})).await;
    until("it died of the same again", async || {
        api.get(&format!("/v1/tasks/{id}")).await.json()["attempts"] == 2
            && api.get(&format!("/v1/tasks/{id}")).await.json()["state"] == "dead"
    })
    .await;
    api.post(&format!("/v1/tasks/{id}/raise"), &json!({"usd": 1.0, "by": "ann"})).await;
    api.post(&replay, &json!({})).await;
    until("it is done", async || api.get(&format!("/v1/tasks/{id}")).await.json()["state"] == "succeeded").await;
    assert_eq!(fake.requests().len(), 1);
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_cannot_pay_holds_tasks_back_and_kills_none() {
    let paid = Arc::new(Mutex::new(false));
    let settled = Arc::clone(&paid);
    let fake = FakeModel::answering(move |_| {
        if *settled.lock().unwrap() {
            Reply::Message(Message::of_text("Done."))
        } else {
            Reply::error(400, "invalid_request_error", "Your credit balance is too low to access the API.")
        }
    })
    .await
    .unwrap();
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config(&fake, "")),
        ("pipelines/think.yaml", THINK),
        ("agents/thinker.md", THINKER),
    ])
    .await;
    let worker = api.worker();
    let first = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    let waits = async |id: &str| {
        let task = api.get(&format!("/v1/tasks/{id}")).await.json();
        task["state"] == "waiting" && task["waiting_on"] == json!(["budget"])
    };
    until("the first waits", async || waits(&first).await).await;
    let second = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    until("the second waits", async || waits(&second).await).await;
    assert_eq!(fake.requests().len(), 1, "the account is left alone");
    let journal = api.store.journal(second.parse().unwrap(), 0, 100).await.unwrap();
    let held = journal.iter().any(|recorded| {
        matches!(&recorded.event, Event::HeldBack { why: HoldBack::Breaker { of, .. }, .. } if of == "provider fake")
    });
    assert!(held, "{journal:?}");
    worker.drain().await;
    *paid.lock().unwrap() = true;
    // A worker that is started anew knows nothing of the past, and a person wakes the tasks.
    let worker = api.worker();
    for id in [&first, &second] {
        api.post(&format!("/v1/tasks/{id}/wake"), &json!({})).await;
        api.watch(id, None, "end").await;
        let state = api.store.head(id.parse().unwrap()).await.unwrap().unwrap().state;
        assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    }
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_asks_for_a_pause_gets_it_from_all_tasks() {
    let fake = FakeModel::answering(|request| match request.number {
        0 => Reply::error_with_header(429, "rate_limit_error", "retry-after", "2"),
        _ => Reply::Message(Message::of_text("Done.")),
    })
    .await
    .unwrap();
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config(&fake, "")),
        ("pipelines/think.yaml", THINK),
        ("agents/thinker.md", THINKER),
    ])
    .await;
    let worker = api.worker();
    let mut tasks = vec![api.submit(&json!({"pipeline": "think", "input": {}})).await];
    fake.received(1).await.unwrap();
    let refused = Instant::now();
    until("it is known", async || {
        let journal = api.store.journal(tasks[0].parse().unwrap(), 0, 100).await.unwrap();
        journal.iter().any(|recorded| matches!(recorded.event, Event::StepRetrying { .. }))
    })
    .await;
    for _ in 0..5 {
        tasks.push(api.submit(&json!({"pipeline": "think", "input": {}})).await);
    }
    fake.received(2).await.unwrap();
    assert!(refused.elapsed() >= Duration::from_millis(1_900), "after {:?}", refused.elapsed());
    for id in &tasks {
        api.watch(id, None, "end").await;
    }
    assert_eq!(fake.requests().len(), 7);
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_without_a_tool_that_is_broken_and_a_step_waits_for_it() {
    let calls = Arc::new(Mutex::new(0));
    let broken = {
        let calls = Arc::clone(&calls);
        move || async move {
            *calls.lock().unwrap() += 1;
            axum::http::StatusCode::BAD_GATEWAY
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/{what}", axum::routing::get(broken));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let fake = FakeModel::answering(|request| match request.turn() {
        turn @ 0..7 => Message::new().tool_use(&format!("toolu_{turn}"), "Lookup", &json!({"n": turn})).into(),
        _ => Message::of_text("Without it.").into(),
    })
    .await
    .unwrap();
    let tool = format!(
        "tools: {{ Lookup: {{ description: looks up, input: {{ type: object }}, method: GET, url: 'http://{address}/{{{{ \
         input.n }}}}', effect: read }} }}\n"
    );
    let waits = format!(
        "name: waits\nretry: {{ attempts: 9, backoff: {{ initial: 1ms, max: 1ms, jitter: none }} }}\nsteps: [{{ id: get, http: {{ method: GET, url: 'http://{address}/x', effect: \
         read }} }}]\n"
    );
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config(&fake, &tool)),
        ("pipelines/think.yaml", THINK),
        ("pipelines/waits.yaml", &waits),
        ("agents/thinker.md", &THINKER.replace("Glob", "Lookup")),
    ])
    .await;
    let worker = api.worker();
    let started = Instant::now();
    let id = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let run = Run::fold(id.parse().unwrap(), &api.store.journal(id.parse().unwrap(), 0, 1_000).await.unwrap()).unwrap();
    assert_eq!(run.output, Some(json!("Without it.")), "{:?}", run.head.state);
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waited: {:?}", started.elapsed());
    assert_eq!(*calls.lock().unwrap(), 5, "then it was left alone");
    let told = fake.requests()[7].json["messages"].to_string();
    assert!(told.contains("Lookup has failed again and again") && told.contains("go on without it"), "{told}");

    let id = api.submit(&json!({"pipeline": "waits", "input": {}})).await;
    until("the step waits for it", async || {
        let journal = api.store.journal(id.parse().unwrap(), 0, 1_000).await.unwrap();
        journal.iter().any(|recorded| matches!(recorded.event, Event::HeldBack { .. }))
    })
    .await;
    assert_eq!(*calls.lock().unwrap(), 10);
    worker.drain().await;
    api.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_in_dollars_needs_a_price() {
    let fake = slow_model().await;
    let pipeline = "name: think\nbudget: { usd: 1 }\nsteps: [{ id: think, agent: thinker, prompt: Go. }]\n";
    let config = config(&fake, "").replace("claude-sonnet-4-6", "mystery-1");
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config),
        ("pipelines/think.yaml", pipeline),
        ("agents/thinker.md", THINKER),
    ])
    .await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let state = api.store.head(id.parse().unwrap()).await.unwrap().unwrap().state;
    let State::Dead { reason: DeadReason::Failed, error, .. } = state else { panic!("{state:?}") };
    assert!(error.message.contains("models.m.price"), "{error}");
    assert_eq!(fake.requests().len(), 0);
    worker.drain().await;
    api.drain().await;
}
