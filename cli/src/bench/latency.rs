//! From submit to start: the client notes when it submits, the worker logs when
//! it starts, by the same machine's clock.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::figures::{Figures, quantile};
use super::fleet::Fleet;

/// Tasks.
const TASKS: usize = 4_000;
/// Between two of them: 200 in a second.
const PACE: Duration = Duration::from_millis(5);
/// Of them, the first, which warm everything up and do not count.
const WARMING: usize = 200;
const SLOTS: usize = 64;

pub(super) async fn measure(fleet: &mut Fleet, tasks: Option<usize>) -> Result<Vec<Figures>> {
    let tasks = tasks.unwrap_or(TASKS);
    let worker = fleet.worker(SLOTS).await?;
    let pipeline = fleet.pipeline("bench-one")?;
    let mut submitted = HashMap::with_capacity(tasks);
    let mut ticks = tokio::time::interval(PACE);
    for n in 0..tasks + WARMING {
        ticks.tick().await;
        let submission = fleet.submission(&pipeline, json!({"n": n}))?;
        let (task, at) = (submission.id().to_string(), now_micros());
        fleet.store.submit(vec![submission]).await?;
        if n >= WARMING {
            submitted.insert(task, at);
        }
    }
    fleet.until_done().await?;
    let log = fleet.log(worker).context("the worker has no log")?;
    let waits = tokio::task::spawn_blocking(move || waits(&log, &submitted)).await??;
    ensure!(waits.len() == tasks, "the worker's log tells of {} of {tasks} tasks", waits.len());
    Ok(vec![
        Figures::new("latency_p50", "ms", quantile(&waits, 0.5)),
        Figures::new("latency_p99", "ms", quantile(&waits, 0.99)),
    ])
}

/// Milliseconds from submit to start of each task.
fn waits(log: &Path, submitted: &HashMap<String, i64>) -> Result<Vec<f64>> {
    let mut waits = Vec::with_capacity(submitted.len());
    for line in BufReader::new(std::fs::File::open(log)?).lines() {
        let line: Value = serde_json::from_str(&line?).unwrap_or_default();
        if line["message"] != "started" {
            continue;
        }
        let started = line["task"].as_str().and_then(|task| submitted.get(task));
        if let (Some(submitted), Some(at)) = (started, line["timestamp"].as_str()) {
            let at: jiff::Timestamp = at.parse().context("a time in the worker's log")?;
            #[expect(clippy::cast_precision_loss, reason = "some milliseconds")]
            waits.push((at.as_microsecond() - submitted) as f64 / 1_000.0);
        }
    }
    Ok(waits)
}

/// The machine's clock, in microseconds: as the worker's log has it.
#[expect(
    clippy::disallowed_methods,
    reason = "milliseconds, as the clock of the program has them, are too coarse here"
)]
fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
