//! How fast tasks are worked on: by one worker, from a queue that is full when
//! it starts.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::figures::{Figures, rate};
use super::fleet::Fleet;

/// Tasks of one step.
const DRAINED: usize = 100_000;
/// Slots of the worker that drains them.
pub(super) const SLOTS: usize = 64;
/// Tasks of five steps.
const STEPPED: usize = 20_000;
/// Of them, in flight.
const IN_FLIGHT: usize = 50;

pub(super) async fn drain(fleet: &mut Fleet, tasks: Option<usize>, slots: Option<usize>) -> Result<Vec<Figures>> {
    let tasks = tasks.unwrap_or(DRAINED);
    fleet.submit("bench-one", tasks, |n| json!({"n": n, "text": "x".repeat(280)})).await?;
    let started = Instant::now();
    fleet.worker(slots.unwrap_or(SLOTS)).await?;
    fleet.until_done().await?;
    Ok(vec![Figures::new("drain", "tasks/s", rate(tasks, started.elapsed()))])
}

pub(super) async fn steps(fleet: &mut Fleet, tasks: Option<usize>, slots: Option<usize>) -> Result<Vec<Figures>> {
    let tasks = tasks.unwrap_or(STEPPED);
    fleet.submit("bench-five", tasks, |_| json!({"text": "x".repeat(1024)})).await?;
    let started = Instant::now();
    fleet.worker(slots.unwrap_or(IN_FLIGHT)).await?;
    fleet.until_done().await?;
    Ok(vec![Figures::new("steps", "steps/s", rate(tasks * 5, started.elapsed()))])
}
