//! Places of steps with `concurrency`: taken before a step does anything outside
//! of the journal, given back when nothing of it is under way. Only a step that
//! runs a child task keeps its place meanwhile, also while its own task waits.
//!
//! A place is named by the attempt that took it, so that nothing has to be known
//! of those that a lost worker held: whoever is refused gives them back
//! ([`Executor::free`]).

use std::time::Duration;

use common::clock::Timestamp;
use common::failure::Failure;
use common::id::{ReservationId, StepKey};
use common::journal::{Event, Run, WhenSpent};
use common::pipeline::model::{Pipeline, StepKind};
use common::store::meter::LONGEST_HOLD;
use common::store::{Charge, Reserve};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::grant::{FIRST_LOOK, MOMENT};
use super::perform::Done;
use super::{Execution, Executor, internal};
use crate::decide::{Performed, StepPlace};
use crate::quota::charge::step_places;

/// The most children whose places are looked after when a task is taken up or left.
const CHILDREN: usize = 100;

impl Executor {
    /// Takes a place for a step; waits for a moment if there is none.
    pub(super) fn take_place<'a>(
        &'a self,
        step: &StepKey,
        key: &str,
        asked: u64,
        run: &Run,
        pipeline: &Pipeline,
        now: Timestamp,
    ) -> BoxFuture<'a, Done> {
        let attempt = run.head.attempts;
        let max = pipeline.step(&step.step).and_then(|step| step.concurrency.as_ref()).map_or(1, |known| known.max);
        let wanted = step_places(pipeline, &step.step, key).and_then(|meter| {
            let name = meter.name.to_string();
            let charges = vec![Charge { meter, limit: u64::from(max), amount: 1 }];
            let id = place_id(run, step, asked, keeps_place(pipeline, step))?;
            Ok((Reserve { id, task: run.head.id, charges, lapses: LONGEST_HOLD }, name))
        });
        async move {
            let (reserve, name) = match wanted {
                Ok(wanted) => wanted,
                Err(error) => return Done::of(Performed::Prepared(Err(error))),
            };
            let (mut waited, mut look) = (Duration::ZERO, FIRST_LOOK);
            loop {
                let Some((why, wait)) = self.place(reserve.clone(), name.clone(), attempt).await else {
                    return Done::of(Performed::Placed);
                };
                if waited >= MOMENT {
                    let until = wait.map(|wait| now.plus(waited).plus(wait));
                    return Done::of(Performed::HeldBack { why, then: WhenSpent::Park, until });
                }
                tokio::time::sleep(look).await;
                waited += look;
                look *= 2;
            }
        }
        .boxed()
    }
}

