//! Group commit: units of work of one partition that come while a call to the
//! server is under way go together in the next. An idle store sends at once.
//! The server writes a group or nothing of it; when it refuses some units, the
//! others go again at once, so that to its caller each is done or refused by itself.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::Value;
use tokio::sync::{mpsc, oneshot};

use super::clock::ServerClock;
use super::connection::Link;
use super::reply;
use super::scripts::{Args, COMMIT};
use super::unit::{self, Outcome, Unit};
use crate::store::StoreError;

/// Units that may wait for a partition; more callers wait for room.
const QUEUE: usize = 1024;
/// Units that go in one call.
const UNITS: usize = 128;
/// Bytes that go in one call, once there are so many.
const BYTES: usize = 1 << 20;
/// Calls that are under way at the same time: while the server works on one, the next is on its way.
const CALLS: usize = 2;

/// What retention counts in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Kept {
    pub(super) tasks: u64,
    pub(super) bytes: u64,
}

/// The answer to a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed {
    pub(super) outcome: Outcome,
    /// What is kept now of finished tasks and of dead letters, if one of the group ended.
    pub(super) kept: Option<[Kept; 2]>,
}

type Answer = oneshot::Sender<Result<Committed, StoreError>>;

struct Job {
    unit: Unit,
    answer: Answer,
}

/// Jobs that go together.
#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    bytes: usize,
    touched: HashSet<[u8; 16]>,
    /// Those that rest upon what another of the group changes: they are stale once it is written.
    stale: Vec<Answer>,
}

impl Group {
    fn add(&mut self, job: Job) {
        if job.unit.touched().iter().any(|touched| self.touched.contains(touched)) {
            self.stale.push(job.answer);
            return;
        }
        self.bytes += job.unit.bytes();
        self.touched.extend(job.unit.touched());
        self.jobs.push(job);
    }

    fn has_room(&self) -> bool {
        self.jobs.len() + self.stale.len() < UNITS && self.bytes < BYTES
    }
}

/// The ways to the partitions.
#[derive(Debug)]
pub(super) struct Groups(Vec<mpsc::Sender<Job>>);

impl Groups {
    /// Starts a task for each partition; they end when this is dropped, after what was asked for is answered.
    pub(super) fn start(partitions: Vec<Vec<u8>>, channel: &str, link: &Arc<Link>, clock: &Arc<ServerClock>) -> Self {
        let start = |partition| {
            let (sender, jobs) = mpsc::channel(QUEUE);
            let driver =
                Driver { partition, channel: channel.to_owned(), link: Arc::clone(link), clock: Arc::clone(clock) };
            tokio::spawn(async move { driver.run(jobs).await });
            sender
        };
        Self(partitions.into_iter().map(start).collect())
    }

    /// Has a unit written.
    pub(super) async fn commit(&self, partition: usize, unit: Unit) -> Result<Committed, StoreError> {
        let stopped = || StoreError::Unavailable("the store was closed".to_owned());
        let (answer, result) = oneshot::channel();
        let sender = self.0.get(partition).ok_or_else(stopped)?;
        sender.send(Job { unit, answer }).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }
}

struct Driver {
    partition: Vec<u8>,
    channel: String,
    link: Arc<Link>,
    clock: Arc<ServerClock>,
}

impl Driver {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let mut calls = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(()) = calls.next(), if !calls.is_empty() => {}
                job = jobs.recv(), if calls.len() < CALLS => {
                    let Some(job) = job else { break };
                    let mut group = Group::default();
                    group.add(job);
                    while group.has_room() && let Ok(job) = jobs.try_recv() {
                        group.add(job);
                    }
                    calls.push(self.send(group));
                }
            }
        }
        while calls.next().await.is_some() {}
    }

    async fn send(&self, group: Group) {
        let Group { mut jobs, stale, .. } = group;
        let mut refused: Vec<(Answer, Outcome)> = stale.into_iter().map(|answer| (answer, Outcome::Stale)).collect();
        while !jobs.is_empty() {
            let mut common = Args::default();
            common.push(self.clock.argument());
            common.push(&self.channel);
            let units = unit::encode(jobs.iter().map(|job| &job.unit));
            let (outcomes, kept) = match self.call(&[&common, &units]).await {
                Ok(answer) => answer,
                Err(error) => {
                    for job in jobs {
                        let _ = job.answer.send(Err(error.again()));
                    }
                    break;
                }
            };
            let written = outcomes.iter().all(|outcome| *outcome == Outcome::Done);
            let mut others = Vec::new();
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                if written {
                    // A caller that went away does not want to know.
                    let _ = job.answer.send(Ok(Committed { outcome, kept }));
                } else if outcome == Outcome::Done {
                    others.push(job);
                } else {
                    refused.push((job.answer, outcome));
                }
            }
            jobs = others;
        }
        // Last: who is told that a plan is stale plans again, upon what is written by then.
        for (answer, outcome) in refused {
            let _ = answer.send(Ok(Committed { outcome, kept: None }));
        }
    }

    async fn call(&self, args: &[&Args]) -> Result<(Vec<Outcome>, Option<[Kept; 2]>), StoreError> {
        let mut reply = COMMIT.call(&self.link, &self.partition, args).await?;
        self.clock.heard(reply.time()?);
        let outcomes = reply.list().iter().map(outcome).collect::<Result<_, _>>()?;
        Ok((outcomes, kept(&reply.list())))
    }
}

/// What retention counts, from four counters; nothing if they are not there.
pub(super) fn kept(counters: &[Value]) -> Option<[Kept; 2]> {
    let [tasks, bytes, dead_tasks, dead_bytes] = counters else { return None };
    let kept = |tasks, bytes| Kept { tasks: reply::counter(tasks), bytes: reply::counter(bytes) };
    Some([kept(tasks, bytes), kept(dead_tasks, dead_bytes)])
}

fn outcome(value: &Value) -> Result<Outcome, StoreError> {
    Ok(match reply::integer(value)? {
        1 => Outcome::Done,
        2 => Outcome::Expired,
        3 => Outcome::Full,
        4 => Outcome::Gone,
        _ => Outcome::Stale,
    })
}
