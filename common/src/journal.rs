//! The journal: the append-only, ordered event log of one task, and its fold.
//!
//! It is checkpoint, audit trail and replay fixture at once. [`Event`] is what
//! can be written, [`Run`] is what a reader knows after folding it. A journal
//! stores deltas: a turn holds its own new messages, never the conversation so
//! far; [`Conversation::messages`] rebuilds the whole, byte for byte.

pub mod chain;
mod conversation;
mod erasure;
mod event;
mod guard;
mod hook;
mod judge;
mod note;
mod record;
mod reference;
mod request;
mod run;
mod seal;
mod sealed;
pub mod shown;
mod slot;
mod submitted;
pub use chain::{Chained, EventHash, Fingerprint};
pub use conversation::{Compacted, Conversation, ModelChange, Prompted, ToolUse, Turn};
pub use erasure::{combined_digest, value_digest};
pub use event::{Event, Recorded};
pub use guard::{GuardPoint, GuardThen, GuardTrip};
pub use hook::{HookDecision, HookEvent, HookPoint, HookRuling, HookRun};
pub use judge::{Judging, Verdict};
pub use record::{
    ApprovalDecision, ApprovalTerms, CallRecord, CallResult, Effect, HoldBack, ModelCall, StepOutcome, Usage,
    WakeCause, WhenSpent,
};
pub use reference::Reference;
pub use request::{
    CacheTtl, Compaction, ContextRules, Fallback, ModelChoice, ModelSettings, OnOtherModel, RequestHead, Structured,
};
pub use run::{
    Approval, ApprovalAnswer, Call, CallState, Child, Entry, EntryState, Held, Raised, Run, SessionRun, SessionState,
    StepRun, StepStatus, Subagent,
};
pub use seal::{InvalidKey, KeyId, PublicKey, Seal, SealKey};
pub use sealed::SealedValues;
pub use slot::{Slot, SlotMut};
pub use submitted::{Allowance, Submitted};
