//! The broker of a history, in memory, and all that can go wrong with it: it is
//! out of reach for a while, comes back with all hints or with none, loses what
//! lies in a lane. What can go wrong on the way to it is in `faulty`.

mod faulty;
mod memory;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) use faulty::FaultyBroker;
pub(super) use memory::Message;

use self::memory::Memory;
use super::chance::Chance;
use super::person::Letter;
use super::truth::Truth;

/// Hints that one history may leave at the broker at once: more is a storm of the relay's own making.
const MOST_HINTS: usize = 1_000;

/// The broker, as all processes share it.
#[derive(Debug)]
pub(super) struct Server {
    truth: Arc<Truth>,
    state: Mutex<State>,
    /// Rings when something may have come, or may be asked for again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    memory: Memory,
    /// Since when it is out of reach.
    down: Option<Instant>,
    /// The most hints that it ever had.
    most: usize,
}

impl Server {
    pub(super) fn new(truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self { truth: Arc::clone(truth), state: Mutex::default(), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when it is out of reach, if it is.
    fn down(&self) -> Option<Instant> {
        self.lock().down
    }

    /// Asks it something, if it can be reached.
    fn ask<T>(&self, question: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        let mut state = self.lock();
        state.down.is_none().then(|| question(&mut state.memory))
    }

    /// Tells it something, if it can be reached; those who wait look again.
    fn change<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        let answer = self.ask(work)?;
        let mut state = self.lock();
        state.most = state.most.max(state.memory.len());
        drop(state);
        self.changed.notify_waiters();
        Some(answer)
    }

    /// A new consumer, which may be there before the broker is.
    fn join(&self) -> u64 {
        self.lock().memory.join()
    }

    /// A consumer ends.
    fn leave(&self, consumer: u64) {
        self.lock().memory.leave(consumer);
        self.changed.notify_waiters();
    }

    /// A task of another system comes in; whether that is confirmed.
    pub(super) fn post(&self, message: Message) -> bool {
        self.change(|memory| memory.post(message)).is_some()
    }

    /// Breaks it again and again, until the weather is clear.
    pub(super) async fn break_now_and_then(self: Arc<Self>, seed: u64, clears: Duration) {
        let chance = Chance::of(seed, "broker");
        loop {
            tokio::time::sleep(chance.millis(300..4_000)).await;
            if self.truth.clock.elapsed() >= clears {
                return;
            }
            match chance.below(4) {
                0 => self.outage("fault/broker down", &chance, Memory::interrupt_all).await,
                1 => self.outage("fault/broker lost", &chance, Memory::lose).await,
                _ => {
                    self.truth.count("fault/lane purged");
                    for _ in 0..self.lock().memory.purge() {
                        self.truth.count("fault/hint purged");
                    }
                }
            }
        }
    }

    async fn outage(&self, kind: &str, chance: &Chance, loss: impl FnOnce(&mut Memory)) {
        self.truth.count(kind);
        {
            let mut state = self.lock();
            loss(&mut state.memory);
            state.down = Some(Instant::now());
        }
        tokio::time::sleep(chance.millis(100..4_000)).await;
        self.lock().down = None;
        self.changed.notify_waiters();
    }

    /// Messages of other systems that nobody has taken in yet.
    pub(super) fn unsettled(&self) -> usize {
        self.lock().memory.unsettled()
    }

    /// What must hold of it when a history is over: of the messages that it
    /// confirmed, the `good` make tasks, and the `bad` cannot.
    pub(super) fn check(&self, good: &[&Letter], bad: &[&Letter]) -> Vec<String> {
        let state = self.lock();
        let mut wrong = Vec::new();
        if state.memory.unsettled() > 0 {
            wrong.push(format!("I4: {} messages lie at the broker and nobody takes them in", state.memory.unsettled()));
        }
        if state.most > MOST_HINTS {
            wrong.push(format!("I7: there were {} hints at the broker", state.most));
        }
        let dead = state.memory.dead();
        for Letter { message, .. } in good {
            if let Some((_, why)) = dead.iter().find(|(dead, _)| dead == message) {
                wrong.push(format!("I1: the good message {:?} was refused: {why}", message.id));
            }
        }
        for Letter { message, .. } in bad {
            if !dead.iter().any(|(dead, _)| dead == message) {
                wrong.push(format!("I7: the bad message {:?} was not refused", message.id));
            }
        }
        wrong
    }
}
