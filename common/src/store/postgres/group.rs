//! A group of operations in one transaction, in two flushes: the first locks and
//! loads what all of them need, the second writes what the book made of it, and
//! commits.

use std::collections::{BTreeMap, HashSet};

use futures::join;
use uuid::Uuid;

use super::blob;
use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::job::{Job, refused};
use super::lease::{self, Leased, Renewals};
use super::row;
use super::submit::{self, Questions};
use super::transaction::{CHILDREN, CLOCK, ENDINGS, LOAD, Rings, Transaction, Wanted, clock, fetch};
use super::turns::{Demand, Stock, Turn};
use super::value::integer;
use super::{columns, tally, write};
use crate::id::{BlobName, LeaseToken, QueueName, TaskId};
use crate::journal::{Event, Recorded, Reference};
use crate::store::book::AppendAnswer;
use crate::store::{Append, AppendError, Appended, Next, Signalled, StoreError, StoreOptions};

/// Statements of a group: prepared before the first one, so that each goes out in its order.
pub(super) const STATEMENTS: &[&str] = &[
    LOAD,
    CHILDREN,
    ENDINGS,
    CLOCK,
    lease::READY,
    lease::QUEUES,
    lease::PAUSED,
    lease::RENEW,
    submit::LOCK_GROUPS,
    submit::OLDER,
    submit::KEYS,
    submit::IDS,
    submit::DEPTHS,
    submit::BATCHES,
    blob::KEPT,
    blob::BEGIN_USE,
    columns::INSERT,
    columns::UPDATE,
    columns::EVENTS,
    write::JOURNALS,
    tally::ADD,
];

/// Some events of a journal, for an append that was done before.
const EVENTS: &str = "SELECT seq, at, event FROM journal WHERE task = $1 AND seq >= $2 AND seq < $3 ORDER BY seq";

/// What a group leaves to be done after its commit.
#[derive(Default)]
pub(super) struct Done {
    pub(super) rings: Rings,
    /// Tasks that were leased and whose journals cannot be read.
    pub(super) unreadable: Vec<(TaskId, LeaseToken, String)>,
}

/// How a group failed.
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// Whether the commit had been sent: then nobody knows whether it was done.
    pub(super) committing: bool,
}

/// What was found out for the jobs of a group before any of them is done.
struct Found {
    renewed: lease::Renewed,
    intake: submit::Intake,
    paused: HashSet<String>,
    /// For each job that takes, what it gets.
    shares: Vec<Vec<TaskId>>,
}

/// Answers that can be given only after the commit.
enum Later {
    /// The job's claims.
    Claims(usize, Vec<Leased>),
    /// The events of an append that was done before.
    Repeated(usize, TaskId, u64, u64),
}

/// Does all jobs in one transaction and notes their answers. `careful` asks whether ids are there already.
pub(super) async fn run(
    connection: &Connection,
    options: &StoreOptions,
    jobs: &mut [Job],
    careful: bool,
) -> Result<Done, Failed> {
    let before = |fault| Failed { fault, committing: false };
    let (mut tx, found) = Box::pin(begin(connection, options, jobs, careful)).await.map_err(before)?;
    let later = work(&mut tx, found, jobs).await.map_err(before)?;
    let leased = |later: &Later| match later {
        Later::Claims(_, leased) => leased.iter().map(|leased| leased.task.as_uuid()).collect(),
        Later::Repeated(..) => Vec::new(),
    };
    let journals: Vec<Uuid> = later.iter().flat_map(leased).collect();
    let after = |fault| Failed { fault, committing: true };
    let (rings, journals) = tx.commit_reading(journals).await.map_err(after)?;
    let mut done = Done { rings, unreadable: Vec::new() };
    let mut journals = lease::journals(&journals).map_err(after)?;
    for later in later {
        match later {
            Later::Claims(index, leased) => {
                let (claims, unreadable) = lease::claims(leased, &mut journals);
                done.unreadable.extend(unreadable.into_iter().map(|(l, why)| (l.task, l.lease.token, why)));
                if let Some(Job::Take(_, _, call) | Job::Claim(_, call)) = jobs.get_mut(index) {
                    call.set(Ok(claims));
                }
            }
            Later::Repeated(index, task, from, to) => {
                let events = events(connection, task, from, to).await;
                if let Some(Job::Append(_, _, call)) = jobs.get_mut(index) {
                    call.set(match events {
                        Ok(recorded) => Ok(Appended { recorded }),
                        Err(fault) => Err(StoreError::from(fault).into()),
                    });
                }
            }
        }
    }
    Ok(done)
}

