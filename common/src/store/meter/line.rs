//! Who holds the places of a meter, and who waits for one: first come, first
//! served. Waiting needs no connection and no slot: a task that waits is called
//! when there is room, and whoever does not come loses its turn. Pure.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{ReservationId, TaskId};
use std::time::Duration;

/// The most holders that are named; those of larger meters are not known one by one.
const MOST_HOLDERS: usize = 64;
/// The longest line. Who comes later is not in it, and asks again now and then.
const LONGEST_LINE: usize = 256;
/// For how long a place in the line is kept for one who does not ask again.
const PATIENCE: Duration = Duration::from_secs(900);
/// For how long a place is kept for one who was called.
const CALL: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Line {
    /// Who holds places, as far as they are named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// Who waits, the first first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Waiter>,
}

/// Who holds places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// By which reservation.
    pub id: ReservationId,
    /// For which task.
    pub task: TaskId,
}

/// Who waits for a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiter {
    /// Which task.
    pub task: TaskId,
    /// How many places it wants.
    pub amount: u64,
    /// Whether it was told that there is room.
    pub called: bool,
    /// When it is forgotten.
    pub until: Timestamp,
}

impl Line {
    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.waiting.is_empty()
    }

    /// Forgets those who did not come.
    pub fn forget(&mut self, now: Timestamp) {
        self.waiting.retain(|waiter| waiter.until > now);
    }

    /// How much those want who stand before a task; before one that is not in the line, all do.
    pub fn promised_before(&self, task: TaskId) -> u64 {
        let before = self.waiting.iter().take_while(|waiter| waiter.task != task);
        before.fold(0, |sum, waiter| sum.saturating_add(waiter.amount))
    }

    /// A task waits: at the end, or where it stands already.
    pub fn join(&mut self, task: TaskId, amount: u64, now: Timestamp) {
        let until = now.plus(PATIENCE);
        if let Some(known) = self.waiting.iter_mut().find(|waiter| waiter.task == task) {
            *known = Waiter { task, amount, called: false, until };
        } else if self.waiting.len() < LONGEST_LINE {
            self.waiting.push(Waiter { task, amount, called: false, until });
        }
    }

    /// A task has what it waited for.
    pub fn enter(&mut self, id: &ReservationId, task: TaskId) {
        self.waiting.retain(|waiter| waiter.task != task);
        if self.holders.len() < MOST_HOLDERS {
            self.holders.push(Holder { id: id.clone(), task });
        }
    }

    /// A reservation has given its places back.
    pub fn leave(&mut self, id: &ReservationId) {
        self.holders.retain(|holder| holder.id != *id);
    }

    /// Calls those for whom there is room, and who were not called yet.
    pub fn call(&mut self, mut room: u64, now: Timestamp) -> Vec<TaskId> {
        let mut called = Vec::new();
        for waiter in &mut self.waiting {
            let Some(left) = room.checked_sub(waiter.amount) else { break };
            room = left;
            if !waiter.called {
                waiter.called = true;
                waiter.until = now.plus(CALL);
                called.push(waiter.task);
            }
        }
        called
    }

    /// When the last who waits is forgotten.
    pub fn goes_at(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|waiter| waiter.until).max()
    }
}
