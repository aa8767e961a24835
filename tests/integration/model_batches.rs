//! Model batches with real processes: requests of many tasks go out together, are
//! paid once and at half price, and every task gets its answer, whoever dies.

mod decided;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use common::failure::FailureClass;
use common::journal::{Event, Recorded};
use rustix::process::Signal;
use serde_json::{Value, json};
use suite::binary;
use suite::fakes::model::{EXPIRED, FakeModel, Message, Reply, Request};
use suite::fixtures::process::{SchedulerProcess, until};
use suite::fixtures::program::Program;
use suite::project::ProjectDir;
use suite::servers::redis;

/// What one answer of the fake costs: 100 tokens in, 20 out, of Sonnet.
const PRICE: f64 = (100.0 * 3.0 + 20.0 * 15.0) / 1e6;
const OPTIONS: &str = "linger: 300ms, poll: 50ms, min_wait: 1s";

/// A project whose only step asks one question in a batch.
struct World {
    fake: FakeModel,
    project: ProjectDir,
    scheduler: SchedulerProcess,
    client: reqwest::Client,
}

/// What differs between projects.
struct Setting<'a> {
    options: &'a str,
    config: &'a str,
    step: &'a str,
    store: Option<String>,
}

impl Default for Setting<'_> {
    fn default() -> Self {
        Self { options: OPTIONS, config: "", step: "batch: { max_wait: 6h }", store: None }
    }
}

