//! What a store keeps of a meter and of a reservation, and the arithmetic of
//! each by itself. Pure; [`super::till`] makes operations of it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::line::Line;
use super::{
    Charge, LARGEST_AMOUNT, LATE_SETTLEMENT, LEVELS, LONGEST_HOLD_BACK, Meter, Reading, Refusal, Usage, Window,
};
use crate::clock::Timestamp;
use crate::id::{ReservationId, TaskId};

/// A meter as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The meter.
    pub meter: Meter,
    /// How much of it is used or reserved.
    pub used: u64,
    /// The limit that was named last, for people.
    pub limit: Option<u64>,
    /// Since when this is counted: where its window began, or when it was used first.
    pub since: Timestamp,
    /// When it was last charged.
    pub charged_at: Timestamp,
    /// Nothing is granted before.
    pub held_until: Option<Timestamp>,
    /// The highest of [`LEVELS`] that was passed since it is counted; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub level: u8,
    /// Who holds its places, and who waits for one.
    #[serde(default, skip_serializing_if = "Line::is_empty")]
    pub line: Line,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(level: &u8) -> bool {
    *level == 0
}

/// A reservation as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Names it.
    pub id: ReservationId,
    /// Whom it is for.
    pub task: TaskId,
    /// What it has charged.
    pub parts: Vec<Part>,
    /// When it lapses; once it is settled, when it is forgotten.
    pub expires: Timestamp,
    /// What has become of it.
    pub status: Status,
}

/// What a reservation has charged to a meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The meter.
    pub meter: Meter,
    /// Which of its windows: [`Account::since`] as it was then.
    pub since: Timestamp,
    /// How much.
    pub amount: u64,
}

/// What has become of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody has said yet what was used.
    Held,
    /// What was used is counted.
    Settled,
    /// Nobody said in time what was used: its places are free, its worst case counts as used.
    Lapsed,
}

impl Account {
    /// A meter of which nothing is known.
    pub fn blank(meter: Meter, now: Timestamp) -> Self {
        let since = window_start(meter.window, now);
        Self { meter, used: 0, limit: None, since, charged_at: now, held_until: None, level: 0, line: Line::default() }
    }

