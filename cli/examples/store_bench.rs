//! How fast a store is: `cargo bench -p teamster-tests --bench store`. The store
//! is a file, or what `TEAMSTER_BENCH_STORE` names (an empty place: a prefix that nobody used).
//!
//! Everything runs in one process, callers and store on the same cores, with
//! the durability that users get. Prints a table, and one line of JSON for scripts.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::clock::{Clock, SystemClock};
use common::entropy::{Entropy, SystemEntropy};
use common::id::{AppendId, Digest, PipelineName, QueueName, StepId, StepKey, TaskId, WorkerId};
use common::journal::{Event, StepOutcome, Submitted};
use common::store::{Append, Claim, Next, Store, StoreOptions, Submission, Take};
use serde_json::{Value, json};

/// Tasks that are submitted, then taken and finished.
const TASKS: usize = 40_000;
/// Tasks in one call.
const BATCH: usize = 500;
/// Callers that submit at the same time.
const SUBMITTERS: usize = 4;
/// Tasks in flight.
const IN_FLIGHT: usize = 50;
/// Appends of one task.
const STEPS: usize = 600;
/// Latency: so many tasks, at so many in a second.
const PACED: u32 = 1_000;
const RATE: u32 = 200;

#[derive(Clone)]
struct Bench {
    store: Arc<dyn Store>,
    entropy: Arc<dyn Entropy>,
}

impl Bench {
    fn submission(&self, input: Value) -> Result<Submission> {
        let task = Submitted {
            pipeline: PipelineName::new("bench")?,
            digest: Digest::of(b"bench"),
            queue: QueueName::default_queue(),
            priority: 4,
            input,
            run_at: None,
            labels: std::collections::BTreeMap::new(),
            key: None,
            parent: None,
            batch: None,
            line: None,
            supersede: None,
            traceparent: None,
        };
        Ok(Submission::new(TaskId::new(SystemClock.now(), self.entropy.bytes()), task))
    }

    async fn take(&self, max: usize) -> Result<Vec<Claim>> {
        let queues = vec![QueueName::default_queue()];
        let request = Take { worker: WorkerId::new("bench")?, queues, max, lease: Duration::from_secs(60) };
        Ok(self.store.take(request).await?)
    }

    async fn append(&self, claim: &Claim, expected: u64, events: Vec<Event>, next: Next) -> Result<u64> {
        let id = AppendId::new(self.entropy.bytes());
        let append = Append { task: claim.task, token: claim.token, id, expected, events, next };
        let appended = self.store.append(append).await?;
        Ok(appended.recorded.last().map_or(expected, |last| last.seq))
    }
}

