//! What a store does by itself when its time has come: timers, leases that ran
//! out, notes that a crash left, retention. Indexes lead to what is due.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::try_join_all;

use super::RedisStore;
use super::desk::Desk;
use super::group::{self, Kept};
use super::reply::{self, Reply};
use super::retention::Line;
use super::scripts::{Args, DUE};
use super::stored::Found;
use super::unit::Unit;
use crate::clock::Timestamp;
use crate::id::{Shard, TaskId};
use crate::store::book::{Book, DueAnswer};
use crate::store::{Due, StoreError};

/// The most that one call moves.
const MOST: usize = 1_000;
/// Tasks that are moved at the same time: they share calls to the server.
const AT_ONCE: usize = 64;
/// Batches that one call looks at in a partition.
const BATCHES: usize = 32;
/// Rows of batches that may go for each task that may: they cost the server far less.
const ROWS: usize = 4;
/// A note of a group that is so old was left behind by a crash.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

/// What is due in a partition.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    pub(super) partition: usize,
    /// Timers and leases, the earliest first.
    due: Vec<(TaskId, i64)>,
    /// When the next timer or lease is due.
    first: Option<Timestamp>,
    pub(super) kept: [Kept; 2],
    /// The first of those that finished; of finished tasks and of dead letters.
    pub(super) finished: [Line; 2],
    /// Closed batches, the oldest first.
    pub(super) batches: Vec<(String, Timestamp)>,
    /// Tasks whose elders are to be cancelled still.
    notes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Since when the oldest unused blob has been that.
    pub(super) unused: Option<Timestamp>,
    /// When the next meter or reservation is to be looked at.
    pub(super) look: Option<Timestamp>,
}

impl RedisStore {
    /// Moves what is due.
    pub(super) async fn sweep(&self, limit: usize) -> Result<Due, StoreError> {
        let limit = limit.min(MOST);
        let mut answer = Due::default();
        let mut agendas = self.agendas(limit, 1).await?;
        let mut tasks: Vec<(i64, TaskId)> =
            agendas.iter().flat_map(|agenda| agenda.due.iter().map(|(task, at)| (*at, *task))).collect();
        tasks.sort_unstable();
        tasks.truncate(limit);
        let room = limit - tasks.len();
        let some = !tasks.is_empty();
        for due in tasks.chunks(AT_ONCE * 4) {
            self.move_on(due, &mut answer).await?;
        }
        for agenda in &agendas {
            for (task, note) in &agenda.notes {
                let accepted = note.last_chunk().map_or(0, |at| i64::from_be_bytes(*at));
                if Timestamp::from_millis(accepted).plus(LEFT_BEHIND) <= self.clock.now() {
                    self.serve_note(task, note).await?;
                }
            }
        }
        if some {
            agendas = self.agendas(0, 1).await?;
        }
        let mut next: Option<Timestamp> = agendas.iter().filter_map(|agenda| agenda.first).min();
        let (removed, look_again) = self.retain(&agendas, room).await?;
        answer.removed += removed;
        next = [next, look_again].into_iter().flatten().min();
        if let Some(age) = self.options.retention.finished.age {
            // Not of what retention leaves: where many tasks have to go, as many rows do.
            let look_again = self.forget_batches(&agendas, age.get(), limit * ROWS).await?;
            next = [next, look_again].into_iter().flatten().min();
        }
        next = [next, self.remove_unused(&agendas).await?].into_iter().flatten().min();
        let (lapsed, look_again) = self.look_at_meters(&agendas, limit).await?;
        answer.lapsed = lapsed;
        next = [next, look_again].into_iter().flatten().min();
        answer.next = next;
        Ok(answer)
    }