    /// As it is at a time: its window may have turned. It never turns back, whatever a clock says.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        let turned = match self.meter.window {
            Window::Every(_) => window_start(self.meter.window, now) > self.since,
            Window::Idle(span) => self.charged_at.plus(span.get()) <= now,
            Window::Total | Window::Places => false,
        };
        if turned {
            self.used = 0;
            self.level = 0;
            self.since = window_start(self.meter.window, now);
        }
        self.line.forget(now);
        self.held_until = self.held_until.filter(|until| *until > now);
        self
    }

    /// Why a charge of a task cannot be granted at this time, if it cannot.
    pub fn refusal(&self, charge: &Charge, task: TaskId, now: Timestamp) -> Option<Refusal> {
        let held = self.held_until.filter(|until| *until > now);
        let promised = self.line.promised_before(task);
        let over = self.used.saturating_add(promised).saturating_add(charge.amount) > charge.limit;
        let until = match (held, over) {
            (None, false) => return None,
            (held, false) => held,
            // However often the window turns.
            (_, true) if charge.amount > charge.limit => None,
            (held, true) => self.turns_at().map(|turn| held.map_or(turn, |held| held.max(turn))),
        };
        Some(Refusal { usage: self.usage(charge.limit), until, holders: self.line.holders.clone(), called: Vec::new() })
    }

    /// Books a charge that was granted; with the level that was passed by it, if it was.
    pub fn charge(&mut self, charge: &Charge, now: Timestamp) -> (Part, Option<u8>) {
        if self.limit.is_some_and(|before| before != charge.limit) {
            // What was passed of another limit says nothing of this one.
            self.level = self.level.min(level(self.used, charge.limit));
        }
        self.add(charge.amount);
        self.limit = Some(charge.limit);
        self.charged_at = self.charged_at.max(now);
        let passed = level(self.used, charge.limit);
        let news = (passed > self.level).then_some(passed);
        self.level = self.level.max(passed);
        (Part { meter: self.meter.clone(), since: self.since, amount: charge.amount }, news)
    }

    /// Has those of the line come for whom there is room.
    pub fn call(&mut self, now: Timestamp) -> Vec<TaskId> {
        let room = self.limit.unwrap_or(0).saturating_sub(self.used);
        self.line.call(room, now)
    }

    /// Counts what was really used instead of what was charged; nothing, if that was charged to a window that is over.
    pub fn correct(&mut self, part: &Part, spent: u64) {
        let given_back = match self.meter.window {
            Window::Total | Window::Places => part.amount,
            Window::Every(_) | Window::Idle(_) if part.since == self.since => part.amount,
            Window::Every(_) => return,
            // What was charged is forgotten, and only what was used beyond it is news.
            Window::Idle(_) => return self.add(spent.saturating_sub(part.amount)),
        };
        self.used = self.used.saturating_sub(given_back);
        self.add(spent);
    }

    fn add(&mut self, amount: u64) {
        self.used = self.used.saturating_add(amount).min(LARGEST_AMOUNT);
    }

    /// Grants nothing before a time; never ends earlier than what was said before.
    pub fn hold_back(&mut self, until: Timestamp, now: Timestamp) {
        let until = until.min(now.plus(LONGEST_HOLD_BACK));
        self.held_until = Some(self.held_until.map_or(until, |known| known.max(until))).filter(|until| *until > now);
    }

    /// How full it is.
    pub fn usage(&self, limit: u64) -> Usage {
        Usage { meter: self.meter.clone(), used: self.used, limit, passed: None }
    }

    /// What people see of it.
    pub fn reading(&self) -> Reading {
        let Self { meter, used, limit, since, held_until, .. } = self.clone();
        Reading { meter, used, limit, since, held_until }
    }

    /// Whether nothing would be lost with it.
    pub fn is_blank(&self) -> bool {
        self.used == 0 && self.held_until.is_none() && self.line.is_empty()
    }

    /// When it has nothing to say any more: the store looks at it then.
    pub fn goes_at(&self) -> Option<Timestamp> {
        let over = match self.meter.window {
            Window::Every(_) => self.turns_at(),
            Window::Idle(span) => Some(self.charged_at.plus(span.get())),
            Window::Total | Window::Places if self.used == 0 => Some(self.charged_at),
            Window::Total | Window::Places => return None,
        };
        over.max(self.held_until).max(self.line.goes_at())
    }

    /// When its window turns.
    fn turns_at(&self) -> Option<Timestamp> {
        match self.meter.window {
            Window::Every(span) => Some(self.since.plus(span.get())),
            Window::Total | Window::Idle(_) | Window::Places => None,
        }
    }
}

impl Reservation {
    /// When the store looks at it: it lapses then, or is forgotten.
    pub fn due_at(&self) -> Timestamp {
        match self.status {
            Status::Held | Status::Settled => self.expires,
            Status::Lapsed => self.expires.plus(LATE_SETTLEMENT),
        }
    }

    /// Whether it holds what it has charged.
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.status == Status::Held && self.expires > now
    }
}

impl Status {
    /// As a backend with columns keeps it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Settled => "settled",
            Self::Lapsed => "lapsed",
        }
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Held, Self::Settled, Self::Lapsed].into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is not the status of a reservation"))
    }
}

/// The highest level that so much of a limit has passed; 0 for none.
fn level(used: u64, limit: u64) -> u8 {
    let passed = |level: &&u8| u128::from(used) * 100 >= u128::from(limit) * u128::from(**level);
    LEVELS.iter().rev().find(passed).copied().unwrap_or(0)
}

/// Where the window of a time begins; that time, where nothing turns.
fn window_start(window: Window, now: Timestamp) -> Timestamp {
    match window {
        Window::Every(span) => {
            let length = i64::try_from(span.get().as_millis()).unwrap_or(i64::MAX).max(1);
            Timestamp::from_millis(now.as_millis().saturating_sub(now.as_millis().rem_euclid(length)))
        }
        Window::Total | Window::Idle(_) | Window::Places => now,
    }
}
