//! What guards found, in the fold: as much as is known of it.

use super::{Run, StepRun};
use crate::id::{StepId, StepKey};
use crate::journal::{GuardThen, GuardTrip, Judging};

impl Run {
    /// What guards found in a step, its items and its subagents.
    pub fn trips<'a>(&'a self, step: &StepId) -> impl Iterator<Item = (&'a StepKey, &'a GuardTrip)> + use<'a> {
        let of_step = {
            let step = step.clone();
            move |key: &StepKey| key.step == step
        };
        let known = self.steps.range(StepKey::of(step.clone())..).take_while(move |(key, _)| of_step(key));
        known.flat_map(|(key, step)| step.trips.iter().map(move |trip| (key, trip)))
    }
}

impl Run {
    /// The judges of what an agent was told and came to, with what they were asked.
    pub fn judges<'a>(
        &'a self,
        of: &StepKey,
    ) -> impl Iterator<Item = (&'a StepKey, &'a StepRun, &'a Judging)> + use<'a> {
        let lineage = of.lineage.clone();
        self.family(of).filter_map(move |(key, step)| {
            let own = key.lineage.split_last().is_some_and(|(_, above)| above == lineage);
            Some((key, step, step.judging.as_ref().filter(|_| own)?))
        })
    }
}

impl StepRun {
    /// What the same guard found in the same place.
    pub(super) fn trip(&self, of: &GuardTrip) -> Option<&GuardTrip> {
        self.trips.iter().find(|trip| trip.guard == of.guard && trip.on == of.on && trip.call == of.call)
    }

    pub(super) fn trip_guard(&mut self, trip: &GuardTrip) {
        // What a person said before was about something else.
        if trip.then == GuardThen::Ask {
            self.approval = None;
        }
        self.trips.push(trip.clone());
    }
}
