//! What an event says of itself: its name, its step, and whether it moves its task.

use super::Event;
use crate::id::StepKey;

impl Event {
    /// The event's name as it is written.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Submitted(_) => "submitted",
            Self::Leased { .. } => "leased",
            Self::Released { .. } => "released",
            Self::LeaseExpired { .. } => "lease_expired",
            Self::Parked { .. } => "parked",
            Self::Woken { .. } => "woken",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Cancelled { .. } => "cancelled",
            Self::Succeeded { .. } => "succeeded",
            Self::Died { .. } => "died",
            Self::Replayed { .. } => "replayed",
            Self::RoundStarted { .. } => "round_started",
            Self::Erased { .. } => "erased",
            Self::PrivateDataSealed { .. } => "private_data_sealed",
            Self::StepStarted { .. } => "step_started",
            Self::Expanded { .. } => "expanded",
            Self::StepRetrying { .. } => "step_retrying",
            Self::StepFinished { .. } => "step_finished",
            Self::SleepStarted { .. } => "sleep_started",
            Self::AgentStarted { .. } => "agent_started",
            Self::SessionOpened { .. } => "session_opened",
            Self::SessionAwaited { .. } => "session_awaited",
            Self::SessionSaved { .. } => "session_saved",
            Self::SubagentCalled { .. } => "subagent_called",
            Self::TurnFinished { .. } => "turn_finished",
            Self::ModelBatchJoined { .. } => "model_batch_joined",
            Self::ModelBatchLeft { .. } => "model_batch_left",
            Self::ModelBatchFailed { .. } => "model_batch_failed",
            Self::Compacted { .. } => "compacted",
            Self::ModelChanged { .. } => "model_changed",
            Self::OtherModel { .. } => "other_model",
            Self::Prompted { .. } => "prompted",
            Self::HookDecided { .. } => "hook_decided",
            Self::JudgeAsked { .. } => "judge_asked",
            Self::GuardTripped { .. } => "guard_tripped",
            Self::CallIntended { .. } => "call_intended",
            Self::CallFinished { .. } => "call_finished",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::OutcomeResolved { .. } => "outcome_resolved",
            Self::HeldBack { .. } => "held_back",
            Self::BudgetNoted { .. } => "budget_noted",
            Self::BudgetRaised { .. } => "budget_raised",
            Self::ApprovalRequested { .. } => "approval_requested",
            Self::ApprovalDecided { .. } => "approval_decided",
            Self::ApprovalExpired { .. } => "approval_expired",
            Self::ChildSubmitted { .. } => "child_submitted",
            Self::ChildFinished { .. } => "child_finished",
        }
    }

    /// Whether the event moves the task itself from one state to another: what a worker's `next`, a signal and the
    /// store do.
    pub const fn is_of_life(&self) -> bool {
        matches!(
            self,
            Self::Submitted(_)
                | Self::Leased { .. }
                | Self::Released { .. }
                | Self::LeaseExpired { .. }
                | Self::Parked { .. }
                | Self::Woken { .. }
                | Self::CancelRequested { .. }
                | Self::Cancelled { .. }
                | Self::Succeeded { .. }
                | Self::Died { .. }
                | Self::Replayed { .. }
                | Self::Erased { .. }
        )
    }

    /// The step that the event belongs to, where it names one.
    pub const fn step(&self) -> Option<&StepKey> {
        match self {
            Self::RoundStarted { step, .. }
            | Self::StepStarted { step }
            | Self::Expanded { step, .. }
            | Self::StepRetrying { step, .. }
            | Self::StepFinished { step, .. }
            | Self::SleepStarted { step, .. }
            | Self::AgentStarted { step, .. }
            | Self::SessionOpened { step, .. }
            | Self::SessionAwaited { step, .. }
            | Self::SessionSaved { step, .. }
            | Self::SubagentCalled { step, .. }
            | Self::TurnFinished { step, .. }
            | Self::ModelBatchJoined { step, .. }
            | Self::ModelBatchLeft { step, .. }
            | Self::ModelBatchFailed { step, .. }
            | Self::Compacted { step, .. }
            | Self::ModelChanged { step, .. }
            | Self::OtherModel { step, .. }
            | Self::Prompted { step, .. }
            | Self::HookDecided { step, .. }
            | Self::JudgeAsked { step, .. }
            | Self::GuardTripped { step, .. }
            | Self::CallIntended { step, .. }
            | Self::CallFinished { step, .. }
            | Self::OutcomeUnknown { step, .. }
            | Self::OutcomeResolved { step, .. }
            | Self::ApprovalRequested { step, .. }
            | Self::ChildSubmitted { step, .. } => Some(step),
            Self::HeldBack { step, .. } => step.as_ref(),
            _ => None,
        }
    }
}
