//! One of the stores that are compared, opened twice, as by two processes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::clock::{Clock, ManualClock};
use common::entropy::SeededEntropy;
use common::id::{LeaseToken, TaskId};
use common::journal::Event;
use common::journal::chain::{self, Verified, Witness};
use common::store::{
    Append, Claim, Doorbell, Due, Hint, Limits, Renew, Retention, Store, StoreClock, StoreError, StoreOptions,
};

use super::answer::{self, Answer, Claimed};
use super::request::{Request, Token};
use crate::fixtures::ear::Ear;
use crate::servers;

/// How long a doorbell may take to ring, after the answer that it goes with.
const RINGING: Duration = Duration::from_secs(10);
/// Calls of `due` after which more must not be due.
const SWEEPS: usize = 500;
/// The schedule of all histories.
const SCHEDULE: &str = "daily";

/// Where a store is, empty, for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    url: String,
    _folder: Option<tempfile::TempDir>,
}

/// A file in a folder of its own.
pub(super) fn sqlite() -> Place {
    let folder = tempfile::tempdir().expect("a temporary directory");
    Place { url: format!("sqlite:{}", folder.path().join("teamster.db").display()), _folder: Some(folder) }
}

/// A prefix in the shared Redis.
pub(super) fn redis() -> Place {
    Place { url: servers::redis::place(), _folder: None }
}

/// A prefix in the shared Redis, spread over partitions as in a cluster.
pub(super) fn redis_with_partitions() -> Place {
    Place { url: format!("{}&partitions=4", servers::redis::place()), _folder: None }
}

/// A schema in the shared Postgres.
pub(super) fn postgres() -> Place {
    Place { url: servers::postgres::place(), _folder: None }
}

/// How all stores of a history are opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) broker: bool,
    pub(super) limits: Limits,
    pub(super) retention: Retention,
}

/// A token of a store.
#[derive(Debug, Clone, Copy)]
struct Issued {
    token: LeaseToken,
    /// Whether its task was removed and came again.
    gone: bool,
}

/// A store under comparison.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: &'static str,
    processes: [Arc<dyn Store>; 2],
    place: Place,
    options: StoreOptions,
    clock: ManualClock,
    ear: Arc<Ear>,
    tokens: HashMap<Token, Issued>,
    /// What `unsent` gave last.
    hints: Vec<Hint>,
    opened: u64,
}

impl Side {
    pub(super) async fn open(
        name: &'static str,
        place: fn() -> Place,
        setting: Setting,
        clock: &ManualClock,
    ) -> Result<Self> {
        // Shared servers are started by blocking code.
        let place = tokio::task::spawn_blocking(place).await?;
        let ear = Arc::new(Ear::default());
        let mut options = StoreOptions::new(Arc::new(SeededEntropy::new(0)));
        options.clock = StoreClock::Given(Arc::new(clock.clone()));
        options.limits = setting.limits;
        options.retention = setting.retention;
        options.doorbell = setting.broker.then(|| Arc::clone(&ear) as Arc<dyn Doorbell>);
        let mut opened = Vec::new();
        for number in 0..2 {
            options.entropy = Arc::new(SeededEntropy::new(number));
            opened.push(common::store::open(&place.url, options.clone()).await.context(name)?);
        }
        let processes = opened.try_into().ok().context("two were opened")?;
        Ok(Self {
            name,
            processes,
            place,
            options,
            clock: clock.clone(),
            ear,
            tokens: HashMap::new(),
            hints: Vec::new(),
            opened: 2,
        })
    }

    /// For what a history must know to go on.
    pub(super) fn store(&self) -> &dyn Store {
        &*self.processes[0]
    }

    /// Asks one of its processes.
    pub(super) async fn ask(&mut self, process: usize, request: &Request) -> Result<Answer> {
        let answer = self.perform(process, request).await;
        answer.with_context(|| format!("{} on {}", request.kind(), self.name))
    }

