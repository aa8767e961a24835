//! Retention: done tasks go that are too many, too old or too large, the oldest
//! first, over all partitions.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::try_join_all;

use super::RedisStore;
use super::change::{self, Class};
use super::due::Agenda;
use super::group::Kept;
use super::record::Record;
use super::reply;
use super::unit::{Outcome, Unit};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::{Keep, StoreError};
use crate::task::StateName;

/// How long a done task stays that an unfinished parent may still ask for.
const FOR_PARENT: Duration = Duration::from_secs(60);
/// Removals that are under way at the same time: they share calls to the server.
const AT_ONCE: usize = 256;
/// When a sweep looks again that found another process at work.
const BUSY: Duration = Duration::from_millis(50);

/// The first of those that finished, each in the order of its time: the task, then the time.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) in_order: Vec<Vec<u8>>,
    /// Those that stand apart, because they came in another order.
    pub(super) by_time: Vec<Vec<u8>>,
}

/// A done task, as it stands in the line of those that finished.
#[derive(Debug, Clone)]
struct Oldest {
    partition: usize,
    entry: Vec<u8>,
    /// Whether it stands apart.
    apart: bool,
    /// Whether it is the last that was read of its line, and there may be more behind it.
    more: bool,
    task: TaskId,
    at: Timestamp,
    record: Option<Record>,
    /// Whether an unfinished parent may still ask for it.
    wanted: bool,
}

/// What is to be done with one.
#[derive(Debug)]
enum Step {
    /// It is not there (any more), or not done: its place in the line goes.
    Skip,
    Remove,
    /// To be looked at again at that time.
    Defer(Timestamp),
}

impl RedisStore {
    /// Removes up to `room` tasks if any is too much of what the agendas name the first of; answers with how many went,
    /// and when to look again.
    pub(super) async fn retain(
        &self,
        agendas: &[Agenda],
        room: usize,
    ) -> Result<(usize, Option<Timestamp>), StoreError> {
        let now = self.clock.now();
        let mut next = None;
        let mut over = false;
        for (place, class) in Class::ALL.into_iter().enumerate() {
            let keep = self.keep(class);
            let lines = agendas.iter().filter_map(|agenda| agenda.finished.get(place));
            let firsts = lines.flat_map(|line| [line.in_order.first(), line.by_time.first()]).flatten();
            let times = firsts.map(|entry| Ok(place_of(entry)?.1)).collect::<Result<Vec<_>, StoreError>>()?;
            let Some(first) = times.into_iter().min() else { continue };
            over |= is_over(keep, kept(agendas, place), first, now);
            next = [next, keep.age.map(|age| first.plus(age.get()))].into_iter().flatten().min();
        }
        if !over {
            return Ok((0, next));
        }
        if room == 0 {
            return Ok((0, Some(now)));
        }
        if !self.begin_removal(0).await? {
            return Ok((0, Some(now.plus(BUSY))));
        }
        let retained = self.retain_each(room).await;
        self.end_removal(0).await?;
        retained
    }

    async fn retain_each(&self, room: usize) -> Result<(usize, Option<Timestamp>), StoreError> {
        // As it is now that nobody else removes.
        let agendas = self.agendas(0, room).await?;
        let (mut removed, mut next) = (0, None);
        for (place, class) in Class::ALL.into_iter().enumerate() {
            let lines = agendas.iter().filter_map(|agenda| Some((agenda.partition, agenda.finished.get(place)?)));
            let (went, look_again) =
                self.retain_class(class, self.keep(class), kept(&agendas, place), lines, room - removed).await?;
            removed += went;
            next = [next, look_again].into_iter().flatten().min();
        }
        Ok((removed, next))
    }

    pub(super) fn keep(&self, class: Class) -> Keep {
        match class {
            Class::Finished => self.options.retention.finished,
            Class::Dead => self.options.retention.dead,
        }
    }

