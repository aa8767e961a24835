//! The place of a task among those with the same `concurrency` key: taken before
//! its first step, kept while it waits, given back at its end.

use std::time::Duration;

use common::failure::{Failure, FailureClass};
use common::id::ReservationId;
use common::journal::{Event, HoldBack, Run};
use common::pipeline::model::{Concurrency, Pipeline};
use common::pipeline::template::Scope;
use common::store::meter::LONGEST_HOLD;
use common::store::{Charge, Next, Refusal, Reserve, Reserved};
use common::task::{DeadReason, Wait, WaitOn};

use super::journal::{HeldJournal, Stopped};
use super::{Executor, internal};
use crate::decide::hold::next_try;
use crate::quota::charge::places;

/// For how long it is waited when the store cannot say.
const STORE: Duration = Duration::from_secs(5);

impl Executor {
    /// Whether the task has its place; if not, it has been parked until there is one.
    pub(super) async fn has_place(&self, journal: &mut HeldJournal, pipeline: &Pipeline) -> Result<bool, Stopped> {
        let Some(concurrency) = &pipeline.concurrency else { return Ok(true) };
        if journal.run().cancel.is_some() {
            return Ok(true);
        }
        let (reserve, name) = match wanted(journal.run(), pipeline, concurrency) {
            Ok(wanted) => wanted,
            Err(error) => {
                journal.append(Vec::new(), Next::Die { reason: DeadReason::Failed, error, step: None }).await?;
                return Ok(false);
            }
        };
        let Some((why, until)) = self.place(reserve, name, journal.run().head.attempts).await else { return Ok(true) };
        let (run, now) = (journal.run(), journal.now());
        let times = run.held(None).map_or(0, |held| held.times);
        let until = until.map_or_else(|| next_try(&why, None, times, now, self.entropy.unit()), |wait| now.plus(wait));
        let wait = Wait { on: vec![WaitOn::RateLimit { step: None }], until: Some(until) };
        journal.append(vec![Event::HeldBack { step: None, why, until }], Next::Park(wait)).await?;
        Ok(false)
    }

    /// Takes a place; else why there is none, and for how long to wait, if that is known.
    pub(super) async fn place(
        &self,
        reserve: Reserve,
        name: String,
        attempt: u32,
    ) -> Option<(HoldBack, Option<Duration>)> {
        let task = reserve.task;
        // Once more, if somebody holds a place who no longer needs it.
        for _ in 0..2 {
            match self.store.reserve(reserve.clone()).await {
                Ok(Reserved::Granted(_)) => return None,
                Ok(Reserved::Refused(refusal)) => {
                    self.tell(&refusal.called).await;
                    if !self.free(&refusal, task, attempt).await {
                        let Refusal { usage, .. } = refusal;
                        let why = HoldBack::RateLimit { rate_limit: name, used: usage.used, limit: usage.limit };
                        return Some((why, None));
                    }
                }
                Err(error) => {
                    tracing::warn!(%task, %error, "no place can be taken; the task waits");
                    let why = HoldBack::Breaker { of: "store".to_owned(), class: FailureClass::Unavailable };
                    return Some((why, Some(STORE)));
                }
            }
        }
        let why = HoldBack::RateLimit { rate_limit: name, used: 0, limit: 0 };
        Some((why, Some(STORE)))
    }

    /// Gives the place of a task back that is done.
    pub(super) async fn leave_place(&self, run: &Run, pipeline: &Pipeline) {
        if pipeline.concurrency.is_none() || !run.head.state.is_terminal() {
            return;
        }
        // Whoever wants it finds out by itself if this is lost.
        if let Ok(id) = place_id(run) {
            self.give_back(id, Vec::new()).await;
        }
    }
}

fn wanted(run: &Run, pipeline: &Pipeline, concurrency: &Concurrency) -> Result<(Reserve, String), Failure> {
    let key = concurrency.key.render_text(&Scope::of_input(&run.input))?;
    let meter = places(pipeline, &key)?;
    let name = meter.name.to_string();
    let charges = vec![Charge { meter, limit: u64::from(concurrency.max), amount: 1 }];
    Ok((Reserve { id: place_id(run)?, task: run.head.id, charges, lapses: LONGEST_HOLD }, name))
}

/// Each life of the task takes its own place: one that was given back is not had again.
fn place_id(run: &Run) -> Result<ReservationId, Failure> {
    ReservationId::new(format!("{} place {}", run.head.id, run.replays)).map_err(|error| internal(error.to_string()))
}