/// The number that a request is about.
fn number(request: &Request) -> u64 {
    let text = request.json["messages"].to_string();
    let at = text.find("n=").unwrap() + 2;
    text[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

fn answer(request: &Request) -> Reply {
    Message::of_text(&format!("answer {}", number(request))).having_read(100).into()
}

impl World {
    async fn new(setting: Setting<'_>, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let fake = FakeModel::answering(answer).await.unwrap();
        let store = setting.store.map(|store| format!("store: {store}\n")).unwrap_or_default();
        let config = format!(
            "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\nproviders:\n  fake: {{ kind: anthropic, \
             base_url: '{}', key: 'env:PATH', batches: {{ {} }} }}\nworker: {{ lease: 1s }}\n{store}{}\n",
            fake.base_url(),
            setting.options,
            setting.config
        );
        let pipeline = format!(
            "name: think\nqueue: q\nretry: {{ attempts: 3, backoff: {{ initial: 5ms, max: 20ms, jitter: none }} }}\n\
             steps:\n  - {{ id: think, agent: thinker, prompt: 'n={{{{ input.n }}}}', limits: {{ max_tokens: 1000 }}, {} }}\n",
            setting.step
        );
        let agent = "---\nname: thinker\ndescription: thinks\nmodel: m\n---\nThink.\n";
        let project = ProjectDir::new(&[
            ("teamster.yaml", &config),
            ("pipelines/think.yaml", &pipeline),
            ("agents/thinker.md", agent),
        ]);
        let scheduler = SchedulerProcess::start(project.path());
        Self { fake, project, scheduler, client: reqwest::Client::new() }
    }

    fn worker(&self, slots: usize) -> Program {
        Program::worker(self.project.path(), slots)
    }

    /// A worker that kills itself somewhere.
    fn doomed(&self, slots: usize, fault: &str) -> Program {
        let (dir, slots) = (self.project.path().display().to_string(), slots.to_string());
        let arguments = ["worker", "--slots", &slots, "--dir", &dir];
        Program::start_in(&[("TEAMSTER_FAULT", fault)], &arguments)
    }

    async fn submit(&self, range: std::ops::Range<u64>) -> Vec<String> {
        let mut ids = Vec::new();
        for n in range {
            let body = json!({"pipeline": "think", "input": {"n": n}});
            let url = format!("{}/v1/tasks", self.scheduler.address);
            let answer: Value = self.client.post(url).json(&body).send().await.unwrap().json().await.unwrap();
            ids.push(answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned());
        }
        ids
    }

    async fn task(&self, id: &str) -> Value {
        let url = format!("{}/v1/tasks/{id}", self.scheduler.address);
        self.client.get(url).send().await.unwrap().json().await.unwrap()
    }

    async fn journal(&self, id: &str) -> Vec<Event> {
        let url = format!("{}/v1/tasks/{id}/journal?limit=1000", self.scheduler.address);
        let page: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        let events: Vec<Recorded> = serde_json::from_value(page["events"].clone()).unwrap();
        events.into_iter().map(|recorded| recorded.event).collect()
    }

    async fn count(&self, state: &str) -> usize {
        let url = format!("{}/v1/tasks?state={state}&limit=1000", self.scheduler.address);
        let page: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        page["tasks"].as_array().unwrap().len()
    }

    async fn until(&self, state: &str, count: usize) {
        until(&format!("{count} tasks are {state}"), async || self.count(state).await == count).await;
    }

    /// All requests that were in batches, by their ids.
    fn batched(&self) -> Vec<String> {
        let batches = self.fake.batches();
        let requests = batches.iter().flat_map(|batch| &batch.requests);
        requests.map(|request| request["custom_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Checks that tasks were answered once, each with its own answer, by one request in a batch, at half price.
    async fn answered_once(&self, ids: &[String]) {
        for (n, id) in ids.iter().enumerate() {
            let task = self.task(id).await;
            assert_eq!(task["output"], format!("answer {n}"), "{task}");
            let journal = self.journal(id).await;
            let turns: Vec<_> = journal
                .iter()
                .filter_map(|event| match event {
                    Event::TurnFinished { call, entry, .. } => Some((call, entry)),
                    _ => None,
                })
                .collect();
            let [(call, Some(_))] = turns.as_slice() else { panic!("{id}: {turns:?}") };
            assert!((call.usage.cost_usd - PRICE / 2.0).abs() < 1e-12, "{:?}", call.usage);
            assert!((task["cost_usd"].as_f64().unwrap() - PRICE / 2.0).abs() < 1e-9, "{task}");
        }
        let batched = self.batched();
        let different: BTreeSet<&String> = batched.iter().collect();
        assert_eq!((batched.len(), different.len()), (ids.len(), ids.len()), "no request is paid twice");
        assert_eq!(self.fake.direct(), 0);
        assert_eq!(self.fake.violations(), Vec::<String>::new());
    }
}

#[track_caller]
fn teamster(scheduler: &SchedulerProcess, arguments: &[&str]) -> Value {
    let all = [arguments, &["--json", "--api", &scheduler.address]].concat();
    let output = binary::run(&all).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn kinds(journal: &[Event]) -> Vec<&'static str> {
    journal.iter().map(Event::kind).collect()
}

fn show(dir: &Path, scheduler: &SchedulerProcess, id: &str) -> String {
    let dir = dir.display().to_string();
    let output = binary::run(&["tasks", "show", id, "--api", &scheduler.address, "--dir", &dir]).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

async fn three_hundred_tasks(store: Option<String>) {
    const TASKS: u64 = 300;
    let world = World::new(Setting { store, ..Setting::default() }, answer).await;
    world.fake.hold_batches(true);
    let ids = world.submit(0..TASKS).await;
    // Far fewer slots than tasks: who waits has none.
    let _workers = [world.worker(8), world.worker(8)];
    until("all requests are out", async || world.batched().len() == ids.len()).await;
    world.until("waiting", ids.len()).await;
    let task = world.task(&ids[0]).await;
    assert_eq!(task["waiting_on"], json!(["model_batch"]), "{task}");
    let shown = show(world.project.path(), &world.scheduler, &ids[0]);
    assert!(shown.contains("waits for a model batch") && shown.contains("at the latest"), "{shown}");
    world.fake.hold_batches(false);
    world.until("succeeded", ids.len()).await;
    world.answered_once(&ids).await;
    assert!(world.fake.batches().len() <= 12, "{} batches", world.fake.batches().len());
    let leases = kinds(&world.journal(&ids[0]).await).into_iter().filter(|kind| *kind == "leased").count();
    assert_eq!(leases, 2, "one attempt before the wait and one after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_tasks_share_few_batches_and_hold_no_slot_meanwhile() {
    three_hundred_tasks(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_tasks_share_few_batches_on_redis_too() {
    three_hundred_tasks(Some(redis::place())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_tried_again_as_the_step_says_and_a_wrong_request_is_not() {
    let tries = std::sync::Mutex::new(std::collections::BTreeMap::<u64, u32>::new());
    let world = World::new(Setting::default(), move |request| {
        let n = number(request);
        let first = {
            let mut tries = tries.lock().unwrap();
            let tries = tries.entry(n).or_default();
            *tries += 1;
            *tries == 1
        };
        match n {
            0 if first => Reply::error(500, "api_error", "broken"),
            1 if first => Reply::error(0, EXPIRED, ""),
            2 if first => Reply::error(0, suite::fakes::model::CANCELED, ""),
            3 => Reply::error(400, "invalid_request_error", "no"),
            4 => Reply::error(529, "overloaded_error", "Overloaded"),
            _ => answer(request),
        }
    })
    .await;
    let ids = world.submit(0..6).await;
    let _worker = world.worker(8);
    world.until("succeeded", 4).await;
    world.until("dead", 2).await;
    for (n, class) in [(0, "unavailable"), (1, "timeout"), (2, "unavailable")] {
        let journal = world.journal(&ids[n]).await;
        let failed: Vec<_> = journal
            .iter()
            .filter_map(|event| match event {
                Event::StepRetrying { error, .. } => Some(error.class.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(failed, [class], "{n}");
        let joined = kinds(&journal).into_iter().filter(|kind| *kind == "model_batch_joined").count();
        assert_eq!(joined, 2, "{n}: it goes out in a batch again");
    }
    let counts = |n: usize| {
        let id = &ids[n];
        let world = &world;
        async move {
            let journal = world.journal(id).await;
            let count = |kind: &str| kinds(&journal).into_iter().filter(|other| *other == kind).count();
            (count("model_batch_failed"), world.task(id).await["error"]["class"].clone())
        }
    };
    assert_eq!(counts(3).await, (1, json!(FailureClass::InvalidRequest)));
    assert_eq!(counts(4).await, (3, json!(FailureClass::Overloaded)));
    assert_eq!(world.fake.direct(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_point_of_a_batch_pays_nothing_twice_and_loses_no_task() {
    for fault in ["before_send:1", "after_send:1", "before_delivery:1", "before_delivery:7"] {
        let world = World::new(Setting::default(), answer).await;
        let ids = world.submit(0..12).await;
        let mut doomed = world.doomed(20, fault);
        until(&format!("{fault} comes"), async || doomed.has_ended()).await;
        let _other = world.worker(20);
        world.until("succeeded", ids.len()).await;
        world.answered_once(&ids).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_a_batch_is_under_way_is_replaced_by_another() {
    let world = World::new(Setting::default(), answer).await;
    world.fake.hold_batches(true);
    let ids = world.submit(0..12).await;
    let mut first = world.worker(20);
    until("all requests are out", async || world.batched().len() == ids.len()).await;
    let _second = world.worker(20);
    first.kill();
    world.fake.hold_batches(false);
    world.until("succeeded", ids.len()).await;
    world.answered_once(&ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_killed_at_any_append_joins_once() {
    for number in 1..=4 {
        for place in ["before_append", "after_append"] {
            let world = World::new(Setting::default(), answer).await;
            let ids = world.submit(0..1).await;
            let mut doomed = world.doomed(4, &format!("{place}:{number}"));
            until("the fault comes, or the end", async || doomed.has_ended() || world.count("succeeded").await == 1)
                .await;
            let _other = world.worker(4);
            world.until("succeeded", 1).await;
            world.answered_once(&ids).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_was_lost_is_found_again_and_one_that_is_not_taken_is_sent_later() {
    let world = World::new(Setting::default(), answer).await;
    world.fake.lose_batches(1);
    let ids = world.submit(0..3).await;
    let _worker = world.worker(8);
    world.until("succeeded", 3).await;
    world.answered_once(&ids).await;
    world.fake.refuse_batches(1);
    world.submit(3..4).await;
    world.until("succeeded", 4).await;
    assert_eq!((world.fake.batches().len(), world.fake.direct()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_makes_a_batch_be_refused_fails_alone() {
    let world = World::new(Setting::default(), answer).await;
    world.fake.refuse_batches_with("n=5");
    let ids = world.submit(0..8).await;
    let _worker = world.worker(8);
    world.until("dead", 1).await;
    world.until("succeeded", 7).await;
    let task = world.task(&ids[5]).await;
    assert_eq!(task["error"]["class"], "invalid_request", "{task}");
    assert_eq!((world.batched().len(), world.fake.direct()), (7, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_does_nothing_for_batches_that_another_one_looks_after() {
    // On a server, which no stopped client can lock.
    let world = World::new(Setting { store: Some(redis::place()), ..Setting::default() }, answer).await;
    world.fake.hold_batches(true);
    let mut ids = world.submit(0..3).await;
    let first = world.worker(4);
    until("the requests are out", async || world.batched().len() == 3).await;
    world.until("waiting", 3).await;
    first.signal(Signal::STOP);
    let _second = world.worker(4);
    world.fake.hold_batches(false);
    world.until("succeeded", 3).await;
    first.signal(Signal::CONT);
    ids.extend(world.submit(3..6).await);
    world.until("succeeded", 6).await;
    world.answered_once(&ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_goes_out_and_is_kept_as_tokens_only() {
    const CANARY: &str = "jane.canary@example.com";
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef").unwrap();
    let config = format!("private_data: {{ key: 'file:{}', kinds: [email] }}", key.path().display());
    let step = "batch: { max_wait: 6h }";
    let world = World::new(Setting { config: &config, step, ..Setting::default() }, |request| {
        let answer = format!("answer {}: mail {CANARY}, or other.canary@example.com", number(request));
        Message::of_text(&answer).having_read(100).into()
    })
    .await;
    let body = json!({"pipeline": "think", "input": {"n": format!("0 {CANARY}")}});
    let url = format!("{}/v1/tasks", world.scheduler.address);
    let task: Value = world.client.post(url).json(&body).send().await.unwrap().json().await.unwrap();
    let id = task["id"].as_str().unwrap_or_else(|| panic!("{task}")).to_owned();
    let _worker = world.worker(4);
    world.until("succeeded", 1).await;
    let sent = json!(world.fake.batches()[0].requests).to_string();
    assert!(sent.contains("private-email-") && !sent.contains("canary"), "{sent}");
    let journal = json!(world.journal(&id).await).to_string();
    assert!(journal.contains("mail private-email-") && !journal.contains("canary"), "{journal}");
    let mut files = std::fs::read_dir(world.project.path()).unwrap().collect::<Vec<_>>();
    files.extend(std::fs::read_dir(world.project.path().join(".teamster")).into_iter().flatten());
    let is_kept = |path: &Path| path.is_file() && std::fs::read(path).unwrap().windows(6).any(|six| six == b"canary");
    let kept: Vec<_> = files.into_iter().map(|file| file.unwrap().path()).filter(|path| is_kept(path)).collect();
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_too_near_asks_the_model_directly() {
    for (options, step) in [
        ("linger: 300ms, poll: 50ms", "batch: { max_wait: 4m }"),
        ("linger: 300ms, poll: 50ms", "batch: { max_wait: 6h }, timeout: 4m"),
    ] {
        let world = World::new(Setting { options, step, ..Setting::default() }, answer).await;
        let ids = world.submit(0..1).await;
        let _worker = world.worker(4);
        world.until("succeeded", 1).await;
        assert_eq!((world.fake.direct(), world.fake.batches().len()), (1, 0), "{step}");
        let task = world.task(&ids[0]).await;
        assert!((task["cost_usd"].as_f64().unwrap() - PRICE).abs() < 1e-9, "at full price: {task}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_long_enough_asks_directly_and_takes_no_late_answer() {
    let world = World::new(Setting { step: "batch: { max_wait: 2s }", ..Setting::default() }, answer).await;
    world.fake.hold_batches(true);
    let ids = world.submit(0..2).await;
    let _worker = world.worker(4);
    until("the requests are out", async || world.batched().len() == 2).await;
    world.until("succeeded", 2).await;
    assert_eq!(world.fake.direct(), 2);
    let before = world.journal(&ids[0]).await;
    let order: Vec<_> =
        kinds(&before).into_iter().filter(|kind| kind.contains("model_batch") || *kind == "turn_finished").collect();
    assert_eq!(order, ["model_batch_joined", "model_batch_left", "turn_finished"]);
    world.fake.hold_batches(false);
    // The answers of the batch are read, and told to nobody.
    let is_read = |request: &Request| request.line.contains("/results") && request.answered;
    until("the answers were read", async || world.fake.requests().iter().any(is_read)).await;
    // The next batch is looked after when this one is done with.
    world.submit(2..3).await;
    world.until("succeeded", 3).await;
    assert_eq!((world.fake.batches().len(), world.fake.direct()), (2, 2));
    assert_eq!(world.journal(&ids[0]).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_waits_for_is_not_sent() {
    let options = "linger: 3s, poll: 50ms, min_wait: 1s";
    let world = World::new(Setting { options, ..Setting::default() }, answer).await;
    let ids = world.submit(0..3).await;
    let _worker = world.worker(4);
    world.until("waiting", 3).await;
    teamster(&world.scheduler, &["tasks", "cancel", &ids[1]]);
    world.until("succeeded", 2).await;
    assert_eq!((world.count("cancelled").await, world.batched().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_while_all_is_halted_and_all_of_it_afterwards() {
    let options = "linger: 1s, poll: 50ms, min_wait: 1s";
    let world = World::new(Setting { options, ..Setting::default() }, answer).await;
    let ids = world.submit(0..4).await;
    let _worker = world.worker(4);
    world.until("waiting", 4).await;
    teamster(&world.scheduler, &["halt", "--reason", "too dear", "--by", "ann"]);
    let batches = world.fake.batches().len();
    assert_eq!(batches, 0, "the halt came before the requests had waited long enough");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(world.fake.batches().len(), 0);
    teamster(&world.scheduler, &["unhalt"]);
    world.until("succeeded", 4).await;
    world.answered_once(&ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_asked_before_a_request_joins_and_settled_at_half_price() {
    // Each request may use 1,000 tokens of output at half price, and some input.
    let config = "budgets: { all: { usd: 0.04 } }";
    let world = World::new(Setting { config, ..Setting::default() }, answer).await;
    world.fake.hold_batches(true);
    world.submit(0..8).await;
    let _worker = world.worker(8);
    until("some requests are out", async || !world.batched().is_empty()).await;
    world.until("waiting", 8).await;
    let used = || teamster(&world.scheduler, &["limits", "budget "])["meters"][0]["used"].as_u64().unwrap();
    let first = world.batched().len();
    assert!((2..8).contains(&first), "the worst case of all does not fit: {first}");
    assert!(used() <= 40_000 && used() >= first as u64 * 7_500, "{}", used());
    world.fake.hold_batches(false);
    world.until("succeeded", 8).await;
    assert_eq!(used(), 8 * 300, "what was really spent");
    assert_eq!(world.batched().len(), 8);
}
