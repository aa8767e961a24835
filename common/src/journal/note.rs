//! Where an event carries words for people: its notes. They stay in the journal
//! whatever their size, since heads and lists show them; like the values in
//! [slots](super::Slot), they may tell of people, so the chain has them by their
//! digest, and erasing a task's data takes them away.

use super::event::Event;
use super::guard::GuardTrip;
use super::hook::HookRuling;
use super::record::{CallResult, HoldBack, StepOutcome};
use super::slot::{Slot, SlotMut};

/// One list for both kinds of visit, so that they cannot differ.
macro_rules! notes {
    ($visit:ident, $slot:ident $(, $mut:tt)?) => {
        impl Event {
            /// Visits every note, in an order that stays the same.
            pub fn $visit(&$($mut)? self, visit: &mut dyn FnMut($slot<'_>)) {
                match self {
                    // How a task died stands in its head: the detail is no slot.
                    Self::Died { error, .. } => {
                        visit($slot::Text(&$($mut)? error.message));
                        if let Some(detail) = &$($mut)? error.detail {
                            visit($slot::Value(detail));
                        }
                    }
                    Self::StepRetrying { error, .. }
                    | Self::OutcomeUnknown { error, .. }
                    | Self::ModelBatchFailed { error, .. }
                    | Self::ModelChanged { why: error, .. }
                    | Self::StepFinished { outcome: StepOutcome::Failed { error }, .. }
                    | Self::CallFinished { result: CallResult::Failed { error }, .. } => {
                        visit($slot::Text(&$($mut)? error.message));
                    }
                    Self::CancelRequested { reason, .. } | Self::Cancelled { reason, .. } => {
                        visit($slot::Text(reason));
                    }
                    // A place is asked for under a key that may be made of the input.
                    Self::HeldBack { why: HoldBack::RateLimit { rate_limit, .. }, .. } => {
                        visit($slot::Text(rate_limit));
                    }
                    Self::HookDecided { ruling, .. } => {
                        let HookRuling { reason, ran, .. } = &$($mut)? **ruling;
                        if let Some(reason) = reason {
                            visit($slot::Text(reason));
                        }
                        for run in ran {
                            if let Some(failure) = &$($mut)? run.failure {
                                visit($slot::Text(failure));
                            }
                        }
                    }
                    Self::GuardTripped { trip, .. } => {
                        let GuardTrip { found, excerpt, at, .. } = &$($mut)? **trip;
                        for text in [found, excerpt, at] {
                            visit($slot::Text(text));
                        }
                    }
                    Self::ApprovalRequested { title, .. } => visit($slot::Text(title)),
                    Self::ApprovalDecided { decision, .. } => {
                        if let Some(comment) = &$($mut)? decision.comment {
                            visit($slot::Text(comment));
                        }
                    }
                    Self::Submitted(_)
                    | Self::Leased { .. }
                    | Self::Released { .. }
                    | Self::LeaseExpired { .. }
                    | Self::Parked { .. }
                    | Self::Woken { .. }
                    | Self::Succeeded { .. }
                    | Self::Replayed { .. }
                    | Self::Erased { .. }
                    | Self::RoundStarted { .. }
                    | Self::PrivateDataSealed { .. }
                    | Self::StepStarted { .. }
                    | Self::Expanded { .. }
                    | Self::StepFinished { .. }
                    | Self::SleepStarted { .. }
                    | Self::AgentStarted { .. }
                    | Self::SessionOpened { .. }
                    | Self::SessionAwaited { .. }
                    | Self::SessionSaved { .. }
                    | Self::JudgeAsked { .. }
                    | Self::SubagentCalled { .. }
                    | Self::TurnFinished { .. }
                    | Self::ModelBatchJoined { .. }
                    | Self::ModelBatchLeft { .. }
                    | Self::Compacted { .. }
                    | Self::OtherModel { .. }
                    | Self::Prompted { .. }
                    | Self::CallIntended { .. }
                    | Self::CallFinished { .. }
                    | Self::OutcomeResolved { .. }
                    | Self::HeldBack { .. }
                    | Self::BudgetNoted { .. }
                    | Self::BudgetRaised { .. }
                    | Self::ApprovalExpired { .. }
                    | Self::ChildSubmitted { .. }
                    | Self::ChildFinished { .. } => {}
                }
            }
        }
    };
}

notes!(notes, Slot);
notes!(notes_mut, SlotMut, mut);