fn finished(step: &str, output: Value) -> Result<Event> {
    let step = StepKey::of(StepId::new(step)?);
    Ok(Event::StepFinished { step, outcome: StepOutcome::Succeeded { output } })
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Inputs of 300 bytes, in batches, by some callers at once.
async fn submit(bench: &Bench) -> Result<f64> {
    let mut callers = tokio::task::JoinSet::new();
    let start = Instant::now();
    for _ in 0..SUBMITTERS {
        let bench = bench.clone();
        callers.spawn(async move {
            for _ in 0..TASKS / BATCH / SUBMITTERS {
                let batch = (0..BATCH).map(|n| bench.submission(json!({"n": n, "text": "x".repeat(280)})));
                bench.store.submit(batch.collect::<Result<_>>()?).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(rate(TASKS, start.elapsed()))
}

/// Takes what was submitted, finishes one step and the task, in one append.
async fn drain(bench: &Bench) -> Result<f64> {
    let mut workers = tokio::task::JoinSet::new();
    let start = Instant::now();
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..5 {
        let (bench, count) = (bench.clone(), Arc::clone(&count));
        workers.spawn(async move {
            loop {
                let claims = bench.take(IN_FLIGHT / 5).await?;
                if claims.is_empty() {
                    return anyhow::Ok(());
                }
                let mut tasks = tokio::task::JoinSet::new();
                for claim in claims {
                    let (bench, count) = (bench.clone(), Arc::clone(&count));
                    tasks.spawn(async move {
                        let events = vec![finished("set", json!({"score": 60}))?];
                        bench.append(&claim, 2, events, Next::Succeed { output: json!({"score": 60}) }).await?;
                        count.fetch_add(1, Ordering::Relaxed);
                        anyhow::Ok(())
                    });
                }
                while let Some(task) = tasks.join_next().await {
                    task??;
                }
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(rate(usize::try_from(count.load(Ordering::Relaxed))?, start.elapsed()))
}

/// Appends of 1 KiB, each durable before the task's next, many tasks in flight.
async fn steps(bench: &Bench) -> Result<f64> {
    let batch = (0..IN_FLIGHT).map(|n| bench.submission(json!({"n": n})));
    bench.store.submit(batch.collect::<Result<_>>()?).await?;
    let claims = bench.take(IN_FLIGHT).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let start = Instant::now();
    for claim in claims {
        let bench = bench.clone();
        tasks.spawn(async move {
            let mut version = 2;
            for n in 0..STEPS {
                let events = vec![finished(&format!("s{n}"), json!({"text": "x".repeat(1_000)}))?];
                version = bench.append(&claim, version, events, Next::Continue).await?;
            }
            bench.append(&claim, version, Vec::new(), Next::Succeed { output: Value::Null }).await
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(rate(IN_FLIGHT * STEPS, start.elapsed()))
}

/// From the call of submit until a worker has the task, at a steady pace.
async fn latency(bench: &Bench) -> Result<(Duration, Duration)> {
    let worker = bench.clone();
    let queues = [QueueName::default_queue()];
    let taker = tokio::spawn(async move {
        let mut waits = Vec::new();
        while waits.len() < PACED as usize {
            let claims = worker.take(10).await?;
            if claims.is_empty() {
                worker.store.ready(&queues).await;
                continue;
            }
            for claim in claims {
                let Some(Event::Submitted(task)) = claim.journal.first().map(|r| &r.event) else { continue };
                let sent = task.input.as_u64().context("the input is a time")?;
                waits.push(Duration::from_micros(micros().saturating_sub(sent)));
                worker.append(&claim, 2, Vec::new(), Next::Succeed { output: Value::Null }).await?;
            }
        }
        anyhow::Ok(waits)
    });
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    for _ in 0..PACED {
        ticks.tick().await;
        let bench = bench.clone();
        let submission = bench.submission(json!(micros()))?;
        tokio::spawn(async move { bench.store.submit(vec![submission]).await });
    }
    let mut waits = taker.await??;
    waits.sort_unstable();
    let at = |percent: usize| waits.get(waits.len() * percent / 100).copied().context("there are waits");
    Ok((at(50)?, at(99)?))
}

/// Since the benchmark began.
fn micros() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(0)
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new()?);

    let url = std::env::var("TEAMSTER_BENCH_STORE").context("a URL")?;
    let store = common::store::open(&url, StoreOptions::new(Arc::clone(&entropy))).await?;
    let bench = Bench { store, entropy };
    let submitted = submit(&bench).await?;
    println!("submit          {submitted:>10.0} tasks/s   (batches of {BATCH}, {SUBMITTERS} callers, 300 B inputs)");
    let drained = drain(&bench).await?;
    println!("take and finish {drained:>10.0} tasks/s   ({IN_FLIGHT} in flight, one step each)");
    let appended = steps(&bench).await?;
    println!("step appends    {appended:>10.0} steps/s   ({IN_FLIGHT} in flight, 1 KiB each)");
    let (p50, p99) = latency(&bench).await?;
    println!("submit to take  {p50:>10.2?} p50, {p99:.2?} p99   (at {RATE} tasks/s)");
    let figures = json!({
        "store": url.split(':').next(), "submit_per_s": submitted, "drain_per_s": drained, "steps_per_s": appended,
        "latency_p50_us": p50.as_micros(), "latency_p99_us": p99.as_micros(),
    });
    println!("{figures}");
    Ok(())
}
