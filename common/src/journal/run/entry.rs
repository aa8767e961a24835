//! Requests in model batches in the fold: what a step knows of the one that it waits for.

use super::StepRun;
use crate::clock::Timestamp;
use crate::failure::Failure;
use crate::id::EntryId;
use crate::journal::{Event, Recorded};

/// A request of a step in a model batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its id, at the provider too.
    pub id: EntryId,
    /// Since when it waits.
    pub since: Timestamp,
    /// When the model is asked directly. Tries of one step do not go beyond that of the first.
    pub until: Timestamp,
    /// What came of it.
    pub state: EntryState,
}

/// What came of a request in a model batch.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryState {
    /// Nothing yet.
    Waiting,
    /// The answer, which is a turn like any other.
    Answered,
    /// A failure of which nothing was made yet.
    Failed(Failure),
    /// A failure that was dealt with, or it was withdrawn.
    Closed,
}

impl StepRun {
    /// The request in a model batch that waits for its answer.
    pub fn waiting_entry(&self) -> Option<&Entry> {
        self.entry.as_ref().filter(|entry| entry.state == EntryState::Waiting)
    }

    pub(super) fn follow_entry(&mut self, recorded: &Recorded) {
        match &recorded.event {
            Event::ModelBatchJoined { entry, until, .. } => {
                let (id, since) = (entry.clone(), recorded.at);
                self.entry = Some(Entry { id, since, until: *until, state: EntryState::Waiting });
            }
            Event::TurnFinished { entry: Some(_), .. } => self.close_entry(EntryState::Answered),
            Event::ModelBatchFailed { error, .. } => self.close_entry(EntryState::Failed(error.clone())),
            Event::ModelBatchLeft { .. }
            | Event::StepRetrying { .. }
            | Event::ModelChanged { .. }
            | Event::HeldBack { .. }
            | Event::StepFinished { .. } => self.close_entry(EntryState::Closed),
            _ => {}
        }
    }

    fn close_entry(&mut self, state: EntryState) {
        if let Some(entry) = self.entry.as_mut().filter(|entry| entry.state != EntryState::Answered) {
            entry.state = state;
        }
    }
}