    /// What is due in each partition.
    pub(super) async fn agendas(&self, due: usize, kept: usize) -> Result<Vec<Agenda>, StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.number(due);
        args.number(kept);
        args.number(BATCHES);
        let args = &args;
        let looks = (0..self.keys.count()).map(|partition| async move {
            let mut reply = DUE.call(&self.link, self.keys.partition(partition), &[args]).await?;
            self.clock.heard(reply.time()?);
            let mut agenda = Agenda { partition, ..Agenda::default() };
            let mut due = Reply::new(reply.next());
            while !due.is_empty() {
                agenda.due.push((due.task()?, due.integer()?));
            }
            agenda.first = reply::integer(&reply.next()).ok().map(Timestamp::from_millis);
            agenda.kept = group::kept(&reply.list()).unwrap_or_default();
            for finished in &mut agenda.finished {
                finished.in_order = reply.list().into_iter().map(reply::bytes).collect();
                finished.by_time = reply.list().into_iter().map(reply::bytes).collect();
            }
            let mut batches = Reply::new(reply.next());
            while !batches.is_empty() {
                agenda.batches.push((reply::text(batches.next()), batches.time()?));
            }
            let mut notes = Reply::new(reply.next());
            while !notes.is_empty() {
                agenda.notes.push((notes.bytes(), notes.bytes()));
            }
            agenda.unused = reply.integer().ok().map(Timestamp::from_millis);
            agenda.look = reply.integer().ok().map(Timestamp::from_millis);
            Ok::<_, StoreError>(agenda)
        });
        try_join_all(looks).await
    }

    async fn move_on(&self, due: &[(i64, TaskId)], answer: &mut Due) -> Result<(), StoreError> {
        let tasks: Vec<TaskId> = due.iter().map(|(_, task)| *task).collect();
        let mut loaded = Desk::new();
        self.load(&tasks, &mut loaded).await?;
        // Those of a family one after the other, in the order of their times: each sees what became of the others.
        let mut families: BTreeMap<Shard, Vec<(TaskId, Option<Found>)>> = BTreeMap::new();
        for task in tasks {
            families.entry(task.shard()).or_default().push((task, loaded.remove(&task)));
        }
        let moves = families.into_values().map(|family| async move {
            let mut moved = Vec::with_capacity(family.len());
            for (task, found) in family {
                moved.push(self.move_one(task, found).await?);
            }
            Ok::<_, StoreError>(moved)
        });
        let mut moves = futures::stream::iter(moves.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        while let Some(moved) = moves.next().await {
            for moved in moved? {
                match moved {
                    DueAnswer::Woken => answer.woken += 1,
                    DueAnswer::Expired => answer.expired += 1,
                    DueAnswer::Poisoned => {
                        answer.expired += 1;
                        answer.poisoned += 1;
                    }
                    DueAnswer::NotDue => {}
                }
            }
        }
        Ok(())
    }

    async fn move_one(&self, task: TaskId, found: Option<Found>) -> Result<DueAnswer, StoreError> {
        if let Some(Found::Unreadable(unreadable)) = found {
            self.set_aside(&unreadable).await?;
            // It may have been put aside before; then the index must not lead here again and again.
            self.check_due(task).await?;
            return Ok(DueAnswer::NotDue);
        }
        let desk = found.map(|found| (task, found)).into_iter().collect();
        let moved = self.operate(task, desk, None, |book: &mut Book| book.due(task)).await?.answer;
        if moved == DueAnswer::NotDue {
            self.check_due(task).await?;
        }
        Ok(moved)
    }

    /// An index that leads to a task which is never due must not lead there again and again. The task may be taken at
    /// this very moment, and then the index must stay: so it goes only if the task is still as it was read.
    async fn check_due(&self, task: TaskId) -> Result<(), StoreError> {
        let mut desk = Desk::new();
        self.load(&[task], &mut desk).await?;
        let found = desk.get(&task);
        if let Some(Found::Task(stored)) = found
            && stored.entry.due_at().is_some()
        {
            return Ok(());
        }
        let mut unit = Unit::default();
        match found.and_then(Found::stamp) {
            Some(stamp) => unit.expect(task, stamp, false),
            None => unit.expect_none(task),
        }
        unit.strike(b"due", task);
        self.groups.commit(self.keys.of_task(task), unit).await.map(drop)
    }
}
