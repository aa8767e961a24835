//! Random histories: whatever happens in whatever order, every head stays the
//! fold of its journal. Seeded, so that a failure can be repeated.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use common::entropy::{Entropy, SeededEntropy};
use common::id::{GroupKey, StepId, TaskId};
use common::journal::{ApprovalDecision, Event};
use common::store::{AppendError, Next, SignalError, StoreError};
use common::task::{Parent, Signal, Wait, WaitOn};
use serde_json::json;

use super::Place;
use super::bench::{Bench, Held, LEASE, die, finished, key, queue, step, valid};

/// Operations in a history.
const LENGTH: usize = 400;
/// Histories, one after the other on the same data.
const SEEDS: std::ops::Range<u64> = 0..3;

struct History {
    bench: Bench,
    chance: Arc<dyn Entropy>,
    tasks: Vec<TaskId>,
    held: Vec<Held>,
    steps: usize,
}

/// Submits, takes, appends, parks, finishes, signals and lost workers in random
/// order; after each, every task that may have changed is verified.
pub async fn a_random_history_is_a_fold(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, |options| options.limits.barren_attempts = 2).await?;
    let mut history =
        History { bench, chance: Arc::new(SeededEntropy::new(0)), tasks: Vec::new(), held: Vec::new(), steps: 0 };
    for seed in SEEDS {
        history.chance = Arc::new(SeededEntropy::new(seed));
        for number in 0..LENGTH {
            let at = || format!("seed {seed}, operation {number}");
            history.operation().await.with_context(at)?;
            if number % 20 == 0 {
                history.bench.verify().await.with_context(at)?;
            }
        }
        history.bench.verify().await?;
    }
    Ok(())
}

impl History {
    fn below(&self, bound: usize) -> usize {
        let number = u64::from_le_bytes(self.chance.bytes());
        usize::try_from(number % u64::try_from(bound.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    fn some_task(&self) -> Option<TaskId> {
        self.tasks.get(self.below(self.tasks.len())).copied()
    }

    async fn operation(&mut self) -> Result<()> {
        match self.below(12) {
            0..=2 => self.submit().await,
            3 | 4 => self.take().await,
            5..=7 => self.append().await,
            8 | 9 => self.signal().await,
            10 => {
                let millis = self.below(usize::try_from(LEASE.as_millis())?);
                self.bench.clock.advance(Duration::from_millis(u64::try_from(millis)?));
                self.bench.store.due(1 + self.below(5)).await?;
                Ok(())
            }
            _ => {
                let before = self.held.clone();
                for held in before {
                    self.bench.renew(&held).await?;
                }
                Ok(())
            }
        }
    }

    async fn submit(&mut self) -> Result<()> {
        let parent = self.some_task().filter(|_| self.below(3) == 0);
        let submission = self.bench.task_with(|s| {
            s.parent = parent.map(|task| Parent { task, step: step("sub"), depth: 1 });
            s.priority = u8::try_from(self.below(10)).unwrap_or(0);
            if self.below(4) == 0 {
                s.key = Some(key(&format!("k{}", self.below(20))));
            }
            if self.below(5) == 0 {
                s.supersede = Some(valid(GroupKey::new(format!("g{}", self.below(3)))));
            }
            if self.below(4) == 0 {
                s.run_at = Some(self.bench.now().plus(Duration::from_secs(20)));
            }
        });
        match self.bench.store.submit(vec![submission]).await {
            Ok(receipts) => self.tasks.extend(receipts.iter().filter(|r| r.created).map(|r| r.id)),
            Err(StoreError::Refused(_)) => {} // the parent is done
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<()> {
        let claims = self.bench.store.take(self.bench.request(1 + self.below(3))).await?;
        self.held.extend(claims.iter().map(Held::from));
        self.bench.store.pause(queue("q"), self.below(10) == 0).await?;
        Ok(())
    }

    async fn append(&mut self) -> Result<()> {
        let index = self.below(self.held.len());
        let Some(mut held) = self.held.get(index).cloned() else { return Ok(()) };
        self.steps += 1;
        let mut events = vec![finished(&format!("s{}", self.steps))];
        let asked = step(&format!("ask{}", self.steps));
        let approval = common::id::ApprovalId { task: held.task, seq: held.version + 2 };
        let wait = |on| Next::Park(Wait { on, until: Some(self.bench.now().plus(Duration::from_secs(25))) });
        let next = match self.below(9) {
            0 => Next::Succeed { output: json!(1) },
            1 => die(),
            2 => Next::Release { reason: "drain".to_owned() },
            3 => Next::Cancel { by: "x".to_owned(), reason: "y".to_owned() },
            4 => wait(vec![WaitOn::Timer { step: asked }]),
            5 => {
                events.push(Event::ApprovalRequested {
                    step: asked,
                    title: "?".to_owned(),
                    show: json!(1),
                    expires: None,
                    terms: Box::default(),
                });
                if self.below(2) == 0 { wait(vec![WaitOn::Approval { approval }]) } else { Next::Continue }
            }
            6 => match self.some_task().filter(|child| *child != held.task) {
                Some(child) => {
                    events.push(Event::ChildSubmitted { step: asked, child });
                    wait(vec![WaitOn::Child { task: child }])
                }
                None => Next::Continue,
            },
            _ => Next::Continue,
        };
        match self.bench.append(&mut held, events, next).await {
            Ok(_) => self.held[index] = held,
            Err(AppendError::LeaseLost(_) | AppendError::Conflict { .. }) => {
                self.held.swap_remove(index);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn signal(&mut self) -> Result<()> {
        let Some(task) = self.some_task() else { return Ok(()) };
        let head = self.bench.head(task).await?;
        let signal = match self.below(6) {
            0 => Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() },
            1 => Signal::Wake,
            2 | 3 => {
                let reset = vec![valid(StepId::new(format!("s{}", self.below(self.steps + 1))))];
                Signal::Replay {
                    by: "x".to_owned(),
                    reset,
                    input: None,
                    sealed: common::journal::SealedValues::default(),
                }
            }
            _ => match head.open_approvals.first() {
                Some(approval) => Signal::Decide {
                    approval: *approval,
                    decision: ApprovalDecision { approved: true, by: "x".to_owned(), comment: None, edits: None },
                },
                None => Signal::Wake,
            },
        };
        match self.bench.store.signal(task, signal).await {
            Ok(_) | Err(SignalError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.bench.verify_task(&self.bench.head(task).await?).await
    }
}
