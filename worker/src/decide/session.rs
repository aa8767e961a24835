//! Conversations that go on across tasks: opened before an agent says anything,
//! by one task at a time, and left to the next one before its step is done.

use common::failure::{Failure, FailureClass};
use common::id::{SessionName, StepKey};
use common::journal::{SessionState, StepRun};
use common::pipeline::model::AgentStep;
use common::task::WaitOn;

use super::{Action, Deciding};

impl Deciding<'_> {
    /// Whether an agent may speak: it has no session, or holds it.
    pub(super) fn holds_session(&mut self, key: &StepKey, known: &StepRun, agent: &AgentStep) -> bool {
        let Some(template) = agent.session.as_ref().filter(|_| !key.is_subagent()) else { return true };
        match known.session.as_ref().map(|session| session.state) {
            Some(SessionState::Held | SessionState::Saved) => return true,
            Some(SessionState::Wanted { from }) if self.given.now < from => {
                self.wait(WaitOn::Session { step: key.clone() }, Some(from));
                return false;
            }
            None if known.conversation.is_some() => return true,
            Some(SessionState::Wanted { .. }) | None => {}
        }
        if self.is_in_flight(key) {
            return false;
        }
        match template.render_text(&self.scope_of(key)) {
            Ok(text) if text.trim().is_empty() => return true,
            Ok(text) => match SessionName::new(format!("{}/{text}", self.run.head.pipeline)) {
                Ok(session) => self.act(Action::OpenSession { step: key.clone(), session }),
                Err(error) => {
                    self.decision.fail_step(key, Failure::new(FailureClass::Template, format!("session: {error}")));
                }
            },
            Err(error) => self.decision.fail_step(key, error),
        }
        false
    }

    /// Whether an agent that has its answer left its session to the next task.
    pub(super) fn left_session(&mut self, key: &StepKey) -> bool {
        let session = self.run.step(key).and_then(|known| known.session.as_ref());
        if session.is_none_or(|session| session.state != SessionState::Held) {
            return true;
        }
        if !self.is_in_flight(key) {
            self.act(Action::SaveSession { step: key.clone() });
        }
        false
    }
}
