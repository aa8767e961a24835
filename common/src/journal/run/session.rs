//! Sessions in the fold: what a step knows of the conversation that it goes on with.

use std::sync::Arc;

use serde_json::Value;

use super::{Run, StepRun};
use crate::clock::Timestamp;
use crate::id::{SessionName, TaskId};
use crate::journal::{Event, Recorded};

/// A conversation that goes on across tasks, as one of them knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRun {
    /// Its name.
    pub name: SessionName,
    /// The task whose conversation it was when it was opened.
    pub from: Option<TaskId>,
    /// The conversation until then, as messages.
    pub history: Arc<Vec<Value>>,
    /// Whose it is.
    pub state: SessionState,
}

/// Whose a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Perhaps another task's: it is to be opened from this time on.
    Wanted {
        /// When.
        from: Timestamp,
    },
    /// This task's.
    Held,
    /// The next one's.
    Saved,
}

impl Run {
    pub(super) fn apply_session(&mut self, recorded: &Recorded) {
        match &recorded.event {
            // Something woke the task: perhaps that the session is free.
            Event::Woken { .. } => {
                for step in self.steps.values_mut().filter(|step| step.session.is_some()) {
                    if let Some(session) = &mut Arc::make_mut(step).session
                        && let SessionState::Wanted { from } = &mut session.state
                    {
                        *from = (*from).min(recorded.at);
                    }
                }
            }
            Event::SessionOpened { step, session, from, history, .. } => {
                let Some(known) = self.steps.get_mut(step).map(Arc::make_mut) else { return };
                match &mut known.session {
                    // What it said since then stands on what it knew then.
                    Some(session) if known.conversation.is_some() => session.state = SessionState::Held,
                    place => {
                        let (name, history) = (session.clone(), Arc::new(history.clone()));
                        *place = Some(SessionRun { name, from: *from, history, state: SessionState::Held });
                    }
                }
            }
            Event::SessionAwaited { step, session, until, .. } => {
                let Some(known) = self.steps.get_mut(step).map(Arc::make_mut) else { return };
                let state = SessionState::Wanted { from: *until };
                match &mut known.session {
                    Some(session) => session.state = state,
                    place => {
                        *place = Some(SessionRun { name: session.clone(), from: None, history: Arc::default(), state });
                    }
                }
            }
            Event::SessionSaved { step, .. } => {
                if let Some(session) = self.steps.get_mut(step).and_then(|known| Arc::make_mut(known).session.as_mut())
                {
                    session.state = SessionState::Saved;
                }
            }
            _ => {}
        }
    }
}

impl StepRun {
    /// The task had come to its end, so that others may have gone on with the session since.
    pub(super) fn release_session(&mut self) {
        if let Some(session) = self.session.as_mut().filter(|session| session.state == SessionState::Held) {
            session.state = SessionState::Wanted { from: Timestamp::from_millis(0) };
        }
    }
}