    async fn perform(&mut self, process: usize, request: &Request) -> Result<Answer> {
        let store = Arc::clone(&self.processes[process]);
        let done = |result: Result<(), StoreError>| result.map_or_else(answer::store, |()| Ok(Answer::Done));
        Ok(match request.clone() {
            Request::Submit(submissions) => match store.submit(submissions).await {
                Ok(receipts) => {
                    self.born(receipts.iter().filter(|receipt| receipt.created).map(|receipt| receipt.id));
                    Answer::Receipts(receipts)
                }
                Err(error) => answer::store(error)?,
            },
            Request::Take(take) => self.claims(store.take(take).await)?,
            Request::TakeAll(take) => match self.claims(store.take(take).await)? {
                Answer::Claims(mut claims) => {
                    claims.sort_by_key(|claim| claim.task);
                    Answer::Claims(claims)
                }
                other => other,
            },
            Request::Claim(claim) => match self.claims(store.claim(claim).await)? {
                Answer::Claims(mut claims) => {
                    claims.sort_by_key(|claim| claim.task);
                    Answer::Claims(claims)
                }
                other => other,
            },
            Request::Append { token, id, expected, events, next } => {
                let append = Append { task: token.task, token: self.token(token), id, expected, events, next };
                match store.append(append).await {
                    Ok(appended) => Answer::Recorded(appended.recorded),
                    Err(error) => answer::append(error)?,
                }
            }
            Request::Renew { tokens, lease } => {
                let leases = tokens.into_iter().map(|token| (token.task, self.token(token))).collect();
                Answer::Renewals(store.renew(Renew { leases, lease }).await?)
            }
            Request::Signal(task, signal) => match store.signal(task, signal).await {
                Ok(signalled) => Answer::Signalled(signalled),
                Err(error) => answer::signal(error)?,
            },
            Request::Forget(task) => Answer::Forgotten(store.forget(task).await?),
            Request::Erase(task) => match store.erase(task, "ann").await {
                Ok(erasure) => Answer::Erased(erasure),
                Err(error) => answer::signal(error)?,
            },
            Request::Chain(task) => Answer::Chain(Box::new(chain(&*store, task).await?)),
            Request::Due { limit } => self.sweep(&*store, limit).await?,
            Request::Head(task) => Answer::Head(store.head(task).await?.map(Box::new)),
            Request::Journal { task, after, limit } => Answer::Recorded(store.journal(task, after, limit).await?),
            Request::List { filter, after, limit } => Answer::Page(store.list(filter, after, limit).await?),
            Request::Queues => answer::queues(store.queues().await?),
            Request::Pause(queue, paused) => done(store.pause(queue, paused).await)?,
            Request::Apply(definition) => done(store.apply(vec![definition]).await)?,
            Request::Definitions => Answer::Definitions(store.definitions().await?),
            Request::OpenBatch(batch) => done(store.open_batch(batch).await)?,
            Request::RejectRows(batch, rows) => done(store.reject_rows(&batch, rows).await)?,
            Request::CloseBatch(batch) => done(store.close_batch(&batch).await)?,
            Request::Batch(batch) => answer::batch(store.batch(&batch).await?),
            Request::BatchRows { batch, after, limit } => Answer::Rows(store.batch_rows(&batch, after, limit).await?),
            Request::ServeSchedule(until) => {
                store.serve_schedule(SCHEDULE, until).await?;
                Answer::Schedule(store.schedule(SCHEDULE).await?)
            }
            Request::Unsent(age) => {
                self.hints = store.unsent(age, 1_000).await?;
                answer::hints(&self.hints)
            }
            Request::Sent(tasks) => {
                let hints: Vec<Hint> = self.hints.iter().filter(|hint| tasks.contains(&hint.task)).cloned().collect();
                done(store.sent(&hints).await)?
            }
            Request::Restore(tasks) => match store.restore(tasks.clone()).await {
                Ok(restored) => {
                    let new = tasks.iter().zip(&restored).filter(|(_, restored)| **restored);
                    self.born(new.map(|(task, _)| task.id));
                    Answer::Restored(restored)
                }
                Err(error) => answer::store(error)?,
            },
            Request::Reopen => {
                drop(store);
                self.reopen(process).await?;
                Answer::Done
            }
        })
    }

    async fn sweep(&self, store: &dyn Store, limit: usize) -> Result<Answer> {
        let mut sum = Due::default();
        for _ in 0..SWEEPS {
            let due = store.due(limit).await?;
            sum.woken += due.woken;
            sum.expired += due.expired;
            sum.poisoned += due.poisoned;
            sum.removed += due.removed;
            let idle = due.woken + due.expired + due.removed == 0;
            if idle && due.next.is_none_or(|next| next > self.clock.now()) {
                let Due { woken, expired, poisoned, removed, .. } = sum;
                return Ok(Answer::Due { woken, expired, poisoned, removed });
            }
        }
        anyhow::bail!("it says after {SWEEPS} calls of due({limit}) that more is due")
    }

    fn claims(&mut self, claims: Result<Vec<Claim>, StoreError>) -> Result<Answer> {
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => return answer::store(error),
        };
        let mut claimed = Vec::with_capacity(claims.len());
        for Claim { task, token, expires, journal } in claims {
            let attempt = attempt(&journal).context("a claim carries the event of its lease")?;
            let before = self.tokens.insert(Token { task, attempt }, Issued { token, gone: false });
            ensure!(before.is_none_or(|before| before.gone), "attempt {attempt} of task {task} was given twice");
            claimed.push(Claimed { task, expires, journal });
        }
        Ok(Answer::Claims(claimed))
    }

    /// Tasks begin a life, perhaps not their first: attempts may be counted anew.
    fn born(&mut self, tasks: impl Iterator<Item = TaskId>) {
        let born: HashSet<TaskId> = tasks.collect();
        for (_, issued) in self.tokens.iter_mut().filter(|(token, _)| born.contains(&token.task)) {
            issued.gone = true;
        }
    }

    fn token(&self, token: Token) -> LeaseToken {
        self.tokens.get(&token).map_or_else(|| LeaseToken::new([9; 16]), |issued| issued.token)
    }

    async fn reopen(&mut self, process: usize) -> Result<()> {
        self.options.entropy = Arc::new(SeededEntropy::new(self.opened));
        self.opened += 1;
        self.processes[process] = common::store::open(&self.place.url, self.options.clone()).await?;
        Ok(())
    }

    /// Everything that the doorbell heard, in order of tasks: as much as was expected, or what came within some time.
    pub(super) async fn heard(&self, expected: usize) -> Answer {
        let started = Instant::now();
        loop {
            let heard = self.ear.heard();
            if heard.len() >= expected || started.elapsed() > RINGING {
                return answer::hints(&heard);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The number of the newest attempt.
/// What the hashes of a journal say: the same on all stores, whichever of them wrote which hash.
async fn chain(store: &dyn Store, task: TaskId) -> Result<Verified> {
    let journal = store.chain(task, 0, 10_000).await?;
    let version = store.head(task).await?.map_or(0, |head| head.version);
    let verified = chain::verify(&Witness { task, version, seal: store.seal(task).await?, keys: &[] }, &journal);
    ensure!(verified.faults.is_empty(), "the chain of task {task}: {verified:?}");
    Ok(verified)
}

pub(super) fn attempt(journal: &[common::journal::Recorded]) -> Option<u32> {
    journal.iter().rev().find_map(|recorded| match &recorded.event {
        Event::Leased { attempt, .. } => Some(*attempt),
        _ => None,
    })
}
