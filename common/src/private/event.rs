//! Sealing what goes into a journal: every slot, and every note.

use serde_json::Value;

use super::Sealer;
use crate::failure::Failure;
use crate::journal::{Event, SlotMut};
use crate::store::Next;
use crate::task::Signal;

/// Parts of a model's message that only its provider understands, and that it wants back unchanged.
const OPAQUE: [&str; 7] = ["type", "id", "name", "tool_use_id", "signature", "encrypted_content", "encrypted_index"];

impl Sealer<'_> {
    /// Seals an event. Who did something stays: people are named in the journal.
    pub fn event(&mut self, event: &mut Event) {
        match event {
            // The head is what the operator wrote: the definition, and the descriptions of tools.
            Event::AgentStarted { prompt, .. } => return self.text(prompt),
            Event::TurnFinished { call, .. } => {
                return call.content.iter_mut().for_each(|block| self.block(block));
            }
            // Sealed when the task was made, which tells its labels and keys too.
            Event::Submitted(_) | Event::PrivateDataSealed { .. } => return,
            _ => {}
        }
        event.slots_mut(&mut |slot| match slot {
            SlotMut::Value(value) => self.value(value),
            SlotMut::Text(text) => self.text(text),
        });
        event.notes_mut(&mut |note| match note {
            SlotMut::Value(value) => self.value(value),
            SlotMut::Text(text) => self.text(text),
        });
    }

    /// Seals what happens to a task.
    pub fn next(&mut self, next: &mut Next) {
        match next {
            Next::Succeed { output } => self.value(output),
            Next::Die { error, .. } => self.failure(error),
            Next::Cancel { reason, .. } | Next::Release { reason } => self.text(reason),
            Next::Continue | Next::Park(_) => {}
        }
    }

    /// Seals a signal. What is found goes ahead of it, or with it if it is a replay.
    pub fn signal(&mut self, signal: &mut Signal) {
        if let Signal::ModelAnswered { call, .. } = signal {
            return call.content.iter_mut().for_each(|block| self.block(block));
        }
        signal.slots_mut(&mut |slot| match slot {
            SlotMut::Value(value) => self.value(value),
            SlotMut::Text(text) => self.text(text),
        });
        match signal {
            Signal::Decide { decision, .. } => {
                if let Some(comment) = &mut decision.comment {
                    self.text(comment);
                }
            }
            Signal::Cancel { reason, .. } => self.text(reason),
            Signal::ModelFailed { error, .. } => self.text(&mut error.message),
            Signal::Replay { sealed, .. } => sealed.add_all(&self.take()),
            _ => {}
        }
    }

    /// Seals a failure, its details too.
    pub fn failure(&mut self, failure: &mut Failure) {
        if let Some(detail) = &mut failure.detail {
            self.value(detail);
        }
        self.message(failure);
    }

    fn message(&mut self, failure: &mut Failure) {
        self.text(&mut failure.message);
    }

    /// Seals a block of a model's message, but for what only its provider understands.
    fn block(&mut self, block: &mut Value) {
        let Value::Object(fields) = block else { return self.value(block) };
        let is_redacted = fields.get("type").is_some_and(|kind| kind == "redacted_thinking");
        for (name, value) in fields.iter_mut() {
            let is_opaque = OPAQUE.contains(&name.as_str()) || is_redacted && name == "data";
            if !is_opaque {
                self.value(value);
            }
        }
    }
}
