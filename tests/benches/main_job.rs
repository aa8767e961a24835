//! What the main job costs on the embedded store: one process, everything
//! durable (`synchronous=FULL`), no broker and no network.
//!
//! `cargo bench -p teamster-tests --bench main_job [-- WORKLOAD…]`, with the
//! workloads `drain`, `steps`, `latency`, `memory`; all of them without a name.
//! `memory` measures the program itself (`cargo build --release` first). Prints
//! a table, and JSON with `--json`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::format_collect,
    missing_docs
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::clock::SystemClock;
use common::config::Config;
use common::entropy::Entropy;
use common::id::TaskId;
use common::pipeline::model::Pipeline;
use common::store::sqlite::SqliteStore;
use common::store::{Filter, Receipt, Store, StoreOptions, Submission};
use common::submission::{NewTask, submission};
use common::task::StateName;
use serde_json::{Value, json};
use suite::binary;
use suite::fixtures::worker::{RunningWorker, entropy};
use suite::project::ProjectDir;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const ONE: &str = "name: one\nsteps:\n  - { id: a, set: { seen: '{{ input.n }}' } }\n";
const FIVE: &str = "name: five\nsteps:\n  - { id: a, set: '{{ input.text }}' }\n  - { id: b, set: '{{ steps.a.output }}' }\n  - { id: c, set: '{{ steps.b.output }}' }\n  - { id: d, set: '{{ steps.c.output }}' }\n  - { id: e, set: '{{ steps.d.output }}' }\n";

struct Bench {
    _dir: tempfile::TempDir,
    project: ProjectDir,
    store: Arc<dyn Store>,
    pipeline: Arc<Pipeline>,
    entropy: Arc<dyn Entropy>,
}

impl Bench {
    async fn new(source: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let project = ProjectDir::new(&[("pipelines/p.yaml", source)]);
        let mut loaded = project.load();
        let store: Arc<dyn Store> =
            SqliteStore::open(&dir.path().join("bench.db"), StoreOptions::new(entropy())).unwrap();
        store.apply(loaded.definitions.clone()).await.unwrap();
        Self { _dir: dir, project, store, pipeline: Arc::new(loaded.pipelines.remove(0)), entropy: entropy() }
    }

    fn submission(&self, input: Value) -> Submission {
        use common::clock::Clock;
        let new = NewTask { input, ..NewTask::default() };
        submission(&self.pipeline, new, TaskId::new(SystemClock.now(), self.entropy.bytes()), None).unwrap()
    }

    async fn submit(&self, count: usize, input: impl Fn(usize) -> Value) -> Duration {
        let groups: Vec<Vec<Submission>> = (0..count)
            .collect::<Vec<_>>()
            .chunks(500)
            .map(|chunk| chunk.iter().map(|n| self.submission(input(*n))).collect())
            .collect();
        let started = Instant::now();
        for group in groups {
            let receipts: Vec<Receipt> = self.store.submit(group).await.unwrap();
            assert!(receipts.iter().all(|receipt| receipt.created));
        }
        started.elapsed()
    }

    fn worker(&self, slots: usize) -> RunningWorker {
        let mut config = Config::default();
        config.worker.slots = slots;
        config.worker.queues = vec![self.pipeline.queue.clone()];
        RunningWorker::start(Arc::clone(&self.store), config, self.project.path())
    }

    async fn until_done(&self) {
        loop {
            let queues = self.store.queues().await.unwrap();
            let open =
                |name: StateName| queues.iter().map(|queue| queue.depth.get(&name).copied().unwrap_or(0)).sum::<u64>();
            if open(StateName::Ready) + open(StateName::Running) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let dead = Filter { states: vec![StateName::Dead], ..Filter::default() };
        let page = self.store.list(dead, None, 1).await.unwrap();
        assert!(page.tasks.is_empty(), "{:?}", page.tasks);
    }
}

async fn drain() -> Value {
    let bench = Bench::new(ONE).await;
    let count = 40_000;
    let submitted = bench.submit(count, |n| json!({"n": n, "text": "x".repeat(280)})).await;
    let started = Instant::now();
    let worker = bench.worker(200);
    bench.until_done().await;
    let took = started.elapsed();
    worker.drain().await;
    json!({"submitted_per_s": rate(count, submitted), "drained_per_s": rate(count, took)})
}

async fn steps() -> Value {
    let bench = Bench::new(FIVE).await;
    let count = 10_000;
    bench.submit(count, |_| json!({"text": "x".repeat(1024)})).await;
    let started = Instant::now();
    let worker = bench.worker(50);
    bench.until_done().await;
    let took = started.elapsed();
    worker.drain().await;
    json!({"steps_per_s": rate(count * 5, took), "in_flight": 50})
}

/// When tasks were started, as the worker's own events tell.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<HashMap<String, Instant>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Starts {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Task(Option<String>, bool);
        impl tracing::field::Visit for Task {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                match field.name() {
                    "task" => self.0 = Some(format!("{value:?}")),
                    "message" => self.1 = format!("{value:?}") == "started",
                    _ => {}
                }
            }
        }
        let now = Instant::now();
        let mut task = Task(None, false);
        event.record(&mut task);
        if let Task(Some(task), true) = task {
            self.0.lock().unwrap().insert(task, now);
        }
    }
}