impl Execution<'_> {
    /// Notes that a place is asked for.
    pub(super) fn ask_place(&mut self, step: &StepKey, key: &str) {
        self.places_asked += 1;
        self.places.insert(step.clone(), StepPlace { key: key.to_owned(), held: false });
        if let Ok(id) = place_id(self.journal.run(), step, self.places_asked, self.keeps_place(step)) {
            self.place_ids.insert(step.clone(), id);
        }
    }

    /// Takes in whether a place was given.
    pub(super) fn note_place(&mut self, step: &StepKey, performed: &Performed) {
        match (performed, self.places.get_mut(step)) {
            (Performed::Placed, Some(place)) => place.held = true,
            (_, Some(place)) if !place.held => {
                self.places.remove(step);
                self.place_ids.remove(step);
            }
            _ => {}
        }
    }

    /// Gives back the places of steps that these events end.
    pub(super) async fn leave_ended(&mut self, ended: &[StepKey]) {
        for step in ended {
            if self.keeps_place(step) && !self.places.contains_key(step) {
                // An earlier attempt took it.
                if let Ok(id) = kept_id(self.journal.run(), step) {
                    self.executor.give_back(id, Vec::new()).await;
                }
            }
            self.leave(step).await;
        }
    }

    /// Gives back the places of steps of which nothing is under way; whether there were any.
    pub(super) async fn leave_idle(&mut self) -> bool {
        let idle = |step: &StepKey| !self.in_flight.iter().any(|key| key.step.root() == *step);
        let idle: Vec<StepKey> =
            self.places.keys().filter(|step| idle(step) && !self.keeps_place(step)).cloned().collect();
        for step in &idle {
            self.leave(step).await;
        }
        !idle.is_empty()
    }

    /// Whether places would be given back if the task came to rest now, which others of its steps may want.
    pub(super) fn has_idle_places(&self) -> bool {
        self.places.keys().any(|step| !self.keeps_place(step))
    }

    /// Gives all places back that are not kept, at the end of an attempt.
    pub(super) async fn leave_places(&mut self) {
        let all: Vec<StepKey> = self.places.keys().filter(|step| !self.keeps_place(step)).cloned().collect();
        for step in &all {
            self.leave(step).await;
        }
        self.leave_children().await;
    }

    /// Gives back what is kept for children that are done, and what a lost worker did not come to give back; all, if
    /// the task itself is done.
    async fn leave_children(&mut self) {
        let run = self.journal.run();
        let over = run.head.state.is_terminal();
        if !over && run.head.attempts == 1 {
            return;
        }
        let mut done: Vec<(&StepKey, Option<Timestamp>)> = run
            .steps
            .iter()
            .filter(|(step, known)| self.keeps_place(step) && (over || known.is_done()))
            .map(|(step, known)| (step, known.finished_at))
            .collect();
        done.sort_by_key(|(_, finished)| std::cmp::Reverse(*finished));
        let ids: Vec<ReservationId> =
            done.into_iter().take(CHILDREN).filter_map(|(step, _)| kept_id(run, step).ok()).collect();
        for id in ids {
            self.executor.give_back(id, Vec::new()).await;
        }
    }

    /// How long until a step that waits for a place, or for something else, may try again.
    pub(super) fn next_try(&self) -> Duration {
        let (run, now) = (self.journal.run(), self.journal.now());
        let shares = |step: &StepKey| self.pipeline.step(&step.step).is_some_and(|known| known.concurrency.is_some());
        if !self.pipeline.steps.iter().any(|step| step.concurrency.is_some()) {
            return Duration::MAX;
        }
        let held = run.steps.iter().filter(|(step, _)| shares(step)).filter_map(|(_, known)| known.held.as_ref());
        held.filter(|held| held.until > now).map(|held| held.until.since(now)).min().unwrap_or(Duration::MAX)
    }

    fn keeps_place(&self, step: &StepKey) -> bool {
        keeps_place(self.pipeline, step)
    }

    async fn leave(&mut self, step: &StepKey) {
        self.places.remove(step);
        if let Some(id) = self.place_ids.remove(step) {
            self.executor.give_back(id, Vec::new()).await;
        }
    }
}

/// Whether a step has its place until its end: its work is done by another task.
fn keeps_place(pipeline: &Pipeline, step: &StepKey) -> bool {
    let known = pipeline.step(&step.step).filter(|known| known.concurrency.is_some());
    known.is_some_and(|known| matches!(known.kind, StepKind::Pipeline(_)))
}

/// The steps that some events end.
pub(super) fn ended(events: &[Event]) -> Vec<StepKey> {
    let ended = events.iter().filter_map(|event| match event {
        Event::StepFinished { step, .. } => Some(step.clone()),
        _ => None,
    });
    ended.collect()
}

/// The name of a place, the nth that is asked for in an attempt. One that was given back is not had again.
fn place_id(run: &Run, step: &StepKey, asked: u64, kept: bool) -> Result<ReservationId, Failure> {
    if kept {
        return kept_id(run, step);
    }
    let digest = blake3::hash(format!("place\n{step}\n{asked}").as_bytes()).to_hex();
    reservation(format!("{} {} {}", run.head.id, run.head.attempts, &digest[..32]))
}

/// The name of a place that outlasts attempts: the next one has what the last one took.
fn kept_id(run: &Run, step: &StepKey) -> Result<ReservationId, Failure> {
    let generation = run.step(step).map_or(0, |known| known.generation);
    let digest = blake3::hash(format!("{step}\n{generation}\n{}", run.replays).as_bytes()).to_hex();
    reservation(format!("{} child {}", run.head.id, &digest[..32]))
}

fn reservation(id: String) -> Result<ReservationId, Failure> {
    ReservationId::new(id).map_err(|error| internal(error.to_string()))
}