/// The first flush: begins, renews, locks and loads.
async fn begin<'c>(
    connection: &'c Connection,
    options: &'c StoreOptions,
    jobs: &[Job],
    careful: bool,
) -> Result<(Transaction<'c>, Found), Fault> {
    let demands = demands(connection, jobs).await?;
    let (wanted, renewals, questions) = gather(jobs, careful);
    let mut stock = Stock::default();
    let first = match stock.turn(&demands) {
        Turn::Find(wanted) => wanted,
        Turn::Give(_) => BTreeMap::new(),
    };
    let claims = jobs.iter().any(|job| matches!(job, Job::Claim(..)));
    let none = || Ok(Vec::new());
    let references = references(jobs);
    let (begun, intake, renewed, fetched, ready, paused, kept_blobs, now) = join!(
        connection.batch("BEGIN"),
        questions.ask(connection),
        renewals.renew(connection, options),
        fetch(connection, &wanted),
        async { if first.is_empty() { none() } else { lease::find(connection, &first).await } },
        async { if claims { connection.query(lease::PAUSED, &[]).await } else { none() } },
        blob::kept(connection, &references),
        clock(connection, options),
    );
    begun?;
    let mut tx = Transaction::new(connection, options);
    tx.set_now(now?);
    tx.kept_blobs = kept_blobs?;
    tx.enter(&wanted, fetched?);
    lease::put(&mut tx, &mut stock, first, &ready?)?;
    let shares = lease::share(&mut tx, &mut stock, &demands).await?;
    let mut names = HashSet::new();
    for row in paused? {
        names.insert(row.try_get(0)?);
    }
    let found = Found { renewed: renewed?, intake: intake?, paused: names, shares };
    Ok((tx, found))
}

/// Who takes how much from where.
async fn demands(connection: &Connection, jobs: &[Job]) -> Result<Vec<Demand>, Fault> {
    let takes =
        || jobs.iter().filter_map(|job| if let Job::Take(take, turn, _) = job { Some((take, *turn)) } else { None });
    let everywhere = if takes().any(|(take, _)| take.queues.is_empty()) {
        lease::ready_queues(connection).await?
    } else {
        Vec::new()
    };
    let demand = |(take, turn): (&crate::store::Take, usize)| {
        let queues: &[QueueName] = if take.queues.is_empty() { &everywhere } else { &take.queues };
        Demand::new(queues, take.max.min(lease::MOST), turn)
    };
    Ok(takes().map(demand).collect())
}

/// What the jobs need, in one list of each kind.
fn gather(jobs: &[Job], careful: bool) -> (Wanted, Renewals, Questions) {
    let (mut wanted, mut renewals, mut questions) = (Wanted::default(), Renewals::default(), Questions::default());
    let uuid = |id: &TaskId| id.as_uuid();
    for job in jobs {
        match job {
            Job::Submit(accepted, _) => {
                questions.add(accepted, careful);
                wanted.ids.extend(accepted.iter().filter_map(|a| a.task.parent.as_ref()).map(|p| p.task.as_uuid()));
            }
            Job::Take(..) => {}
            Job::Claim(claim, _) => wanted.ids.extend(claim.tasks.iter().take(lease::MOST).map(uuid)),
            Job::Append(append, ..) => {
                let task = append.task.as_uuid();
                wanted.ids.insert(task);
                if append.next != Next::Continue {
                    wanted.ending.insert(task);
                }
                let children = children(append);
                wanted.ids.extend(children.clone());
                wanted.told.extend(children);
            }
            Job::Renew(renew, _) => renewals.add(renew),
            Job::Signal(task, ..) | Job::GiveUp(task, ..) => {
                wanted.ids.insert(task.as_uuid());
                wanted.ending.insert(task.as_uuid());
            }
        }
    }
    (wanted, renewals, questions)
}