    pub(super) async fn retain_class<'a>(
        &self,
        class: Class,
        keep: Keep,
        kept: Kept,
        lines: impl Iterator<Item = (usize, &'a Line)>,
        room: usize,
    ) -> Result<(usize, Option<Timestamp>), StoreError> {
        let now = self.clock.now();
        let mut waiting = Vec::new();
        for (partition, line) in lines {
            let in_order = line.in_order.iter().enumerate().map(|(place, entry)| (place, entry, false));
            let by_time = line.by_time.iter().enumerate().map(|(place, entry)| (place, entry, true));
            for (place, entry, apart) in in_order.chain(by_time) {
                let (task, at) = place_of(entry)?;
                let (entry, more) = (entry.clone(), place + 1 >= room);
                waiting.push(Oldest { partition, entry, apart, more, task, at, record: None, wanted: false });
            }
        }
        // Each line is in order; between lines the earlier goes first.
        waiting.sort_by_key(|oldest| oldest.at);
        let Some(first) = waiting.first() else {
            // With no room nothing was read.
            return Ok((0, (room == 0 && kept.tasks > 0).then_some(now)));
        };
        if !is_over(keep, kept, first.at, now) {
            return Ok((0, keep.age.map(|age| first.at.plus(age.get()))));
        }
        self.look_up(&mut waiting).await?;
        let (steps, next) = plan(class, keep, kept, waiting, room, now);
        let mut removals = Vec::with_capacity(steps.len());
        for chunk in steps.chunks(AT_ONCE) {
            removals
                .extend(try_join_all(chunk.iter().map(|(oldest, step)| self.take_step(class, oldest, step))).await?);
        }
        Ok((removals.into_iter().filter(|removed| *removed).count(), next))
    }

    /// Reads the records of tasks, and whether their parents live.
    async fn look_up(&self, waiting: &mut [Oldest]) -> Result<(), StoreError> {
        for partition in 0..self.keys.count() {
            let mut here: Vec<&mut Oldest> =
                waiting.iter_mut().filter(|oldest| oldest.partition == partition).collect();
            let tasks: Vec<TaskId> = here.iter().map(|oldest| oldest.task).collect();
            if tasks.is_empty() {
                continue;
            }
            let records = self.records(partition, &tasks).await?;
            let parents: Vec<TaskId> = records
                .iter()
                .map(|record| record.as_ref().and_then(|r| r.parent))
                .zip(&tasks)
                .map(|(p, t)| p.unwrap_or(*t))
                .collect();
            let parents = if records.iter().flatten().any(|record| record.parent.is_some()) {
                self.records(partition, &parents).await?
            } else {
                Vec::new()
            };
            let mut parents = parents.into_iter();
            for (oldest, record) in here.iter_mut().zip(records) {
                let parent = parents.next().flatten();
                let has_parent = record.as_ref().is_some_and(|record| record.parent.is_some());
                oldest.wanted = has_parent && parent.is_some_and(|parent| !parent.state.is_terminal());
                oldest.record = record;
            }
        }
        Ok(())
    }

    async fn take_step(&self, class: Class, oldest: &Oldest, step: &Step) -> Result<bool, StoreError> {
        let mut unit = Unit::default();
        if oldest.apart {
            unit.command("ZREM", class.by_time().to_vec(), [oldest.entry.clone()]);
        } else {
            unit.command("LREM", class.names().0.to_vec(), [oldest.entry.clone()]);
        }
        let mut removes = false;
        match (step, &oldest.record) {
            (Step::Remove, Some(record)) => {
                if let Some(group) = &record.extra.group {
                    self.leave_group(group, &[oldest.task]).await?;
                }
                removes = true;
                change::remove(&mut unit, oldest.task, record, self.manner());
            }
            (Step::Defer(until), Some(record)) => {
                unit.expect(oldest.task, record.stamp, false);
                let deferred = Record { at: Some(*until), stamp: self.stamp(), ..record.clone() };
                unit.write(oldest.task, &deferred, false, &[]);
                change::stand_by_time(&mut unit, class, oldest.task, *until);
            }
            _ => {}
        }
        let committed = self.groups.commit(oldest.partition, unit).await?;
        Ok(removes && committed.outcome == Outcome::Done)
    }

