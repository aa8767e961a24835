//! The journal: the append-only, ordered event log of one task, and its fold.
//!
//! It is checkpoint, audit trail and replay fixture at once. [`Event`] is what
//! can be written, [`Run`] is what a reader knows after folding it. A journal
//! stores deltas: a turn holds its own new messages, never the conversation so
//! far; [`Conversation::messages`] rebuilds the whole, byte for byte.

mod conversation;
mod event;
mod record;
mod reference;
mod request;
mod run;
pub mod shown;
mod slot;

pub use conversation::{Compacted, Conversation, ModelChange, Prompted, ToolUse, Turn};
pub use event::{Event, Recorded, Submitted};
pub use record::{
    ApprovalDecision, ApprovalTerms, CallRecord, CallResult, Effect, ModelCall, StepOutcome, Usage, WakeCause,
};
pub use reference::Reference;
pub use request::{
    CacheTtl, Compaction, ContextRules, Fallback, ModelChoice, ModelSettings, OnOtherModel, RequestHead, Structured,
};
pub use run::{
    Approval, ApprovalAnswer, Call, CallState, Child, Run, SessionRun, SessionState, StepRun, StepStatus, Subagent,
};
pub use slot::{Slot, SlotMut};
