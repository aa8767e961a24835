//! How fast tasks are accepted: in batches by the store itself, and one by one
//! over the HTTP API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::figures::{Figures, rate};
use super::fleet::{BATCH, Fleet};
use super::throughput::SLOTS;

/// Tasks in batches.
const TASKS: usize = 200_000;
/// Batches at a time.
const CALLERS: usize = 4;
/// Requests in flight.
const IN_FLIGHT: usize = 50;
/// A request takes no longer.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn measure(fleet: &mut Fleet, tasks: Option<usize>) -> Result<Vec<Figures>> {
    let tasks = tasks.unwrap_or(TASKS);
    let batches = in_batches(fleet, tasks).await?;
    let requests = over_http(fleet, (tasks / 4).max(IN_FLIGHT)).await?;
    // The next run finds an empty queue.
    fleet.worker(SLOTS).await?;
    fleet.until_done().await?;
    Ok(vec![Figures::new("submit_batches", "tasks/s", batches), Figures::new("submit_http", "tasks/s", requests)])
}

/// About 300 bytes.
fn input(n: usize) -> Value {
    json!({"n": n, "text": "x".repeat(280)})
}

async fn in_batches(fleet: &mut Fleet, tasks: usize) -> Result<f64> {
    let pipeline = fleet.pipeline("bench-one")?;
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for first in (0..tasks).step_by(BATCH) {
        let batch: Vec<_> =
            (first..tasks.min(first + BATCH)).map(|n| fleet.submission(&pipeline, input(n))).collect::<Result<_>>()?;
        if callers.len() == CALLERS
            && let Some(done) = callers.join_next().await
        {
            done??;
        }
        let store = Arc::clone(&fleet.store);
        callers.spawn(async move { store.submit(batch).await });
    }
    while let Some(done) = callers.join_next().await {
        ensure!(done??.iter().all(|receipt| receipt.created), "a task was there already");
    }
    Ok(rate(tasks, started.elapsed()))
}

async fn over_http(fleet: &mut Fleet, tasks: usize) -> Result<f64> {
    let url = format!("{}/v1/tasks", fleet.scheduler().await?);
    let client = Client::builder().timeout(TIMEOUT).pool_max_idle_per_host(IN_FLIGHT).build()?;
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..IN_FLIGHT {
        let (client, url) = (client.clone(), url.clone());
        callers.spawn(async move {
            for n in (caller..tasks).step_by(IN_FLIGHT) {
                let body = json!({"pipeline": "bench-one", "input": input(n)});
                let response = client.post(&url).json(&body).send().await.context("a request failed")?;
                ensure!(response.status() == StatusCode::ACCEPTED, "the API answered {}", response.status());
                // The connection is free again once the body is read.
                response.bytes().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(rate(tasks, started.elapsed()))
}