    /// Removes a dead letter, because a person says so.
    pub(super) async fn forget_dead(&self, task: TaskId) -> Result<bool, StoreError> {
        let partition = self.keys.of_task(task);
        for _ in 0..8 {
            let Some(record) = self.records(partition, &[task]).await?.pop().flatten() else { return Ok(false) };
            if record.state != StateName::Dead {
                return Ok(false);
            }
            if let Some(group) = &record.extra.group {
                self.leave_group(group, &[task]).await?;
            }
            let mut unit = Unit::default();
            change::remove(&mut unit, task, &record, self.manner());
            if self.groups.commit(partition, unit).await?.outcome == Outcome::Done {
                return Ok(true);
            }
        }
        Err(StoreError::Unavailable(format!("others change task {task} at the same time; try again")))
    }
}

/// A place in the line of those that finished: which task, and when.
fn place_of(entry: &[u8]) -> Result<(TaskId, Timestamp), StoreError> {
    let (Some(task), Some(at)) = (entry.first_chunk::<16>(), entry.last_chunk::<8>()) else {
        return Err(reply::damaged("a task that finished"));
    };
    Ok((TaskId::from_bytes(*task), Timestamp::from_millis(i64::from_be_bytes(*at))))
}

/// What is kept of the class at this place, in all partitions.
fn kept(agendas: &[Agenda], place: usize) -> Kept {
    let mut kept = Kept::default();
    for of in agendas.iter().filter_map(|agenda| agenda.kept.get(place)) {
        kept.tasks += of.tasks;
        kept.bytes += of.bytes;
    }
    kept
}

fn is_over(keep: Keep, kept: Kept, oldest: Timestamp, now: Timestamp) -> bool {
    let too_old = keep.age.is_some_and(|age| oldest.plus(age.get()) <= now);
    too_old || keep.count.is_some_and(|most| kept.tasks > most) || keep.bytes.is_some_and(|most| kept.bytes > most)
}

/// What to do with the oldest, one after the other, and when to look again.
fn plan(
    class: Class,
    keep: Keep,
    mut kept: Kept,
    waiting: Vec<Oldest>,
    room: usize,
    now: Timestamp,
) -> (Vec<(Oldest, Step)>, Option<Timestamp>) {
    let later = now.plus(FOR_PARENT);
    let mut steps = Vec::new();
    let mut seen = 0;
    let mut deferred = false;
    let mut waiting = VecDeque::from(waiting);
    while let Some(oldest) = waiting.pop_front() {
        let (record, more) = (oldest.record.as_ref(), oldest.more);
        let stands = record.filter(|record| Class::of(record.state) == Some(class) && record.at == Some(oldest.at));
        let Some(record) = stands else {
            steps.push((oldest, Step::Skip));
            if more {
                return (steps, Some(now));
            }
            continue;
        };
        if !is_over(keep, kept, oldest.at, now) {
            return (steps, keep.age.map(|age| oldest.at.plus(age.get())));
        }
        if seen >= room {
            return (steps, Some(now));
        }
        seen += 1;
        if !oldest.wanted {
            kept.tasks = kept.tasks.saturating_sub(1);
            kept.bytes = kept.bytes.saturating_sub(record.journal_bytes);
            steps.push((oldest, Step::Remove));
        } else if oldest.at >= later {
            return (steps, Some(later));
        } else {
            deferred = true;
            steps.push((oldest, Step::Defer(later)));
        }
        if more {
            return (steps, Some(now));
        }
    }
    (steps, deferred.then_some(later))
}
