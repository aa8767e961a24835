//! The soak: many tasks through two schedulers and four workers on Redis, with a
//! worker killed every few seconds, and the memory of every process looked at.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::backends::Backends;
use super::fleet::{Fleet, Role};
use super::{Scenario, StoreKind, project, verdict};

/// Between two kills.
const KILLS: Duration = Duration::from_secs(5);
/// Between two looks at the memory.
const SAMPLES: Duration = Duration::from_secs(1);
/// Finished tasks that are kept: reached long before the second half.
const KEPT: u64 = 10_000;
/// Tasks in one file of a batch.
const BATCH: u64 = 2_000;
/// Tasks that are submitted and not done, at most: what is measured is the flow.
const AHEAD: u64 = 6_000;
/// How much memory may grow over the second half: in part, and at least this much.
const GROWTH: f64 = 0.10;
const NOISE: f64 = 8.0 * 1024.0 * 1024.0;

/// Samples of one process, in bytes.
type Samples = BTreeMap<String, Vec<u64>>;

/// Runs it, and prints what it saw.
///
/// # Errors
/// When tasks do not come to their end, or memory grows.
#[expect(clippy::print_stdout, reason = "whoever plays it watches it")]
pub async fn soak(tasks: u64) -> Result<()> {
    let scenario = Scenario { name: "soak", store: StoreKind::Redis, broker: false, faults: &[] };
    let files = project::write_for_soak(KEPT);
    let backends = Backends::start(&scenario).await;
    let mut fleet = Fleet::with(files.path(), &backends, 2, 4)?;
    fleet.until_up().await?;
    let store = verdict::open(&backends.direct_url()).await?;
    let submitted = std::sync::Arc::new(AtomicU64::new(0));
    let done = std::sync::Arc::new(AtomicU64::new(0));
    let mut submitting = tokio::spawn(submit(fleet.addresses(), tasks, submitted.clone(), done.clone()));
    let (started, mut samples) = (Instant::now(), Samples::new());
    let (mut killed, mut next_kill, mut next_sample) = (0_u64, KILLS, SAMPLES);
    loop {
        fleet.tick()?;
        let elapsed = started.elapsed();
        if elapsed >= next_kill {
            next_kill += KILLS;
            killed += u64::from(fleet.kill(Role::Worker, usize::try_from(killed)?, Duration::ZERO));
        }
        if elapsed >= next_sample {
            next_sample += SAMPLES;
            sample(&fleet, &backends, &mut samples)?;
            let open: u64 = store.queues().await?.iter().flat_map(|queue| queue.depth.values()).sum();
            done.store(submitted.load(Ordering::Relaxed).saturating_sub(open), Ordering::Relaxed);
            if submitting.is_finished() && open == 0 {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (&mut submitting).await??;
    let took = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "for a person")]
    let rate = tasks as f64 / took;
    println!("soak: {tasks} tasks in {took:.0} s ({rate:.0}/s), {killed} workers killed, {KEPT} finished tasks kept");
    let grown = report(&samples);
    ensure!(store.list(common::store::Filter::default(), None, 1).await?.tasks.len() == 1, "the store is empty");
    ensure!(grown.is_empty(), "memory grew over the second half: {grown:?}");
    Ok(())
}

/// Posts batches, and repeats those that were not answered: their rows have keys.
async fn submit(
    schedulers: Vec<String>,
    tasks: u64,
    submitted: std::sync::Arc<AtomicU64>,
    done: std::sync::Arc<AtomicU64>,
) -> Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut first = 0;
    while first < tasks {
        let last = (first + BATCH).min(tasks);
        let rows: String = (first..last).map(|n| format!("{{\"n\": {n}}}")).collect::<Vec<_>>().join("\n");
        let started = Instant::now();
        for attempt in 0_usize.. {
            let scheduler = &schedulers[attempt % schedulers.len()];
            let request = client.post(format!("{scheduler}/v1/batches?pipeline=tiny"));
            let answer = request.header("content-type", "application/x-ndjson").body(rows.clone()).send().await;
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    let report: Value = answer.json().await?;
                    ensure!(report["rejected"].as_u64().unwrap_or(0) == 0, "rows are rejected: {report}");
                    break;
                }
                other if started.elapsed() > super::PATIENCE => bail!("a batch is not accepted: {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        first = last;
        submitted.store(first, Ordering::Relaxed);
        while first.saturating_sub(done.load(Ordering::Relaxed)) > AHEAD {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn sample(fleet: &Fleet, backends: &Backends, samples: &mut Samples) -> Result<()> {
    for (process, bytes) in fleet.memory() {
        samples.entry(process).or_default().push(bytes);
    }
    if let Some(server) = backends.redis() {
        let said = server.cli(&["info", "memory"])?;
        let used = said.lines().find_map(|line| line.strip_prefix("used_memory:")).context("Redis says its memory")?;
        samples.entry("redis (used_memory)".to_owned()).or_default().push(used.trim().parse()?);
    }
    Ok(())
}

/// Prints the memory of each process; those that grew over the second half. A worker is young again after each kill,
/// so that its samples say how much the life of one takes.
#[expect(clippy::cast_precision_loss, reason = "memory in bytes, for a trend")]
#[expect(clippy::print_stdout, reason = "whoever plays it watches it")]
fn report(samples: &Samples) -> Vec<String> {
    let mib = |bytes: f64| bytes / (1024.0 * 1024.0);
    let mut grown = Vec::new();
    for (process, bytes) in samples {
        let half: Vec<f64> = bytes[bytes.len() / 2..].iter().map(|bytes| *bytes as f64).collect();
        let mean = half.iter().sum::<f64>() / half.len().max(1) as f64;
        let growth = slope(&half) * half.len() as f64;
        let most = bytes.iter().max().copied().unwrap_or(0) as f64;
        println!(
            "  {process}: at most {:.1} MiB, second half {:.1} MiB on average, {:+.2} MiB over it",
            mib(most),
            mib(mean),
            mib(growth)
        );
        if growth > (mean * GROWTH).max(NOISE) {
            grown.push(format!("{process}: {:+.1} MiB", mib(growth)));
        }
    }
    grown
}

/// The slope of the line that fits best, per sample.
#[expect(clippy::cast_precision_loss, reason = "counts of samples are small")]
fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let (mean_x, mean_y) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count.max(1.0));
    let offsets = || values.iter().enumerate().map(|(x, y)| (x as f64 - mean_x, y - mean_y));
    let spread: f64 = offsets().map(|(x, _)| x * x).sum();
    if spread == 0.0 { 0.0 } else { offsets().map(|(x, y)| x * y).sum::<f64>() / spread }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_what_grows_is_found() {
        assert!((slope(&[1.0, 3.0, 5.0, 7.0]) - 2.0).abs() < 1e-9);
        assert!(slope(&[4.0, 4.0, 4.0]).abs() < 1e-9);
        assert!(slope(&[]).abs() < 1e-9);
    }
}
