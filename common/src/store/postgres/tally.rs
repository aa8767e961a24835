//! Sums over tasks (a queue's depth, a batch's progress, what retention keeps):
//! gathered while a transaction changes tasks, and written by one statement
//! before it commits. So a figure costs O(queues) to read, and a group of a
//! thousand submits changes one row instead of a thousand. Pure, but for the
//! statement.

use std::collections::BTreeMap;

use crate::task::StateName;

/// Adds to the sums of a slot.
pub(super) const ADD: &str = "INSERT INTO counts (kind, name, what, slot, n, amount) \
     SELECT kind, name, what, $1::int, n, amount \
     FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::float8[]) AS u(kind, name, what, n, amount) \
     ON CONFLICT (kind, name, what, slot) \
     DO UPDATE SET n = counts.n + excluded.n, amount = counts.amount + excluded.amount";

/// What a batch counts beside the states of its tasks.
pub(super) const KEPT: &str = "kept";
/// Rows whose task existed before.
pub(super) const DUPLICATES: &str = "duplicates";
/// Rows that made no task.
pub(super) const REJECTED: &str = "rejected";
/// What its tasks have cost.
pub(super) const COST: &str = "cost";

/// What a done task counts for in retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    pub(super) const fn as_str(self) -> &'static str {
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

/// Changes that are not written yet. Ordered, so that two transactions that share a slot lock rows in one order.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<(&'static str, String, &'static str), (i64, f64)>);

/// The arrays of [`ADD`].
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) kinds: Vec<&'static str>,
    pub(super) names: Vec<String>,
    pub(super) whats: Vec<&'static str>,
    pub(super) counts: Vec<i64>,
    pub(super) amounts: Vec<f64>,
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

    /// Retention removed a task: its batch still counts it under its last state.
    pub(super) fn remove(&mut self, place: Place<'_>) {
        self.count(Place { batch: None, ..place }, -1);
        if let Some(batch) = place.batch {
            self.add("batch", batch, KEPT, -1, 0.0);
        }
    }

    /// Something of a batch that is not the state of a task.
    pub(super) fn batch(&mut self, batch: &str, what: &'static str, n: i64, amount: f64) {
        self.add("batch", batch, what, n, amount);
    }

    fn count(&mut self, place: Place<'_>, sign: i64) {
        self.add("queue", place.queue, place.state.as_str(), sign, 0.0);
        if let Some(batch) = place.batch {
            self.add("batch", batch, place.state.as_str(), sign, 0.0);
        }
        if let Some(class) = Class::of(place.state) {
            let bytes = i64::try_from(place.journal_bytes).unwrap_or(i64::MAX);
            self.add("retained", class.as_str(), "tasks", sign, 0.0);
            self.add("retained", class.as_str(), "bytes", sign * bytes, 0.0);
        }
    }

    fn add(&mut self, kind: &'static str, name: &str, what: &'static str, n: i64, amount: f64) {
        let sum = self.0.entry((kind, name.to_owned(), what)).or_default();
        sum.0 += n;
        sum.1 += amount;
    }

    /// What is to be written.
    pub(super) fn into_columns(self) -> Columns {
        let mut columns = Columns::default();
        for ((kind, name, what), (n, amount)) in self.0 {
            if n != 0 || amount != 0.0 {
                columns.kinds.push(kind);
                columns.names.push(name);
                columns.whats.push(what);
                columns.counts.push(n);
                columns.amounts.push(amount);
            }
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_not_written() {
        let mut tally = Tally::default();
        let place = |state| Place { queue: "q", batch: Some("b"), state, journal_bytes: 10 };
        tally.enter(place(StateName::Ready));
        tally.leave(place(StateName::Ready));
        tally.enter(place(StateName::Succeeded));
        let columns = tally.into_columns();
        let told: Vec<_> = columns.kinds.iter().zip(&columns.whats).zip(&columns.counts).collect();
        assert_eq!(
            told,
            [
                ((&"batch", &"succeeded"), &1),
                ((&"queue", &"succeeded"), &1),
                ((&"retained", &"bytes"), &10),
                ((&"retained", &"tasks"), &1),
            ]
        );
    }

    #[test]
    fn a_batch_remembers_what_retention_removed() {
        let mut tally = Tally::default();
        tally.remove(Place { queue: "q", batch: Some("b"), state: StateName::Dead, journal_bytes: 7 });
        let columns = tally.into_columns();
        let batch: Vec<_> = columns.kinds.iter().zip(&columns.whats).filter(|(kind, _)| **kind == "batch").collect();
        assert_eq!(batch, [(&"batch", &KEPT)]);
    }
}
