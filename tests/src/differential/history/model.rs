//! What a history knows of the stores: enough to ask for what makes sense, most of the time.

use std::collections::HashSet;
use std::time::Duration;

use common::clock::{Clock, ManualClock, Timestamp};
use common::id::{BatchId, TaskId};
use common::store::{Submission, Transcript};

use crate::differential::answer::{Answer, Error};
use crate::differential::chance::Chance;
use crate::differential::request::{Request, Token};
use crate::differential::side::attempt;

/// Old requests that may be repeated.
const REMEMBERED: usize = 30;

/// A task that a worker of the history holds, or thinks that it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    pub(super) token: Token,
    pub(super) version: u64,
}

/// See the module.
#[derive(Debug)]
pub(in crate::differential) struct Model {
    clock: ManualClock,
    /// All that were ever accepted.
    pub(in crate::differential) tasks: Vec<TaskId>,
    pub(super) holds: Vec<Hold>,
    /// Tokens that are over.
    pub(super) zombies: Vec<Token>,
    pub(super) appends: Vec<Request>,
    pub(super) submissions: Vec<Submission>,
    pub(in crate::differential) batches: Vec<BatchId>,
    /// Tasks of which `unsent` gave hints last.
    pub(super) hints: Vec<TaskId>,
    /// Tasks with their journals as they once were.
    pub(super) transcripts: Vec<Transcript>,
    pub(super) steps: usize,
    moments: HashSet<Timestamp>,
}

impl Model {
    pub(in crate::differential) fn new(clock: ManualClock) -> Self {
        Self {
            clock,
            tasks: Vec::new(),
            holds: Vec::new(),
            zombies: Vec::new(),
            appends: Vec::new(),
            submissions: Vec::new(),
            batches: Vec::new(),
            hints: Vec::new(),
            transcripts: Vec::new(),
            steps: 0,
            moments: HashSet::new(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// A time from `least` to `most` milliseconds from now at which nothing else ends.
    pub(super) fn moment(&mut self, chance: &Chance, least: usize, most: usize) -> Timestamp {
        let millis = least + chance.below(most - least);
        let mut at = self.now().plus(Duration::from_millis(millis as u64));
        while !self.moments.insert(at) {
            at = at.plus(Duration::from_millis(1));
        }
        at
    }

    /// The length of a lease that ends when nothing else ends.
    pub(super) fn lease(&mut self, chance: &Chance) -> Duration {
        let now = self.now();
        self.moment(chance, 4_000, 40_000).since(now)
    }

    /// A step that no journal has yet.
    pub(super) fn step(&mut self) -> String {
        self.steps += 1;
        format!("s{}", self.steps)
    }

    pub(super) fn some_task(&self, chance: &Chance) -> Option<TaskId> {
        chance.of_newest(&self.tasks).copied()
    }

    /// Takes in what the stores answered; what is to be asked because of it.
    pub(in crate::differential) fn learn(&mut self, request: &Request, answer: &Answer) -> Vec<Request> {
        match (request, answer) {
            (Request::Submit(submissions), Answer::Receipts(receipts)) => {
                for receipt in receipts {
                    self.know(receipt.id);
                }
                self.submissions.extend(submissions.iter().cloned());
                let old = self.submissions.len().saturating_sub(REMEMBERED);
                self.submissions.drain(..old);
            }
            (_, Answer::Claims(claims)) => {
                let several = claims.len() > 1;
                let mut renewals = Vec::new();
                for claim in claims {
                    let token = Token { task: claim.task, attempt: attempt(&claim.journal).unwrap_or(0) };
                    let version = claim.journal.last().map_or(0, |last| last.seq);
                    self.holds.push(Hold { token, version });
                    if several {
                        // So that no two of them end at the same time.
                        let lease = self.lease(&Chance::new(version ^ claim.task.as_uuid().as_u64_pair().1));
                        renewals.push(Request::Renew { tokens: vec![token], lease });
                    }
                }
                return renewals;
            }
            (Request::Append { token, .. }, answer) => {
                if matches!(answer, Answer::Recorded(_)) {
                    // Only the newest append of a task is sure to be answered again.
                    self.appends
                        .retain(|older| !matches!(older, Request::Append { token: of, .. } if of.task == token.task));
                }
                self.appends.push(request.clone());
                if self.appends.len() > REMEMBERED {
                    self.appends.remove(0);
                }
                self.follow(*token, answer);
            }
            (Request::Restore(tasks), Answer::Restored(_)) => {
                for task in tasks {
                    self.know(task.id);
                }
            }
            (Request::Unsent(_), Answer::Hints(hints)) => self.hints = hints.iter().map(|hint| hint.task).collect(),
            _ => {}
        }
        Vec::new()
    }

    fn know(&mut self, task: TaskId) {
        if !self.tasks.contains(&task) {
            self.tasks.push(task);
        }
    }

    /// What the holder of a token learns from the answer to an append.
    fn follow(&mut self, token: Token, answer: &Answer) {
        let Some(index) = self.holds.iter().position(|hold| hold.token == token) else { return };
        match answer {
            Answer::Recorded(recorded) => {
                let newest = recorded.last().map_or(0, |last| last.seq);
                self.holds[index].version = self.holds[index].version.max(newest);
            }
            Answer::Refused(Error::Conflict { actual, .. }) => self.holds[index].version = *actual,
            Answer::Refused(Error::LeaseLost(_)) => {
                self.holds.remove(index);
                self.zombies.push(token);
            }
            _ => {}
        }
    }
}
