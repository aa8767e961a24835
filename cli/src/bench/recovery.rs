//! How long the tasks of a killed worker stand still: from the kill until the
//! last of them runs on another worker.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use common::store::Filter;
use common::task::StateName;
use serde_json::Value;

use super::figures::Figures;
use super::fleet::Fleet;

/// Tasks that the killed worker holds.
const TASKS: usize = 100;
/// The tightest lease that is recommended; see README.md.
const TIGHTEST: &str = "1s";
/// How often is looked.
const LOOK: Duration = Duration::from_millis(20);
/// After so long it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn measure(fleet: &mut Fleet, tasks: Option<usize>) -> Result<Vec<Figures>> {
    let tasks = tasks.unwrap_or(TASKS);
    fleet.scheduler().await?;
    let default = kill(fleet, tasks).await?;
    fleet.set_lease(TIGHTEST)?;
    let tightest = kill(fleet, tasks).await?;
    Ok(vec![
        Figures::new("recovery_default", "s", default.as_secs_f64()),
        Figures::new("recovery_tightest", "s", tightest.as_secs_f64()),
    ])
}

async fn kill(fleet: &mut Fleet, tasks: usize) -> Result<Duration> {
    let running = [StateName::Running];
    fleet.submit("bench-nap", tasks, |_| Value::Null).await?;
    let first = fleet.worker(tasks).await?;
    fleet.until(&running, tasks as u64).await?;
    let second = fleet.worker(tasks).await?;
    let killed = Instant::now();
    let mut dead = fleet.take_out(first)?;
    dead.kill().await?;
    while again(fleet).await? < tasks {
        if killed.elapsed() > PATIENCE {
            bail!("the tasks of the killed worker do not run again");
        }
        tokio::time::sleep(LOOK).await;
    }
    let took = killed.elapsed();
    // The second worker goes too, and what it holds is cancelled.
    fleet.take_out(second)?.kill().await?;
    fleet.cancel_all().await?;
    Ok(took)
}

/// Tasks that run for the second time.
async fn again(fleet: &Fleet) -> Result<usize> {
    let filter = Filter { states: vec![StateName::Running], ..Filter::default() };
    let page = fleet.store.list(filter, None, 1_000).await?;
    Ok(page.tasks.iter().filter(|head| head.attempts == 2).count())
}
