//! Faults, one after the other: who is struck and for how long follows from a seed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use common::entropy::{Entropy, SeededEntropy};

use super::backends::Backends;
use super::fleet::{Fleet, Role};
use super::project::LEASE;
use super::{Counts, Fault, Length, Scenario};

/// Between two faults.
const CALM: std::ops::Range<u64> = 400..1_500;
/// How long a store hangs: longer than a renewal waits.
const STALL: std::ops::Range<u64> = 800..3_000;
/// How long a server or a process is down.
const DOWN: std::ops::Range<u64> = 100..1_200;

/// See the module.
#[derive(Debug)]
pub(super) struct Weather {
    faults: &'static [Fault],
    chance: Arc<dyn Entropy>,
    counts: Counts,
}

impl Weather {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        Self { faults: scenario.faults, chance: Arc::new(SeededEntropy::new(seed)), counts: Counts::new() }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(u64::from_le_bytes(self.chance.bytes()) % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        let span = usize::try_from(range.end - range.start).unwrap_or(1);
        Duration::from_millis(range.start + self.below(span) as u64)
    }

    /// All faults in turn; for a long time, then in any order.
    #[expect(clippy::print_stdout, reason = "whoever plays it watches it")]
    pub(super) async fn rage(&mut self, fleet: &mut Fleet, backends: &mut Backends, length: Length) -> Result<()> {
        let started = Instant::now();
        for fault in self.faults {
            fleet.wait(self.millis(CALM)).await?;
            let from = started.elapsed().as_secs_f64();
            self.strike(*fault, fleet, backends).await?;
            println!("    {from:.1} s to {:.1} s: {fault:?}", started.elapsed().as_secs_f64());
        }
        if let Length::Long(time) = length {
            while started.elapsed() < time {
                fleet.wait(self.millis(CALM)).await?;
                let fault = self.faults[self.below(self.faults.len())];
                self.strike(fault, fleet, backends).await?;
            }
        }
        backends.settle().await;
        Ok(())
    }

    async fn strike(&mut self, fault: Fault, fleet: &mut Fleet, backends: &mut Backends) -> Result<()> {
        let which = self.below(1_000);
        let (down, stall) = (self.millis(DOWN), self.millis(STALL));
        let struck = match fault {
            Fault::KillWorker => fleet.kill(Role::Worker, which, down),
            Fault::KillScheduler => fleet.kill(Role::Scheduler, which, down),
            Fault::StopWorker => fleet.freeze(Role::Worker, which, LEASE + stall),
            Fault::KillStore => {
                backends.kill_store();
                fleet.wait(down).await?;
                backends.restart_store();
                true
            }
            Fault::ResetStore => {
                backends.store_proxy().reset().await;
                true
            }
            Fault::StallStore => {
                backends.store_proxy().stall().await;
                fleet.wait(stall).await?;
                backends.store_proxy().pass().await;
                true
            }
            Fault::CutStore => {
                for _ in 0..3 {
                    backends.store_proxy().cut_after(self.below(20_000));
                    fleet.wait(Duration::from_millis(200)).await?;
                }
                true
            }
            Fault::KillBroker => {
                backends.restart_broker().await;
                true
            }
            Fault::ResetBroker => {
                backends.broker_proxy().reset().await;
                true
            }
            Fault::StallBroker => {
                backends.broker_proxy().stall().await;
                fleet.wait(stall).await?;
                backends.broker_proxy().pass().await;
                true
            }
            Fault::PurgeBroker => {
                let queues = backends.purge();
                *self.counts.entry("queues purged".to_owned()).or_default() += queues;
                queues > 0
            }
        };
        if struck {
            *self.counts.entry(format!("{fault:?}")).or_default() += 1;
        }
        Ok(())
    }

    /// What struck how often.
    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}