/// The blobs that jobs refer to.
fn references(jobs: &[Job]) -> Vec<BlobName> {
    let of = |job: &Job| match job {
        Job::Submit(accepted, _) => accepted.iter().flat_map(|accepted| accepted.blobs.iter().cloned()).collect(),
        Job::Append(_, encoded, _) => encoded.blobs.clone(),
        Job::Signal(_, signal, _) => Reference::in_signal(signal),
        Job::Take(..) | Job::Claim(..) | Job::Renew(..) | Job::GiveUp(..) => Vec::new(),
    };
    jobs.iter().flat_map(of).collect()
}

/// The children that an append says there are.
fn children(append: &Append) -> impl Iterator<Item = Uuid> + Clone + '_ {
    append.events.iter().filter_map(|event| match event {
        Event::ChildSubmitted { child, .. } => Some(child.as_uuid()),
        _ => None,
    })
}

/// Does the jobs on what was loaded. Submissions come last: what they meet is as the others of the group leave it.
async fn work(tx: &mut Transaction<'_>, mut found: Found, jobs: &mut [Job]) -> Result<Vec<Later>, Fault> {
    let mut later = Vec::new();
    let mut shares = std::mem::take(&mut found.shares).into_iter();
    for (index, job) in jobs.iter_mut().enumerate() {
        match job {
            Job::Submit(..) => {}
            Job::Append(append, encoded, call) => {
                let last = tx.entry(append.task).and_then(|entry| entry.last_append);
                if !tx.keeps(&encoded.blobs) && last.is_none_or(|last| last.id != append.id) {
                    call.set(Err(blob::gone().into()));
                    continue;
                }
                match refused(tx.settle(|book| book.append(append, encoded)).await)? {
                    Ok(AppendAnswer::Added(recorded)) => call.set(Ok(Appended { recorded })),
                    Ok(AppendAnswer::Repeated { from, to }) => {
                        later.push(Later::Repeated(index, append.task, from, to));
                    }
                    Err(error) => call.set(Err::<_, AppendError>(error)),
                }
            }
            Job::Signal(task, signal, call) => {
                let (task, signal) = (*task, signal.clone());
                if !tx.keeps(&Reference::in_signal(&signal)) {
                    call.set(Err(blob::gone().into()));
                    continue;
                }
                let answer: Result<Signalled, _> = refused(tx.settle(|book| book.signal(task, &signal)).await)?;
                call.set(answer);
            }
            Job::GiveUp(task, token, why) => {
                let (task, token, why) = (*task, *token, why.clone());
                match tx.settle(|book| book.give_up(task, token, &why)).await {
                    Ok(()) => {}
                    Err(Stop::Refused(_)) => tx.set_aside(task, &why).await?,
                    Err(Stop::Fault(fault)) => return Err(fault),
                }
            }
            Job::Take(take, ..) => {
                let mut leased = Vec::new();
                for task in shares.next().unwrap_or_default() {
                    leased.extend(lease::lease(tx, task, &take.worker, take.lease).await?);
                }
                later.push(Later::Claims(index, leased));
            }
            Job::Claim(claim, _) => {
                let mut leased = Vec::new();
                for task in claim.tasks.iter().take(lease::MOST) {
                    let paused = tx.beside.get(task).is_some_and(|beside| found.paused.contains(&beside.queue));
                    if !paused {
                        leased.extend(lease::lease(tx, *task, &claim.worker, claim.lease).await?);
                    }
                }
                later.push(Later::Claims(index, leased));
            }
            Job::Renew(renew, call) => call.set(Ok(lease::answer(renew, &found.renewed))),
        }
    }
    for job in jobs {
        if let Job::Submit(accepted, call) = job {
            if !accepted.iter().all(|accepted| tx.keeps(&accepted.blobs)) {
                call.set(Err(blob::gone()));
                continue;
            }
            call.set(refused(submit::submit(tx, &mut found.intake, accepted).await)?);
        }
    }
    Ok(later)
}

async fn events(connection: &Connection, task: TaskId, from: u64, to: u64) -> Result<Vec<Recorded>, Fault> {
    let rows = connection.query(EVENTS, &[&task.as_uuid(), &integer(from), &integer(to)]).await?;
    rows.iter().map(|row| row::event(row, task, 0)).collect()
}
