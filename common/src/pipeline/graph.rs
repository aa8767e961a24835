//! The DAG of a pipeline's steps: who needs whom.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Step, StepKind};
use crate::id::StepId;

/// Who needs whom, by the steps' ids.
#[derive(Debug)]
pub(crate) struct Graph<'s> {
    needs: BTreeMap<&'s StepId, Vec<&'s StepId>>,
}

impl<'s> Graph<'s> {
    /// A step with `repeat` is done after its steps, which start after what it needs.
    pub(crate) fn of(steps: impl Iterator<Item = &'s Step>) -> Self {
        let steps: Vec<&Step> = steps.collect();
        let own: BTreeMap<&StepId, &Step> = steps.iter().map(|step| (&step.id, *step)).collect();
        let needs = |step: &'s Step| {
            let members = match &step.kind {
                StepKind::Repeat(repeat) => repeat.steps.as_slice(),
                _ => &[],
            };
            let of_group = step.within.as_ref().and_then(|group| own.get(group)).map_or(&[][..], |group| &group.needs);
            step.needs.iter().chain(members).chain(of_group).collect()
        };
        Self { needs: steps.iter().map(|step| (&step.id, needs(step))).collect() }
    }

    /// All that a step needs, directly or not. Without the step itself, unless it is in a cycle.
    pub(crate) fn ancestors(&self, step: &'s StepId) -> BTreeSet<&'s StepId> {
        let mut found = BTreeSet::new();
        let mut open = vec![step];
        while let Some(step) = open.pop() {
            let needs = self.needs.get(step).map(Vec::as_slice).unwrap_or_default();
            open.extend(needs.iter().copied().filter(|need| found.insert(*need)));
        }
        found
    }

    /// A cycle, from a step through those that it needs back to itself.
    pub(crate) fn cycle(&self) -> Option<Vec<StepId>> {
        let mut done = BTreeSet::new();
        for start in self.needs.keys().copied() {
            let mut path: Vec<(&StepId, usize)> = vec![(start, 0)];
            while let Some((step, next)) = path.pop() {
                let needs = self.needs.get(step).map(Vec::as_slice).unwrap_or_default();
                let Some(need) = needs.get(next).copied().filter(|_| !done.contains(step)) else {
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
