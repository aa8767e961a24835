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
use common::id::{AppendId, CallId, Digest, PipelineName, QueueName, StepId, StepKey, TaskId, WorkerId};
use common::journal::{CallResult, Event, ModelCall, RequestHead, Run, StepOutcome, Submitted, Usage};
use common::store::{Append, Claim, ClaimTasks, Next, Store, StoreOptions, Submission, Take};
use serde_json::{Value, json};
use suite::conformance::bench::submitted;

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
            input,
            ..submitted()
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

/// How long another process takes to take a task of a thousand turns and to fold its journal, when
/// each turn is a reply of 1 KiB and a tool result of so many bytes. The best of five.
async fn long_journal(bench: &Bench, other: &Arc<dyn Store>, result: usize) -> Result<(Duration, Duration)> {
    let step = StepKey::of(StepId::new("think")?);
    let task = bench.store.submit(vec![bench.submission(json!({"of": result}))?]).await?[0].id;
    let worker = WorkerId::new("bench")?;
    let request = || ClaimTasks { worker: worker.clone(), tasks: vec![task], lease: Duration::from_secs(60) };
    let claim = bench.store.claim(request()).await?.pop().context("it is ready")?;
    let head = RequestHead {
        alias: "m".to_owned(),
        provider: "p".to_owned(),
        model: "m".to_owned(),
        max_tokens: 8_000,
        system: "Think. ".repeat(300),
        tools: Vec::new(),
        ..RequestHead::default()
    };
    let mut events =
        vec![Event::AgentStarted { step: step.clone(), head: Box::new(head), prompt: "Think.".to_owned() }];
    let mut version = 2;
    for number in 0..1_000 {
        let id = format!("toolu_{number}");
        let words = format!("{number} and so on. ").repeat(1_000 / 18);
        let call = ModelCall {
            content: vec![
                json!({"type": "text", "text": words}),
                json!({"type": "tool_use", "id": id, "name": "Read", "input": {"n": number}}),
            ],
            stop_reason: "tool_use".to_owned(),
            model: "m".to_owned(),
            response_id: "r".to_owned(),
            usage: Usage::default(),
            duration_ms: 1,
        };
        events.push(Event::TurnFinished { step: step.clone(), call: Box::new(call), entry: None });
        let line = |n: usize| format!("{n}\tlet value = {:x};\n", n.wrapping_mul(0x9E37_79B9) ^ number);
        let text: String = (0..result / 22).map(line).collect();
        let result = CallResult::Done { content: json!([{"type": "text", "text": text}]), is_error: false };
        let call = CallId::new(id)?;
        events.push(Event::CallFinished { step: step.clone(), call, tool: "Read".to_owned(), result, duration_ms: 1 });
        if number % 100 == 99 {
            let next = if number == 999 { Next::Release { reason: "bench".to_owned() } } else { Next::Continue };
            version = bench.append(&claim, version, std::mem::take(&mut events), next).await?;
        }
    }
    let (mut took, mut folded) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let start = Instant::now();
        let claim = other.claim(request()).await?.pop().context("it is ready")?;
        took = took.min(start.elapsed());
        let start = Instant::now();
        let run = Run::fold(task, &claim.journal)?;
        folded = folded.min(start.elapsed());
        let again = Bench { store: Arc::clone(other), entropy: Arc::clone(&bench.entropy) };
        let next = Next::Release { reason: "bench".to_owned() };
        again.append(&claim, run.head.version, Vec::new(), next).await?;
    }
    Ok((took, folded))
}

/// Since the benchmark began.
fn micros() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(0)
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new()?);
    let file = || format!("sqlite:{}", directory.path().join("bench.db").display());
    let url = std::env::var("TEAMSTER_BENCH_STORE").unwrap_or_else(|_| file());
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
    let other = common::store::open(&url, StoreOptions::new(Arc::clone(&bench.entropy))).await?;
    let (small, small_fold) = long_journal(&bench, &other, 3_000).await?;
    println!("1,000 turns     {small:>10.2?} to take, {small_fold:.2?} to fold   (tool results of 3 KB)");
    let (large, large_fold) = long_journal(&bench, &other, 100_000).await?;
    println!(
        "1,000 turns     {large:>10.2?} to take, {large_fold:.2?} to fold   (tool results of 100 KB, beside the journal)"
    );
    let figures = json!({
        "store": url.split(':').next(), "submit_per_s": submitted, "drain_per_s": drained, "steps_per_s": appended,
        "latency_p50_us": p50.as_micros(), "latency_p99_us": p99.as_micros(),
        "long_take_us": small.as_micros(), "long_fold_us": small_fold.as_micros(), "large_take_us": large.as_micros(),
    });
    println!("{figures}");
    Ok(())
}
