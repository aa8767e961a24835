//! What Prometheus reads from a scheduler and a worker, as processes of their own.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply};
use suite::fixtures::process::{SchedulerProcess, until};
use suite::fixtures::program::Program;
use suite::project::ProjectDir;
use suite::servers::{postgres, redis};

const THINKER: &str = "---\nname: thinker\ndescription: thinks\ntools: Glob, Read\nmodel: m\n---\nThink.\n";
const THINK: &str = "name: think\nqueue: thoughts\nlabels: { tenant: '{{ input.tenant }}' }\n\
     retry: { attempts: 2, backoff: { initial: 5ms, jitter: none } }\n\
     steps: [{ id: think, agent: thinker, prompt: \"{{ input.what }}\" }]\n";
const IDLE: &str = "name: idle\nqueue: rest\nsteps: [{ id: only, set: \"{{ input.n }}\" }]\n";

/// Samples by name and labels, as they are written.
type Samples = BTreeMap<String, f64>;

async fn scrape(address: &str) -> (String, Samples) {
    let answer = reqwest::get(format!("{address}/metrics")).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4");
    let text = answer.text().await.unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let samples = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    let samples = samples.collect();
    (text, samples)
}

/// Checks a text as `promtool check metrics` does, which says nothing of what is well.
fn lint(text: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool is installed by tests/install-servers");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

fn project(fake: &FakeModel, store: &str) -> ProjectDir {
    let config = format!(
        "store: {store}\nmodels:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\nproviders:\n  fake: {{ kind: \
         anthropic, base_url: '{}', key: 'env:PATH' }}\nbudgets: {{ tenants: {{ label: tenant, usd: 1 }} }}\n",
        fake.base_url()
    );
    ProjectDir::new(&[
        ("teamster.yaml", &config),
        ("pipelines/think.yaml", THINK),
        ("pipelines/idle.yaml", IDLE),
        ("agents/thinker.md", THINKER),
    ])
}

async fn submit(scheduler: &SchedulerProcess, pipeline: &str, input: Value) -> String {
    let body = json!({"pipeline": pipeline, "input": input});
    let url = format!("{}/v1/tasks", scheduler.address);
    let answer: Value = reqwest::Client::new().post(url).json(&body).send().await.unwrap().json().await.unwrap();
    answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Checks what both processes count of a few tasks, on a store.
async fn counts_of(store: &str) {
    let fake = FakeModel::answering(|request| {
        let said = request.messages()[0]["content"].to_string();
        match request.turn() {
            0 if said.contains("busy") && request.number == 0 => Reply::error(529, "overloaded_error", "Overloaded"),
            0 if said.contains("refuse") => Message::of_text("No.").stop("refusal").into(),
            0 => {
                let both = Message::new().tool_use("toolu_a", "Glob", &json!({"pattern": "*"}));
                both.tool_use("toolu_b", "Launch acme@example.org", &json!({})).into()
            }
            _ => Message::of_text("Done.").into(),
        }
    })
    .await
    .unwrap();
    let project = project(&fake, store);
    let scheduler = SchedulerProcess::start(project.path());
    let worker = Program::worker(project.path(), 3);
    let mut tasks = vec![submit(&scheduler, "think", json!({"what": "busy", "tenant": "acme"})).await];
    fake.received(1).await.unwrap();
    tasks.push(submit(&scheduler, "think", json!({"what": "Go.", "tenant": "b"})).await);
    tasks.push(submit(&scheduler, "think", json!({"what": "refuse", "tenant": "b"})).await);
    tasks.push(submit(&scheduler, "idle", json!({"n": 7})).await);
    let state = async |id: &String| -> String {
        let task: Value =
            reqwest::get(format!("{}/v1/tasks/{id}", scheduler.address)).await.unwrap().json().await.unwrap();
        task["state"].as_str().unwrap().to_owned()
    };
    for id in &tasks {
        until("it ends", async || ["succeeded", "dead"].contains(&&*state(id).await)).await;
    }
    scheduler.teamster(&["queues", "pause", "rest"]);
    submit(&scheduler, "idle", json!({"n": 8})).await;

    let (text, taken_in) = scrape(&scheduler.address).await;
    lint(&text);
    for (sample, value) in [
        ("teamster_tasks_submitted_total{pipeline=\"think\"}", 3.0),
        ("teamster_tasks_submitted_total{pipeline=\"idle\"}", 2.0),
        ("teamster_queue_depth{queue=\"rest\",state=\"ready\"}", 1.0),
        ("teamster_queue_depth{queue=\"thoughts\",state=\"dead\"}", 1.0),
        ("teamster_queue_paused{queue=\"rest\"}", 1.0),
        ("teamster_queue_paused{queue=\"thoughts\"}", 0.0),
    ] {
        assert_eq!(taken_in.get(sample), Some(&value), "{sample}\n{text}");
    }
    assert!(taken_in["teamster_queue_oldest_ready_seconds{queue=\"rest\"}"] > 0.0);
    let used = taken_in["teamster_budget_used_ratio{budget=\"tenants\"}"];
    assert!(used > 0.0 && used < 0.01, "{used}");

    let (text, done) = scrape(&worker.address).await;
    lint(&text);
    for (sample, value) in [
        ("teamster_tasks_finished_total{outcome=\"succeeded\",pipeline=\"think\"}", 2.0),
        ("teamster_tasks_finished_total{outcome=\"dead\",pipeline=\"think\"}", 1.0),
        ("teamster_tasks_finished_total{outcome=\"succeeded\",pipeline=\"idle\"}", 1.0),
        ("teamster_task_duration_seconds_count{outcome=\"succeeded\",pipeline=\"think\"}", 2.0),
        ("teamster_step_retries_total{class=\"overloaded\"}", 1.0),
        ("teamster_steps_finished_total{outcome=\"failed\"}", 1.0),
        ("teamster_steps_finished_total{outcome=\"succeeded\"}", 3.0),
        ("teamster_step_duration_seconds_count", 4.0),
        ("teamster_model_requests_total{model=\"claude-sonnet-4-6\",outcome=\"ok\",provider=\"fake\"}", 5.0),
        ("teamster_model_requests_total{model=\"claude-sonnet-4-6\",outcome=\"overloaded\",provider=\"fake\"}", 1.0),
        ("teamster_model_request_duration_seconds_count{model=\"claude-sonnet-4-6\",provider=\"fake\"}", 6.0),
        ("teamster_tool_calls_total{outcome=\"ok\",tool=\"Glob\"}", 2.0),
        ("teamster_tool_calls_total{outcome=\"invalid_request\",tool=\"other\"}", 2.0),
        ("teamster_worker_slots{state=\"free\"}", 3.0),
        ("teamster_worker_slots{state=\"busy\"}", 0.0),
    ] {
        assert_eq!(done.get(sample), Some(&value), "{sample}\n{text}");
    }
    // A task that was tried again was taken twice.
    let waits = done["teamster_queue_wait_seconds_count{queue=\"thoughts\"}"];
    assert!((3.0..=4.0).contains(&waits), "{waits}");
    let usd = done["teamster_model_cost_usd_total{model=\"claude-sonnet-4-6\"}"];
    let shown: f64 = {
        let mut sum = 0.0;
        for id in &tasks {
            let url = format!("{}/v1/tasks/{id}", scheduler.address);
            let task: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
            sum += task["cost_usd"].as_f64().unwrap();
        }
        sum
    };
    assert!(usd > 0.0 && (usd - shown).abs() < 1e-9, "{usd} {shown}");
    assert!(done["teamster_store_operation_duration_seconds_count{operation=\"append\"}"] > 8.0);
    assert!(!text.contains("acme"), "no input, label or invented name is a label");
    if cfg!(target_os = "linux") {
        assert!(done["process_resident_memory_bytes"] > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduler_and_worker_count_what_the_journals_say() {
    counts_of("''").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduler_and_worker_count_what_the_journals_say_on_redis() {
    counts_of(&redis::place()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduler_and_worker_count_what_the_journals_say_on_postgres() {
    counts_of(&postgres::place()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_different_tasks_make_no_more_series_than_one() {
    let fake = FakeModel::answering(|_| Message::of_text("Done.").into()).await.unwrap();
    let project = project(&fake, "''");
    let scheduler = SchedulerProcess::start(project.path());
    let worker = Program::worker(project.path(), 32);
    // What a process does now and then, such as renewing leases, is not about tasks.
    let now_and_then = |name: &String| name.contains("operation=") || name.contains("lease_renewals");
    let series = async || -> Vec<String> {
        let (_, taken_in) = scrape(&scheduler.address).await;
        let (_, done) = scrape(&worker.address).await;
        taken_in.into_keys().chain(done.into_keys()).filter(|name| !now_and_then(name)).collect()
    };
    let finished = async || -> f64 {
        let (_, done) = scrape(&worker.address).await;
        done.get("teamster_tasks_finished_total{outcome=\"succeeded\",pipeline=\"idle\"}").copied().unwrap_or(0.0)
    };
    let rows = |from: usize, to: usize| -> String {
        (from..to).map(|n| format!("{}\n", json!({"n": n, "company": format!("Company {n}")}))).collect()
    };
    let send = async |rows: String| {
        let url = format!("{}/v1/batches?pipeline=idle", scheduler.address);
        let request = reqwest::Client::new().post(url).header("content-type", "application/x-ndjson").body(rows);
        assert!(request.send().await.unwrap().status().is_success());
    };
    send(rows(0, 100)).await;
    until("the first are done", async || finished().await >= 100.0).await;
    let before = series().await;
    send(rows(100, 10_100)).await;
    until("all are done", async || finished().await >= 10_100.0).await;
    assert_eq!(series().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_and_questions_are_counted_and_who_has_no_token_reads_nothing() {
    let config = "store: ''\napi: { token: env:TOKEN }\nwebhooks: { shop: { sender: hmac, secret: env:SECRET, hmac: { header: X-Signature } } }\n";
    let ask = "name: ask\nqueue: q\non: [{ webhook: shop, input: { n: '{{ event.n }}' } }]\n\
               steps: [{ id: ask, approval: { title: 'Go on?' } }]\n";
    let project = ProjectDir::new(&[("teamster.yaml", config), ("pipelines/ask.yaml", ask)]);
    let dir = project.path().display().to_string();
    let environment = [("TOKEN", "not-secret"), ("SECRET", "whispered"), ("TEAMSTER_TOKEN", "not-secret")];
    let scheduler = Program::start_in(&environment, &["scheduler", "--apply", "--dir", &dir]);
    let worker = Program::start_in(&environment, &["worker", "--dir", &dir]);
    let client = reqwest::Client::new();
    let metrics = || client.get(format!("{}/metrics", scheduler.address));
    assert_eq!(metrics().send().await.unwrap().status(), 401);
    assert_eq!(metrics().bearer_auth("guessed").send().await.unwrap().status(), 401);
    let deliver = async |hook: &str, body: &'static str, secret: &str| {
        let signature = {
            use hmac::{Hmac, KeyInit, Mac};
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
            mac.update(body.as_bytes());
            hex::encode(mac.finalize().into_bytes())
        };
        let request = client.post(format!("{}/v1/hooks/{hook}", scheduler.address)).body(body);
        let request = request.header("content-type", "application/json").header("x-signature", signature);
        request.send().await.unwrap().status().as_u16()
    };
    let delivered = deliver("shop", "{\"n\":1}", "whispered").await;
    assert_eq!((delivered, deliver("shop", "{\"n\":1}", "guessed").await), (202, 401));
    assert_eq!(deliver("made-up", "{}", "whispered").await, 404);

    let read = async || metrics().bearer_auth("not-secret").send().await.unwrap().text().await.unwrap();
    let has = |text: &str, sample: &str| text.lines().any(|line| line == sample);
    let mut seen = String::new();
    until("the question is asked", async || {
        seen = scrape(&worker.address).await.0;
        has(&seen, "teamster_tasks_parked_total{waiting_on=\"approval\"} 1")
    })
    .await;
    assert!(has(&seen, "teamster_approvals_requested_total 1"), "{seen}");
    let approvals = client.get(format!("{}/v1/approvals", scheduler.address)).bearer_auth("not-secret");
    let approvals: Value = approvals.send().await.unwrap().json().await.unwrap();
    let id = approvals["approvals"][0]["id"].as_str().unwrap();
    let answer = client.post(format!("{}/v1/approvals/{id}", scheduler.address)).bearer_auth("not-secret");
    assert!(answer.json(&json!({"decision": "approve"})).send().await.unwrap().status().is_success());
    let text = read().await;
    lint(&text);
    for sample in [
        "teamster_webhook_requests_total{hook=\"shop\",outcome=\"accepted\"} 1",
        "teamster_webhook_requests_total{hook=\"shop\",outcome=\"refused\"} 1",
        "teamster_approvals_decided_total{decision=\"approved\"} 1",
    ] {
        assert!(has(&text, sample), "{sample}\n{text}");
    }
    assert!(!text.contains("made-up"), "{text}");
}
