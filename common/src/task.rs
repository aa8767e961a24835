//! What a task is: its head, its states and the one transition function.
//!
//! A task's state is a fold over its journal. [`Head::apply`] is that fold for
//! the life of the task as a whole; `journal::Run` folds its steps. Both are
//! pure: no I/O, no clock, no randomness. Stores call them inside their
//! transactions, workers call them live and on recovery, and there is no other
//! place where a state changes.

mod head;
#[cfg(test)]
pub(crate) mod samples;
mod signal;
mod state;

pub use head::{Head, IllegalEvent, Parent};
pub use signal::{Admission, Refusal, Signal, admit};
pub use state::{DeadReason, Outcome, State, StateName, Wait, WaitOn};
