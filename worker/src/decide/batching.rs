//! Requests that go out with those of other tasks, in a model batch: which do, for
//! how long their step waits, and what follows when there is no answer. Pure.
//!
//! Only the first request of a conversation goes this way. What follows upon its
//! answer (a repair, the rest of a reply that was cut off, another model after one
//! that declined) is asked directly: another wait of hours for one reply serves nobody.

use common::clock::Timestamp;
use common::id::{EntryId, StepKey};
use common::journal::{Conversation, EntryState, Event, Run, StepRun};
use common::pipeline::model::{AgentStep, Step, StepKind};
use common::task::WaitOn;

use super::{Action, ActionKey, Deciding, fallback};

/// How a request goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By itself, now.
    Direct,
    /// With others.
    Batch {
        /// How long its step waits.
        until: Timestamp,
    },
}

impl Deciding<'_> {
    /// Whether a step has a request in a model batch that comes first: it waits, or something is to be made of it.
    pub(super) fn in_model_batch(&mut self, key: &StepKey, known: &StepRun, conversation: &Conversation) -> bool {
        let Some(entry) = &known.entry else { return false };
        match &entry.state {
            EntryState::Waiting if self.given.now < entry.until => {
                self.wait(WaitOn::ModelBatch { step: key.clone() }, Some(entry.until));
                true
            }
            EntryState::Waiting => {
                let (step, entry) = (key.clone(), entry.id.clone());
                self.decision.record(Event::ModelBatchLeft { step, entry });
                true
            }
            EntryState::Failed(_) => {
                if !self.is_in_flight(key) {
                    self.act(Action::HeedModelBatch { step: key.clone() });
                }
                true
            }
            EntryState::Answered => self.notice_other_model(key, conversation),
            EntryState::Closed => false,
        }
    }

    /// What is said of the model of a single answer when it comes is said here of one that nobody called for.
    fn notice_other_model(&mut self, key: &StepKey, conversation: &Conversation) -> bool {
        let [turn] = conversation.turns.as_slice() else { return false };
        if turn.set_aside || conversation.counted_from > 0 {
            return false;
        }
        let news = fallback::other_model(conversation, key, &turn.reply).unwrap_or_default();
        let any = !news.is_empty();
        self.decision.events.extend(news);
        any
    }

    /// How the next request of a step goes out.
    pub(super) fn way(&self, key: &StepKey) -> Way {
        self.batch_until(key).map_or(Way::Direct, |until| Way::Batch { until })
    }

    fn batch_until(&self, key: &StepKey) -> Option<Timestamp> {
        let step = self.given.pipeline.step(&key.step)?;
        let (known, max_wait) = (self.run.step(key)?, agent(step)?.batch?.max_wait);
        let conversation = known.conversation.as_ref()?;
        if key.is_subagent() || !conversation.turns.is_empty() || !conversation.head.tools.is_empty() {
            return None;
        }
        let options = self.given.models.batches(&conversation.head.provider)?;
        let wait = step.timeout.map_or(max_wait, |timeout| max_wait.min(timeout));
        // Tries of one request wait no longer together than one may.
        let until = known.entry.as_ref().map_or_else(|| self.given.now.plus(wait.get()), |entry| entry.until);
        // What is reserved is reserved for this way.
        let granted = ActionKey { step: key.clone(), call: None };
        let begun = self.given.grants.get(&granted).is_some_and(|grant| grant.outlives);
        (begun || self.given.now.plus(options.min_wait.get()) <= until).then_some(until)
    }
}

/// The id of a step's next request in a model batch: the same until something comes of it.
pub fn next_entry(run: &Run, key: &StepKey) -> EntryId {
    let known = run.step(key);
    let (generation, tries) = known.map_or((0, 0), |known| (known.generation, known.failed_tries));
    let changes = known.and_then(|known| known.conversation.as_ref()).map_or(0, |known| known.changes.len());
    EntryId::new(run.head.id, &format!("{key}\n{}\n{generation}\n{changes}\n{tries}", run.replays))
}

fn agent(step: &Step) -> Option<&AgentStep> {
    match &step.kind {
        StepKind::Agent(agent) => Some(agent),
        _ => None,
    }
}
