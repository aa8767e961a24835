//! Leave to make a call: its worst case is reserved in the store before, and
//! settled after by what it really used. Decides nothing; what a call counts for
//! is said by [`crate::quota`].

use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use common::id::{EntryId, ReservationId, StepKey, TaskId};
use common::journal::{CallRecord, Event, HoldBack, Run, WhenSpent};
use common::pipeline::model::Pipeline;
use common::store::meter::MOST_CHARGES;
use common::store::{Holder, Meter, Refusal, Reserve, Reserved, Settle, Usage};
use common::task::{Head, Signal, StateName};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::perform::{Done, remaining};
use super::{Executor, internal};
use crate::batching;
use crate::decide::{Performed, Way, next_entry};
use crate::quota::charge::{Counted, Demand, Quota, Unit, calls};
use crate::quota::{Grant, Used, estimate, subject};
use crate::tools::ToolError;

/// What is waited for in the task's slot. For anything longer, it gives the slot back.
pub(super) const MOMENT: Duration = Duration::from_secs(1);
/// The first wait for somebody else to make room; each time twice as long, while they are a moment together.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(30);
/// How often a breaker is waited for.
const TRIES: u32 = 3;
/// For how long a reservation is held beyond the longest that its call may take.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a provider takes for a batch at most, and some time to tell of it.
const LONGEST_BATCH: Duration = Duration::from_secs(26 * 3_600);
/// How long a settlement may take: what is not settled lapses.
const SETTLEMENT: Duration = Duration::from_secs(5);
/// The most holders of places that are looked after.
const HOLDERS: usize = 16;

/// A call that is over.
pub(super) struct Over<'a> {
    /// The leave that was given for it.
    pub grant: Option<Grant>,
    /// What of the outside it was about.
    pub subject: Option<String>,
    /// The calls of the model that it was one of.
    pub model: Option<Meter>,
    /// For how long the model takes no more of them, if the answer says so.
    pub pause: Option<Duration>,
    /// What came of it.
    pub performed: &'a Performed,
}

/// What is asked of the store for a call.
struct Request {
    /// The calls of the model that it is one of, where a provider may ask for a pause.
    model: Option<Result<Meter, Failure>>,
    subject: Option<String>,
    /// A call whose model can go on without it.
    dispensable: Option<CallRecord>,
    counted: Result<Vec<Counted>, Failure>,
    id: Result<ReservationId, Failure>,
    task: TaskId,
    attempt: u32,
    lapses: Duration,
    outlives: bool,
    now: Timestamp,
}

impl Request {
    /// The same for a request that goes out in a model batch: nobody is called now, and it counts for money only.
    fn in_batch(self, entry: &EntryId, until: Timestamp) -> Self {
        let of_money = |counted: Vec<Counted>| {
            counted.into_iter().filter(|counted| matches!(counted.of, Quota::Budget(_))).collect()
        };
        Self {
            subject: None,
            counted: self.counted.map(of_money),
            id: batching::reservation(entry).map_err(|error| internal(error.to_string())),
            // Also an answer that nobody waits for any more is settled.
            lapses: until.since(self.now) + LONGEST_BATCH,
            outlives: true,
            ..self
        }
    }
}

