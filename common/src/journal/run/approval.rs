//! Questions to people, and their answers.

use std::sync::Arc;

use serde_json::Value;

use super::{Run, StepRun};
use crate::clock::Timestamp;
use crate::id::ApprovalId;
use crate::journal::record::{ApprovalDecision, ApprovalTerms};

/// An approval that a step asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// When the question lapses.
    pub expires: Option<Timestamp>,
    /// What was shown.
    pub show: Value,
    /// What the answer is bound to.
    pub terms: ApprovalTerms,
    /// What came of it.
    pub answer: Option<ApprovalAnswer>,
}

/// What came of an approval.
#[derive(Debug, Clone, PartialEq)]
pub enum ApprovalAnswer {
    /// A person decided.
    Decided(ApprovalDecision),
    /// Nobody did in time.
    Expired,
}

impl Run {
    pub(super) fn answer_approval(&mut self, id: ApprovalId, answer: &ApprovalAnswer) {
        let asks = |step: &Arc<StepRun>| {
            let of_calls = step.permissions.values().map(Arc::as_ref);
            step.approval.iter().chain(of_calls).any(|approval| approval.id == id)
        };
        for step in self.steps.values_mut().filter(|step| asks(step)) {
            let step = Arc::make_mut(step);
            let of_calls = step.permissions.values_mut().map(Arc::make_mut);
            for approval in step.approval.iter_mut().chain(of_calls).filter(|approval| approval.id == id) {
                approval.answer = Some(answer.clone());
            }
        }
    }
}