async fn latency(starts: Starts) -> Value {
    let bench = Bench::new(ONE).await;
    let worker = bench.worker(50);
    let mut submitted = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    for n in 0..2_000 {
        ticks.tick().await;
        let submission = bench.submission(json!({"n": n}));
        let task = submission.id().to_string();
        let at = Instant::now();
        bench.store.submit(vec![submission]).await.unwrap();
        submitted.push((task, at));
    }
    bench.until_done().await;
    worker.drain().await;
    let starts = starts.0.lock().unwrap();
    let mut waits: Vec<Duration> = submitted.iter().map(|(task, at)| starts[task].duration_since(*at)).collect();
    waits.sort();
    let quantile = |q: usize| (waits[(waits.len() - 1) * q / 1000].as_secs_f64() * 1e5).round() / 100.0;
    json!({"tasks_per_s": 200, "p50_ms": quantile(500), "p99_ms": quantile(990), "max_ms": quantile(1000)})
}

/// What an all-in-one process holds: idle, and with 500 tasks inside `run` steps.
fn memory() -> Value {
    let project = ProjectDir::new(&[(
        "pipelines/nap.yaml",
        "name: nap\nsteps:\n  - { id: a, run: { command: [sleep, '30'], effect: read } }\n",
    )]);
    let dir = project.path().display().to_string();
    let arguments = ["dev", "--json", "--listen", "127.0.0.1:0", "--slots", "600", "--dir", &dir];
    let (mut dev, api) = binary::start(&mut binary::command(&arguments).unwrap()).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let idle = resident(dev.id());
    let rows = project.path().join("rows.jsonl");
    std::fs::write(&rows, (0..500).map(|n| format!("{{\"n\": {n}}}\n")).collect::<String>()).unwrap();
    let rows = rows.display().to_string();
    assert!(binary::run(&["batch", "nap", &rows, "--api", &api]).unwrap().status.success());
    let running = || {
        let queues = binary::run(&["queues", "list", "--json", "--api", &api]).unwrap().stdout;
        let queues: Value = serde_json::from_slice(&queues).unwrap();
        queues["queues"][0]["depth"]["running"] == 500
    };
    let started = Instant::now();
    while !running() {
        assert!(started.elapsed() < Duration::from_secs(25), "500 tasks do not come to run");
        std::thread::sleep(Duration::from_millis(200));
    }
    let busy = resident(dev.id());
    dev.kill().unwrap();
    dev.wait().unwrap();
    json!({"idle_kib": idle, "with_500_in_run_kib": busy})
}

fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn rate(count: usize, took: Duration) -> u64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (count as f64 / took.as_secs_f64()).round() as u64;
    rate
}

#[tokio::main]
async fn main() {
    let starts = Starts::default();
    let level = tracing_subscriber::filter::LevelFilter::DEBUG;
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|arg| arg == name);
    let mut results = BTreeMap::new();
    if wants("drain") {
        results.insert("drain", drain().await);
    }
    if wants("steps") {
        results.insert("steps", steps().await);
    }
    if wants("latency") {
        tracing_subscriber::registry().with(starts.clone()).with(level).init();
        results.insert("latency", latency(starts).await);
    }
    if wants("memory") {
        results.insert("memory", tokio::task::spawn_blocking(memory).await.unwrap());
    }
    if std::env::args().any(|arg| arg == "--json") {
        println!("{}", serde_json::to_string_pretty(&results).unwrap());
    } else {
        for (name, figures) in &results {
            println!("{name:10} {figures}");
        }
    }
}
