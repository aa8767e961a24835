//! Sessions: conversations that go on across tasks. The store keeps what a session
//! is, as bytes under a name, and replaces them only for who knows what it replaces;
//! who may go on with a session, and with what, is said here, purely.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StoreError;
use crate::clock::Timestamp;
use crate::id::{SessionName, StepKey, TaskId};

/// The largest session, in bytes of JSON.
pub const LARGEST_SESSION: usize = 8 << 20;
/// The most tasks that wait for one session and are woken in turn; more look for themselves.
const MOST_WAITING: usize = 256;

/// A session as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSession {
    /// How often it was replaced, from 1.
    pub version: u64,
    /// A [`Session`] as JSON.
    pub body: Bytes,
}

/// A session is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepSession {
    /// Its name.
    pub name: SessionName,
    /// The version that it replaces; 0: there is none.
    pub expected: u64,
    /// What it is now.
    pub body: Bytes,
    /// For how long, if it is not replaced. It may be gone any time after that.
    pub keep: Duration,
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Who goes on with it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<Member>,
    /// Who waits for it, the first first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<TaskId>,
    /// Whose conversation it is so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<Member>,
    /// The conversation so far, as messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Value>,
    /// How many of its oldest turns are no longer in it.
    pub dropped: usize,
}

/// A step of a task that has to do with a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepKey,
    /// Since when.
    pub at: Timestamp,
}

impl Member {
    /// Whether it is this one, whenever.
    pub fn is(&self, task: TaskId, step: &StepKey) -> bool {
        self.task == task && &self.step == step
    }
}

impl Session {
    /// Reads what a store keeps.
    ///
    /// # Errors
    /// `Damaged`, when a later version wrote it, or something else did.
    pub fn read(body: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(body)
            .map_err(|error| StoreError::Damaged(format!("a session cannot be read by this version: {error}")))
    }

    /// As a store keeps it; nothing for one that is too large.
    pub fn write(&self) -> Option<Bytes> {
        serde_json::to_vec(self).ok().filter(|body| body.len() <= LARGEST_SESSION).map(Bytes::from)
    }

    /// Who else goes on with it now.
    pub fn held_by_other(&self, task: TaskId, step: &StepKey) -> Option<&Member> {
        self.holder.as_ref().filter(|holder| !holder.is(task, step))
    }

    /// This one goes on with it, whoever did before.
    pub fn take(&mut self, by: Member) {
        self.waiting.retain(|waiting| *waiting != by.task);
        self.holder = Some(by);
    }

    /// A task waits for it. False if that is known already, or too many do.
    pub fn wait(&mut self, task: TaskId) -> bool {
        let room = self.waiting.len() < MOST_WAITING && !self.waiting.contains(&task);
        if room {
            self.waiting.push(task);
        }
        room
    }

    /// Its holder is done with it and leaves the conversation to the next one, who is to be woken. Of the conversation,
    /// the last `turns` turns stay, from where somebody was asked something on.
    pub fn save(&mut self, by: Member, history: Vec<Value>, turns: usize) -> Option<TaskId> {
        let (history, dropped) = last_turns(history, turns);
        *self = Self {
            holder: None,
            waiting: std::mem::take(&mut self.waiting),
            saved: Some(by),
            history,
            dropped: self.dropped + dropped,
        };
        self.waiting.first().copied()
    }
}

impl Session {
    /// Forgets the conversation so far; whether there was one.
    pub fn forget(&mut self) -> bool {
        let turns = self.history.iter().filter(|message| message["role"] == "assistant").count();
        self.dropped += turns;
        !std::mem::take(&mut self.history).is_empty()
    }
}

/// The end of a conversation that begins with a question and has at most so many turns, and how many turns are gone.
fn last_turns(mut history: Vec<Value>, most: usize) -> (Vec<Value>, usize) {
    let turns = |messages: &[Value]| messages.iter().filter(|message| message["role"] == "assistant").count();
    let all = turns(&history);
    if all <= most {
        return (history, 0);
    }
    let begins = |message: &Value| message["role"] == "user" && message["content"].is_string();
    let places: Vec<usize> = history.iter().enumerate().filter(|(_, m)| begins(m)).map(|(at, _)| at).collect();
    let from = places.into_iter().find(|at| turns(&history[*at..]) <= most).unwrap_or(history.len());
    let kept = history.split_off(from);
    let dropped = all - turns(&kept);
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::id::StepId;

    fn member(n: u8) -> Member {
        let at = Timestamp::from_millis(1);
        Member { task: TaskId::new(at, [n; 10]), step: StepKey::of(StepId::new("s").unwrap()), at }
    }

    fn history(turns: usize) -> Vec<Value> {
        let turn =
            |n| [json!({"role": "user", "content": format!("{n}")}), json!({"role": "assistant", "content": []})];
        (0..turns).flat_map(turn).collect()
    }

    #[test]
    fn one_holds_a_session_and_leaves_it_to_the_first_who_waits() {
        let mut session = Session::default();
        session.take(member(1));
        assert!(session.held_by_other(member(1).task, &member(1).step).is_none());
        assert!(session.held_by_other(member(2).task, &member(2).step).is_some());
        assert!(session.wait(member(2).task) && !session.wait(member(2).task) && session.wait(member(3).task));
        assert_eq!(session.save(member(1), history(2), 10), Some(member(2).task));
        session.take(member(2));
        assert_eq!((session.waiting.len(), session.saved.clone()), (1, Some(member(1))));
        let again = Session::read(&session.write().unwrap()).unwrap();
        assert_eq!(again, session);
    }

    #[test]
    fn of_a_long_session_the_last_turns_stay_from_a_question_on() {
        let mut session = Session::default();
        session.save(member(1), history(5), 2);
        assert_eq!((session.history.len(), session.dropped, &session.history[0]["content"]), (4, 3, &json!("3")));
        session.save(member(1), history(3), 2);
        assert_eq!(session.dropped, 4);
        // A single question with more turns than may stay is no longer known.
        let mut long = vec![json!({"role": "user", "content": "?"})];
        long.extend((0..3).flat_map(|_| [json!({"role": "assistant"}), json!({"role": "user", "content": []})]));
        session.save(member(1), long, 2);
        assert!(session.history.is_empty());
    }
}
