//! Where an event carries what a user, a model or a tool made: its slots. One
//! list of them, for all who must look at values without knowing the events.
//! A slot holds a whole value; what lies within it is nobody's business here.

use serde_json::Value;

use super::event::Event;
use super::hook::HookRuling;
use super::record::{ApprovalDecision, CallResult, ModelCall, StepOutcome};
use super::request::RequestHead;
use super::submitted::Submitted;
use crate::failure::Failure;
use crate::task::Signal;

/// A place in an event.
#[derive(Debug, PartialEq)]
pub enum Slot<'a> {
    /// For any JSON.
    Value(&'a Value),
    /// For a text of any length.
    Text(&'a str),
}

/// A place in an event, to be changed.
#[derive(Debug, PartialEq)]
pub enum SlotMut<'a> {
    /// For any JSON.
    Value(&'a mut Value),
    /// For a text of any length.
    Text(&'a mut String),
}

/// One list for both kinds of visit, so that they cannot differ.
macro_rules! visits {
    ($visit:ident, $slot:ident, $iter:ident, $values:ident $(, $mut:tt)?) => {
        impl Event {
            /// Visits every slot, in an order that stays the same.
            pub fn $visit(&$($mut)? self, visit: &mut dyn FnMut($slot<'_>)) {
                match self {
                    Self::Submitted(submitted) => {
                        let Submitted { input, sealed, .. } = &$($mut)? **submitted;
                        visit($slot::Value(input));
                        for ciphertext in sealed.$values() {
                            visit($slot::Text(ciphertext));
                        }
                    }
                    Self::PrivateDataSealed { entries } => {
                        for ciphertext in entries.$values() {
                            visit($slot::Text(ciphertext));
                        }
                    }
                    Self::Succeeded { output } => visit($slot::Value(output)),
                    Self::StepRetrying { error, .. }
                    | Self::OutcomeUnknown { error, .. }
                    | Self::ModelBatchFailed { error, .. } => error.$visit(visit),
                    Self::Replayed { input, sealed, .. } => {
                        if let Some(input) = input {
                            visit($slot::Value(input));
                        }
                        for ciphertext in sealed.$values() {
                            visit($slot::Text(ciphertext));
                        }
                    }
                    Self::Expanded { items, .. } => {
                        for item in items.$iter() {
                            visit($slot::Value(item));
                        }
                    }
                    Self::StepFinished { outcome, .. } => match outcome {
                        StepOutcome::Succeeded { output } => visit($slot::Value(output)),
                        StepOutcome::Failed { error } => error.$visit(visit),
                        StepOutcome::Skipped => {}
                    },
                    Self::AgentStarted { head, prompt, .. } => {
                        let RequestHead { system, tools, output_schema, options, fallback, .. } = &$($mut)? **head;
                        visit($slot::Text(system));
                        for tool in tools.$iter() {
                            visit($slot::Value(tool));
                        }
                        if let Some(schema) = output_schema {
                            visit($slot::Value(schema));
                        }
                        for option in options.$values() {
                            visit($slot::Value(option));
                        }
                        for option in fallback.models.$iter().flat_map(|model| model.options.$values()) {
                            visit($slot::Value(option));
                        }
                        visit($slot::Text(prompt));
                    }
                    Self::SessionOpened { history, .. } => {
                        for message in history.$iter() {
                            visit($slot::Value(message));
                        }
                    }
                    Self::ModelChanged { to, why, .. } => {
                        for option in to.options.$values() {
                            visit($slot::Value(option));
                        }
                        why.$visit(visit);
                    }
                    Self::TurnFinished { call, .. } | Self::Compacted { call, .. } => {
                        call.$visit(visit);
                    }
                    Self::Prompted { text, .. } | Self::SubagentCalled { prompt: text, .. } => visit($slot::Text(text)),
                    Self::HookDecided { ruling, .. } => {
                        let HookRuling { updated, context, .. } = &$($mut)? **ruling;
                        if let Some(updated) = updated {
                            visit($slot::Value(updated));
                        }
                        for text in context.$iter() {
                            visit($slot::Text(text));
                        }
                    }
                    Self::CallIntended { call, .. } => visit($slot::Value(&$($mut)? call.arguments)),
                    Self::CallFinished { result, .. } => result.$visit(visit),
                    Self::OutcomeResolved { happened, .. } => {
                        if let Some(happened) = happened {
                            visit($slot::Value(happened));
                        }
                    }
                    Self::ApprovalRequested { show, .. } => visit($slot::Value(show)),
                    Self::ApprovalDecided { decision, .. } => decision.$visit(visit),
                    Self::ChildFinished { result, .. } => visit($slot::Value(result)),
                    // What a task died of stands in its head too, which is read without its journal.
                    Self::Died { .. }
                    | Self::Erased { .. }
                    | Self::Leased { .. }
                    | Self::Released { .. }
                    | Self::LeaseExpired { .. }
                    | Self::Parked { .. }
                    | Self::Woken { .. }
                    | Self::CancelRequested { .. }
                    | Self::Cancelled { .. }
                    | Self::StepStarted { .. }
                    | Self::RoundStarted { .. }
                    | Self::OtherModel { .. }
                    | Self::SessionAwaited { .. }
                    | Self::JudgeAsked { .. }
                    | Self::GuardTripped { .. }
                    | Self::SessionSaved { .. }
                    | Self::ModelBatchJoined { .. }
                    | Self::ModelBatchLeft { .. }
                    | Self::SleepStarted { .. }
                    | Self::ApprovalExpired { .. }
                    | Self::HeldBack { .. }
                    | Self::BudgetNoted { .. }
                    | Self::BudgetRaised { .. }
                    | Self::ChildSubmitted { .. } => {}
                }
            }
        }

        impl Signal {
            /// Visits every slot, in an order that stays the same.
            pub fn $visit(&$($mut)? self, visit: &mut dyn FnMut($slot<'_>)) {
                match self {
                    Self::Decide { decision, .. } => decision.$visit(visit),
                    Self::ModelAnswered { call, .. } => call.$visit(visit),
                    Self::ModelFailed { error, .. } => error.$visit(visit),
                    Self::Resolve { happened: Some(value), .. }
                    | Self::ChildFinished { result: value, .. } => visit($slot::Value(value)),
                    Self::Replay { input, sealed, .. } => {
                        if let Some(input) = input {
                            visit($slot::Value(input));
                        }
                        for ciphertext in sealed.$values() {
                            visit($slot::Text(ciphertext));
                        }
                    }
                    Self::Seal { entries } => {
                        for ciphertext in entries.$values() {
                            visit($slot::Text(ciphertext));
                        }
                    }
                    Self::Resolve { .. } | Self::Cancel { .. } => {}
                    Self::Wake | Self::Unhalt | Self::Room | Self::Raise { .. } => {}
                }
            }
        }

        impl ModelCall {
            fn $visit(&$($mut)? self, visit: &mut dyn FnMut($slot<'_>)) {
                for block in self.content.$iter() {
                    visit($slot::Value(block));
                }
            }
        }

        impl ApprovalDecision {
            fn $visit(&$($mut)? self, visit: &mut dyn FnMut($slot<'_>)) {
                if let Some(edits) = &$($mut)? self.edits {
                    visit($slot::Value(edits));
                }
            }
        }

        impl Failure {
            fn $visit(&$($mut)? self, visit: &mut dyn FnMut($slot<'_>)) {
                if let Some(detail) = &$($mut)? self.detail {
                    visit($slot::Value(detail));
                }
            }
        }

        impl CallResult {
            fn $visit(&$($mut)? self, visit: &mut dyn FnMut($slot<'_>)) {
                match self {
                    Self::Done { content, .. } => visit($slot::Value(content)),
                    Self::Failed { error } => error.$visit(visit),
                }
            }
        }
    };
}

visits!(slots, Slot, iter, values);
visits!(slots_mut, SlotMut, iter_mut, values_mut, mut);