impl Executor {
    /// Asks for leave to make a call, or for the next turn of a conversation.
    pub(super) fn reserve<'a>(
        &'a self,
        step: &StepKey,
        call: Option<&CallRecord>,
        way: Way,
        run: &Run,
        pipeline: &Pipeline,
        now: Timestamp,
    ) -> BoxFuture<'a, Done> {
        let workspace = self.workspace(run.head.id);
        let conversation = run.step(step).and_then(|known| known.conversation.as_ref());
        let mut model = None;
        let demand = match (call, conversation) {
            (Some(call), _) => Demand::Tool { name: &call.tool, arguments: &call.arguments, workspace: &workspace },
            (None, Some(conversation)) => {
                let (head, models) = (&conversation.head, &self.outside.models);
                let direct = way == Way::Direct;
                let price = if direct { models.price(head, now) } else { models.price_in_batch(head, now) };
                let worst = estimate::worst(conversation, price);
                // What a provider says of calls does not hold for batches.
                model = (direct && !models.is_rehearsed(&head.provider)).then(|| calls(&head.provider, &head.model));
                Demand::Model { provider: &head.provider, alias: &head.alias, worst }
            }
            (None, None) => {
                let error = internal("there is no conversation to go on with");
                return async move { Done::of(Performed::Prepared(Err(error))) }.boxed();
            }
        };
        let (subject, counted) = (subject(demand), self.quotas.charges(run, pipeline, step, demand));
        let usual = Request {
            model,
            subject,
            counted,
            dispensable: call.filter(|_| conversation.is_some()).cloned(),
            id: reservation_id(run, step, call),
            task: run.head.id,
            attempt: run.head.attempts,
            lapses: remaining(pipeline.step(&step.step), run, step) + MARGIN,
            outlives: false,
            now,
        };
        let request = match way {
            Way::Direct => usual,
            Way::Batch { until } => usual.in_batch(&next_entry(run, step), until),
        };
        async move {
            match self.ask(request).await {
                Ok((grant, notes)) => Done { grant: Some(grant), ..Done::of(Performed::Reserved(notes)) },
                Err(performed) => Done::of(performed),
            }
        }
        .boxed()
    }

    async fn ask(&self, request: Request) -> Result<(Grant, Vec<Event>), Performed> {
        let failed = |error: Failure| Performed::Prepared(Err(error));
        if let Some(subject) = &request.subject {
            self.past_breaker(subject, request.dispensable.as_ref()).await?;
        }
        if let Some(model) = request.model {
            self.past_pause(&model.map_err(failed)?).await?;
        }
        let counted = request.counted.map_err(failed)?;
        if counted.is_empty() {
            return Ok((Grant { id: None, counted, begun: false, outlives: request.outlives }, Vec::new()));
        }
        if counted.len() > MOST_CHARGES {
            let message = format!(
                "the call counts for {} budgets and rate limits, and {MOST_CHARGES} is the most; see `budgets` and `rate_limits` in teamster.yaml",
                counted.len()
            );
            return Err(failed(Failure::new(FailureClass::Configuration, message)));
        }
        let id = request.id.map_err(failed)?;
        let charges: Vec<_> = counted.iter().map(|counted| counted.charge.clone()).collect();
        let (mut waited, mut look) = (Duration::ZERO, FIRST_LOOK);
        loop {
            let reserve =
                Reserve { id: id.clone(), task: request.task, charges: charges.clone(), lapses: request.lapses };
            let refusal = match self.store.reserve(reserve).await {
                Ok(Reserved::Granted(usages)) => {
                    let notes = notes(&counted, &usages);
                    return Ok((Grant { id: Some(id), counted, begun: false, outlives: request.outlives }, notes));
                }
                Ok(Reserved::Refused(refusal)) => refusal,
                Err(error) => {
                    tracing::warn!(task = %request.task, %error, "nothing can be reserved; the call waits");
                    let why = HoldBack::Breaker { of: "store".to_owned(), class: FailureClass::Unavailable };
                    return Err(Performed::HeldBack { why, then: WhenSpent::Park, until: None });
                }
            };
            self.tell(&refusal.called).await;
            if waited.is_zero() && self.free(&refusal, request.task, request.attempt).await {
                waited += FIRST_LOOK;
                continue;
            }
            let wait = refusal.until.map_or(look, |until| until.since(request.now.plus(waited)));
            if waited + wait > MOMENT {
                return Err(held_back(&counted, refusal));
            }
            tokio::time::sleep(wait).await;
            waited += wait.max(FIRST_LOOK);
            look *= 2;
        }
    }

    /// Waits for a moment if the other side is to be left alone; if for longer, says so. What is broken is not waited
    /// for where a model can go on without it.
    async fn past_breaker(&self, subject: &str, dispensable: Option<&CallRecord>) -> Result<(), Performed> {
        let mut tries = 0;
        while let Err(left) = self.quotas.breakers.admit(subject, self.clock.now()) {
            let is_busy = matches!(left.class, FailureClass::RateLimited | FailureClass::Billing);
            if let Some(call) = dispensable.filter(|_| !is_busy) {
                let message = format!(
                    "{} has failed again and again ({}) and is left alone until {}: this call was not made; go on without it, \
                     or try again later",
                    call.tool, left.class, left.until
                );
                return Err(Performed::LeftAlone { call: call.clone(), error: Failure::new(left.class, message) });
            }
            let wait = left.until.since(self.clock.now());
            tries += 1;
            if wait > MOMENT || tries >= TRIES {
                let why = HoldBack::Breaker { of: subject.to_owned(), class: left.class };
                return Err(Performed::HeldBack { why, then: WhenSpent::Park, until: Some(left.until) });
            }
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Gives places back that nobody uses any more; whether there was any of that.
    pub(super) async fn free(&self, refusal: &Refusal, task: TaskId, attempt: u32) -> bool {
        let mut freed = false;
        for holder in refusal.holders.iter().take(HOLDERS) {
            if self.is_abandoned(holder, task, attempt).await {
                tracing::info!(reservation = %holder.id, task = %holder.task, "a place is given back that nobody uses");
                freed |= self.give_back(holder.id.clone(), Vec::new()).await;
            }
        }
        freed
    }

    /// Whether nobody uses a place any more: its task is done, or it was taken by an attempt that is over. One that names
    /// no attempt outlasts them.
    async fn is_abandoned(&self, holder: &Holder, task: TaskId, attempt: u32) -> bool {
        let by = attempt_of(&holder.id);
        if holder.task == task {
            return by.is_some_and(|other| other != attempt);
        }
        let is_over = |head: Head| {
            let at_work = |by: u32| head.attempts == by && head.state.name() == StateName::Running;
            head.state.is_terminal() || by.is_some_and(|by| !at_work(by))
        };
        match self.store.head(holder.task).await {
            Ok(head) => head.is_none_or(is_over),
            Err(_) => false,
        }
    }

    /// Settles what was reserved; whether the store knew of it.
    pub(super) async fn give_back(&self, id: ReservationId, spent: Vec<(Meter, u64)>) -> bool {
        match tokio::time::timeout(SETTLEMENT, self.store.settle(Settle { id: id.clone(), spent })).await {
            Ok(Ok(settled)) => {
                self.tell(&settled.called).await;
                settled.found
            }
            Ok(Err(error)) => {
                tracing::warn!(reservation = %id, %error, "what was reserved counts as used until it lapses");
                false
            }
            Err(_) => {
                tracing::warn!(reservation = %id, "what was reserved counts as used until it lapses: the store is slow");
                false
            }
        }
    }

    /// Tells tasks that it is their turn. One that is missed asks by itself after a while.
    pub(super) async fn tell(&self, tasks: &[TaskId]) {
        for task in tasks {
            if let Err(error) = self.store.signal(*task, Signal::Room).await {
                tracing::debug!(%task, %error, "its turn has come, and it cannot be told");
            }
        }
    }

    /// Takes in what came of a call: what it used, and how the other side is.
    pub(super) async fn settle(&self, over: Over<'_>, now: Timestamp) {
        let Over { grant, subject, model, pause, performed } = over;
        let (used, failure) = match performed {
            Performed::Model { answer: Ok(call), .. } => (Used::Model(call.usage), None),
            Performed::Model { answer: Err(error), .. } if may_be_billed(error.class) => (Used::Unknown, Some(error)),
            // Nothing came of it, so nothing is billed.
            Performed::Model { answer: Err(error), .. } => {
                (Used::Model(common::journal::Usage::default()), Some(error))
            }
            Performed::Call { answer: Ok(_), .. } => (Used::Unknown, None),
            Performed::Call { answer: Err(ToolError::Lost(error) | ToolError::Failed(error)), .. } => {
                (Used::Unknown, Some(error))
            }
            _ => return,
        };
        if let Some(subject) = subject {
            self.quotas.breakers.note(&subject, failure, self.clock.now());
        }
        let asked = failure.filter(|failure| failure.class == FailureClass::RateLimited);
        let asked = asked.and_then(|failure| failure.retry_after_ms).map(Duration::from_millis);
        if let (Some(model), Some(pause)) = (&model, asked.max(pause)) {
            self.hold_back(model, now.plus(pause)).await;
        }
        let Some(grant) = grant else { return };
        if let Some(asked) = asked {
            // Those who count for the same rate limits wait too.
            let limits = grant.counted.iter().filter(|counted| matches!(counted.of, Quota::RateLimit(_)));
            for counted in limits.filter(|counted| counted.unit != Unit::Places) {
                self.hold_back(&counted.charge.meter, now.plus(asked)).await;
            }
        }
        let spent = grant.spent(used);
        if let Some(id) = grant.id {
            self.give_back(id, spent).await;
        }
    }
}

/// Names what is reserved for a call: by the attempt, so that what a lost worker may have spent stays counted.
fn reservation_id(run: &Run, step: &StepKey, call: Option<&CallRecord>) -> Result<ReservationId, Failure> {
    let known = run.step(step);
    let (generation, tries) = known.map_or((0, 0), |known| (known.generation, known.failed_tries));
    // A summary is a call beside the turns, and another model has tries of its own.
    let conversation = known.and_then(|known| known.conversation.as_ref());
    let turns = conversation.map_or([0; 3], |known| {
        let summaries = known.compacted.as_ref().map_or(0, |last| last.number as usize);
        [known.turns.len(), summaries, known.changes.len()]
    });
    let call = call.map_or("", |call| call.call.as_str());
    let digest = blake3::hash(format!("{step}\n{generation}\n{turns:?}\n{call}\n{tries}").as_bytes()).to_hex();
    let id = format!("{} {} {}", run.head.id, run.head.attempts, &digest[..32]);
    ReservationId::new(id).map_err(|error| internal(error.to_string()))
}

/// The attempt that reserved something for a call.
fn attempt_of(id: &ReservationId) -> Option<u32> {
    id.as_str().split(' ').nth(1)?.parse().ok()
}

/// The levels of budgets that were passed.
fn notes(counted: &[Counted], usages: &[Usage]) -> Vec<Event> {
    let news = counted.iter().zip(usages).filter_map(|(counted, usage)| match (&counted.of, usage.passed) {
        (Quota::Budget(budget), Some(percent)) => {
            tracing::warn!(budget, percent, used = usage.used, limit = usage.limit, "a budget is used so far");
            Some(Event::BudgetNoted { budget: budget.clone(), percent, used: usage.used, limit: usage.limit })
        }
        _ => None,
    });
    news.collect()
}

fn held_back(counted: &[Counted], refusal: Refusal) -> Performed {
    let Refusal { usage, until, .. } = refusal;
    let refused = counted.iter().find(|counted| counted.charge.meter == usage.meter);
    let Some(counted) = refused else {
        return Performed::Prepared(Err(internal("a meter was refused that was not asked")));
    };
    let why = counted.of.held_back(usage.used, usage.limit);
    Performed::HeldBack { why, then: counted.then, until }
}

/// Whether a failed call may have to be paid: it broke off, and perhaps only its answer was lost.
const fn may_be_billed(class: FailureClass) -> bool {
    matches!(class, FailureClass::Connection | FailureClass::Timeout | FailureClass::Protocol | FailureClass::Internal)
}
