//! What a worker holds: without work, and with tasks that wait for programs.

use std::time::Duration;

use anyhow::{Context, Result};
use common::task::StateName;
use serde_json::Value;

use super::figures::Figures;
use super::fleet::Fleet;

/// Tasks inside `run` steps.
const TASKS: usize = 500;
/// A worker is idle when it has done nothing for so long.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn measure(fleet: &mut Fleet, tasks: Option<usize>) -> Result<Vec<Figures>> {
    let tasks = tasks.unwrap_or(TASKS);
    let worker = fleet.worker(tasks).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = resident(fleet, worker)?;
    fleet.submit("bench-nap", tasks, |_| Value::Null).await?;
    fleet.until(&[StateName::Running], tasks as u64).await?;
    tokio::time::sleep(SETTLE).await;
    let busy = resident(fleet, worker)?;
    fleet.take_out(worker)?.kill().await?;
    fleet.cancel_all().await?;
    Ok(vec![Figures::new("memory_idle", "MiB", idle), Figures::new("memory_in_run", "MiB", busy)])
}

/// The resident memory of a process, without its children, in MiB.
fn resident(fleet: &mut Fleet, number: usize) -> Result<f64> {
    let id = fleet.process(number)?.id().context("the worker has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("this system has no /proc")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure in VmRSS")?.parse()?;
    Ok((kib / 102.4).round() / 10.0)
}
