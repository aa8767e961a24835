//! Opening and leaving sessions: reading what the store keeps of one, and replacing
//! it for as long as others do so at the same time.

use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use common::id::{SessionName, StepKey, TaskId};
use common::journal::{Event, Run, StepRun};
use common::store::session::{Member, Session};
use common::store::{KeepSession, StoreError};
use common::task::Signal;
use serde_json::Value;

use super::{Executor, internal};

/// How often a change is tried anew because another one came in between.
const TRIES: usize = 20;
/// How long a task waits for a session before it looks for itself. It is woken when the session is left; this is for a
/// holder that came to its end in another way.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How many of those who wait are woken when a session is left: the first may be gone.
const WOKEN: usize = 3;
/// The most events of a journal that are read to learn what became of a holder.
const MOST_EVENTS: usize = 100_000;

/// What a step needs to open its session.
pub(super) struct Opening {
    task: TaskId,
    step: StepKey,
    session: SessionName,
    now: Timestamp,
    /// Whether a replay made the step start from nothing.
    replayed: bool,
}

/// What a step leaves to the next task.
pub(super) struct Closing {
    member: Member,
    session: SessionName,
    history: Vec<Value>,
    /// Whose conversation it was when it was opened.
    from: Option<TaskId>,
}

impl Opening {
    pub(super) fn of(run: &Run, step: StepKey, session: SessionName) -> Self {
        let known = run.step(&step);
        let replayed = known.is_some_and(|known| known.generation > 0 && known.before.is_none());
        Self { task: run.head.id, step, session, now: run.head.updated_at, replayed }
    }
}

impl Closing {
    pub(super) fn of(run: &Run, step: StepKey) -> Option<Self> {
        let known = run.step(&step)?;
        let (session, conversation) = (known.session.as_ref()?, known.conversation.as_ref()?);
        let member = Member { task: run.head.id, step, at: run.head.updated_at };
        Some(Self { member, session: session.name.clone(), history: conversation.transcript(), from: session.from })
    }

    pub(super) const fn session(&self) -> &SessionName {
        &self.session
    }
}

impl Executor {
    /// Makes a session this step's, or stands in line for it.
    pub(super) async fn open_session(&self, opening: Opening) -> Result<Event, Failure> {
        let Opening { task, step, session: name, now, replayed } = opening;
        for _ in 0..TRIES {
            let (version, mut session) = self.session(&name).await?;
            let holder = session.held_by_other(task, &step).cloned();
            if let Some(holder) = holder
                && !self.is_over(&holder).await?
            {
                if session.wait(task) && !self.replace(&name, version, &session).await? {
                    continue;
                }
                let until = now.plus(LOOK_AGAIN);
                return Ok(Event::SessionAwaited { step, session: name, holder: holder.task, until });
            }
            session.take(Member { task, step: step.clone(), at: now });
            if !self.replace(&name, version, &session).await? {
                continue;
            }
            let from = session.saved.as_ref().map(|saved| saved.task);
            // A step that a replay starts anew begins where it began before, not behind its own end.
            let own_end = session.saved.as_ref().is_some_and(|saved| saved.is(task, &step));
            if replayed
                && own_end
                && let Some(first) = self.first_opening(task, &step).await?
            {
                return Ok(first);
            }
            let Session { history, dropped, .. } = session;
            return Ok(Event::SessionOpened { step, session: name, from, history, dropped });
        }
        let text = format!("others changed the session {name} again and again");
        Err(Failure::new(FailureClass::Unavailable, text))
    }

    /// Leaves the conversation to the next task; false if somebody else went on with the session meanwhile, or the
    /// conversation is too large to be kept.
    pub(super) async fn save_session(&self, closing: Closing) -> Result<bool, Failure> {
        let Closing { member, session: name, history, from } = closing;
        for _ in 0..TRIES {
            let (version, mut session) = self.session(&name).await?;
            if session.held_by_other(member.task, &member.step).is_some() || session.holder.is_none() {
                // Saved before a crash, or lost to somebody else.
                return Ok(session.saved.as_ref().is_some_and(|saved| saved.is(member.task, &member.step)));
            }
            let gone_on =
                session.saved.as_ref().is_some_and(|saved| Some(saved.task) != from && saved.task != member.task);
            let kept = !gone_on;
            if gone_on {
                session.holder = None;
            } else {
                session.save(member.clone(), history.clone(), self.config.sessions.turns);
            }
            let next: Vec<TaskId> = session.waiting.iter().take(WOKEN).copied().collect();
            if session.write().is_none() {
                tracing::warn!(task = %member.task, step = %member.step, "the conversation is too large to be kept");
                session.history = Vec::new();
            }
            if self.replace(&name, version, &session).await? {
                for task in next {
                    // Who cannot be woken looks for itself.
                    let _ = self.store.signal(task, Signal::Wake).await;
                }
                return Ok(kept);
            }
        }
        Err(Failure::new(FailureClass::Unavailable, format!("others changed the session {name} again and again")))
    }

    async fn session(&self, name: &SessionName) -> Result<(u64, Session), Failure> {
        match self.store.session(name).await.map_err(|error| unkept(&error))? {
            Some(kept) => Ok((kept.version, Session::read(&kept.body).map_err(|error| unkept(&error))?)),
            None => Ok((0, Session::default())),
        }
    }

    async fn replace(&self, name: &SessionName, expected: u64, session: &Session) -> Result<bool, Failure> {
        let body = session.write().ok_or_else(|| internal("the session is larger than what may be kept"))?;
        let keep = self.config.sessions.keep.get();
        let keep = KeepSession { name: name.clone(), expected, body, keep };
        self.store.keep_session(keep).await.map_err(|error| unkept(&error))
    }

    /// Whether a holder will not go on: its task has come to its end or is gone, or its step has.
    async fn is_over(&self, holder: &Member) -> Result<bool, Failure> {
        let head = self.store.head(holder.task).await.map_err(|error| unkept(&error))?;
        if head.is_none_or(|head| head.state.is_terminal()) {
            return Ok(true);
        }
        let journal = self.store.journal(holder.task, 0, MOST_EVENTS).await.map_err(|error| unkept(&error))?;
        let run = Run::fold(holder.task, &journal);
        Ok(run.is_ok_and(|run| run.step(&holder.step).is_some_and(StepRun::is_done)))
    }

    /// How a step of this task opened its session for the first time.
    async fn first_opening(&self, task: TaskId, step: &StepKey) -> Result<Option<Event>, Failure> {
        let journal = self.store.journal(task, 0, MOST_EVENTS).await.map_err(|error| unkept(&error))?;
        let opens = |event: &Event| matches!(event, Event::SessionOpened { step: of, .. } if of == step);
        Ok(journal.into_iter().map(|recorded| recorded.event).find(opens))
    }
}

fn unkept(error: &StoreError) -> Failure {
    Failure::new(FailureClass::Unavailable, format!("the session cannot be had: {error}"))
}
