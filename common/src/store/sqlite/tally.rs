//! Sums over tasks (a queue's depth, a batch's progress, what retention keeps):
//! gathered while a transaction changes tasks, and written once before it
//! commits. So a figure costs O(queues) to read, and a group of a thousand
//! submits changes one row instead of a thousand.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::task::StateName;

/// What a done task counts for in retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Finished,
    Dead,
}

impl Class {
    pub(super) const ALL: [Self; 2] = [Self::Finished, Self::Dead];

    pub(super) const fn of(state: StateName) -> Option<Self> {
        match state {
            StateName::Succeeded | StateName::Cancelled => Some(Self::Finished),
            StateName::Dead => Some(Self::Dead),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Dead => "dead",
        }
    }
}

/// Where a task counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) queue: &'a str,
    pub(super) batch: Option<&'a str>,
    pub(super) state: StateName,
    pub(super) journal_bytes: u64,
}

#[derive(Debug, Default)]
struct BatchChange {
    tasks: i64,
    cost_usd: f64,
    states: HashMap<StateName, i64>,
}

/// Changes that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Tally {
    queues: HashMap<String, HashMap<StateName, i64>>,
    batches: HashMap<String, BatchChange>,
    retained: HashMap<Class, (i64, i64)>,
}

impl Tally {
    /// A task came to a place.
    pub(super) fn enter(&mut self, place: Place<'_>) {
        self.count(place, 1);
    }

    /// A task left a place.
    pub(super) fn leave(&mut self, place: Place<'_>) {
        self.count(place, -1);
    }

    /// A batch got a task, lost one to retention, or its tasks cost more.
    pub(super) fn batch(&mut self, batch: &str, tasks: i64, cost_usd: f64) {
        let change = self.batches.entry(batch.to_owned()).or_default();
        change.tasks += tasks;
        change.cost_usd += cost_usd;
    }

    /// Retention removed a task: its batch still counts it under its last state.
    pub(super) fn remove(&mut self, place: Place<'_>) {
        self.count(Place { batch: None, ..place }, -1);
        if let Some(batch) = place.batch {
            self.batch(batch, -1, 0.0);
        }
    }

    fn count(&mut self, place: Place<'_>, sign: i64) {
        *self.queues.entry(place.queue.to_owned()).or_default().entry(place.state).or_default() += sign;
        if let Some(batch) = place.batch {
            *self.batches.entry(batch.to_owned()).or_default().states.entry(place.state).or_default() += sign;
        }
        if let Some(class) = Class::of(place.state) {
            let (tasks, bytes) = self.retained.entry(class).or_default();
            *tasks += sign;
            *bytes += sign * i64::try_from(place.journal_bytes).unwrap_or(i64::MAX);
        }
    }

    /// How many tasks of a queue are ready or scheduled.
    pub(super) fn depth(&self, db: &Connection, queue: &str) -> rusqlite::Result<u64> {
        let mut depth: i64 = db
            .prepare_cached(
                "SELECT coalesce(sum(tasks), 0) FROM queue_counts WHERE queue = ?1 AND state IN ('ready', 'scheduled')",
            )?
            .query_row([queue], |row| row.get(0))?;
        if let Some(changes) = self.queues.get(queue) {
            depth += [StateName::Ready, StateName::Scheduled].iter().filter_map(|s| changes.get(s)).sum::<i64>();
        }
        Ok(u64::try_from(depth).unwrap_or(0))
    }

    /// How many done tasks are kept, and the bytes of their journals.
    pub(super) fn retained(&self, db: &Connection, class: Class) -> rusqlite::Result<(u64, u64)> {
        let (tasks, bytes): (i64, i64) = db
            .prepare_cached("SELECT tasks, bytes FROM retained WHERE class = ?1")?
            .query_row([class.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .unwrap_or_default();
        let (more_tasks, more_bytes) = self.retained.get(&class).copied().unwrap_or_default();
        let sum = |a: i64, b: i64| u64::try_from(a.saturating_add(b)).unwrap_or(0);
        Ok((sum(tasks, more_tasks), sum(bytes, more_bytes)))
    }

    /// Writes the changes: before the transaction commits.
    pub(super) fn write(self, db: &Connection) -> rusqlite::Result<()> {
        for (queue, states) in self.queues {
            for (state, tasks) in states.into_iter().filter(|(_, tasks)| *tasks != 0) {
                db.prepare_cached(
                    "INSERT INTO queue_counts (queue, state, tasks) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks",
                )?
                .execute(params![queue, state.as_str(), tasks])?;
            }
        }
        for (batch, change) in self.batches {
            if change.tasks != 0 || change.cost_usd != 0.0 {
                db.prepare_cached("UPDATE batches SET tasks = tasks + ?2, cost_usd = cost_usd + ?3 WHERE id = ?1")?
                    .execute(params![batch, change.tasks, change.cost_usd])?;
            }
            for (state, tasks) in change.states.into_iter().filter(|(_, tasks)| *tasks != 0) {
                db.prepare_cached(
                    "INSERT INTO batch_counts (batch, state, tasks) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks",
                )?
                .execute(params![batch, state.as_str(), tasks])?;
            }
        }
        for (class, (tasks, bytes)) in self.retained {
            if tasks != 0 || bytes != 0 {
                db.prepare_cached(
                    "INSERT INTO retained (class, tasks, bytes) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks, bytes = bytes + excluded.bytes",
                )?
                .execute(params![class.as_str(), tasks, bytes])?;
            }
        }
        Ok(())
    }
}
