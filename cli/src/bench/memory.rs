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
    let idle = held(fleet, worker)?;
    fleet.submit("bench-nap", tasks, |_| Value::Null).await?;
    fleet.until(&[StateName::Running], tasks as u64).await?;
    tokio::time::sleep(SETTLE).await;
    let busy = held(fleet, worker)?;
    fleet.take_out(worker)?.kill().await?;
    fleet.cancel_all().await?;
    Ok(vec![
        Figures::new("memory_idle", "MiB", idle.resident),
        Figures::new("memory_idle_own", "MiB", idle.own),
        Figures::new("memory_in_run", "MiB", busy.resident),
        Figures::new("memory_in_run_own", "MiB", busy.own),
    ])
}

/// The memory of a process, without its children, in MiB.
struct Held {
    /// All that is resident.
    resident: f64,
    /// Without the pages of files: those of the program itself are there once for all processes that run it.
    own: f64,
}

fn held(fleet: &mut Fleet, number: usize) -> Result<Held> {
    let id = fleet.process(number)?.id().context("the worker has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("this system has no /proc")?;
    let mib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        let kib: f64 = line.split_whitespace().nth(1).with_context(|| format!("no figure in {name}"))?.parse()?;
        anyhow::Ok((kib / 102.4).round() / 10.0)
    };
    Ok(Held { resident: mib("VmRSS:")?, own: mib("RssAnon:")? })
}
