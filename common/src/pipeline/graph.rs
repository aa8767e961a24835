//! The DAG of a pipeline's steps: who needs whom.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Step;
use crate::id::StepId;

/// Who needs whom, by the steps' ids.
#[derive(Debug)]
pub(crate) struct Graph<'s> {
    needs: BTreeMap<&'s StepId, &'s [StepId]>,
}

impl<'s> Graph<'s> {
    pub(crate) fn of(steps: impl Iterator<Item = &'s Step>) -> Self {
        Self { needs: steps.map(|step| (&step.id, step.needs.as_slice())).collect() }
    }

    /// All that a step needs, directly or not. Without the step itself, unless it is in a cycle.
    pub(crate) fn ancestors(&self, step: &'s StepId) -> BTreeSet<&'s StepId> {
        let mut found = BTreeSet::new();
        let mut open = vec![step];
        while let Some(step) = open.pop() {
            let needs = self.needs.get(step).copied().unwrap_or_default();
            open.extend(needs.iter().filter(|need| found.insert(*need)));
        }
        found
    }

    /// A cycle, from a step through those that it needs back to itself.
    pub(crate) fn cycle(&self) -> Option<Vec<StepId>> {
        let mut done = BTreeSet::new();
        for start in self.needs.keys().copied() {
            let mut path: Vec<(&StepId, usize)> = vec![(start, 0)];
            while let Some((step, next)) = path.pop() {
                let needs = self.needs.get(step).copied().unwrap_or_default();
                let Some(need) = needs.get(next).filter(|_| !done.contains(step)) else {
                    done.insert(step);
                    continue;
                };
                path.push((step, next + 1));
                if let Some(from) = path.iter().position(|(on_path, _)| *on_path == need) {
                    let mut cycle: Vec<StepId> = path[from..].iter().map(|(step, _)| (*step).clone()).collect();
                    cycle.push(need.clone());
                    return Some(cycle);
                }
                path.push((need, 0));
            }
        }
        None
    }
}
