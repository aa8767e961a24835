//! Meters: how much of something was used, counted by the store for all
//! processes together. Budgets, rate limits and places (concurrency) are meters;
//! they differ in their [`Window`] alone.
//!
//! Before a call, its worst case is reserved ([`super::Store::reserve`]), on all of
//! its meters or on none; afterwards what was really used is settled, and the rest
//! is given back. What is granted, refused and given back is decided by [`till`],
//! purely and once; a backend adds atomicity, and its clock.

pub mod account;
pub mod line;
pub(super) mod teller;
pub mod till;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::line::Holder;
use super::StoreError;
use crate::clock::Timestamp;
use crate::id::{MeterName, ReservationId, TaskId};
use crate::span::Span;

/// The most charges of one reservation.
pub const MOST_CHARGES: usize = 16;
/// The largest amount and the largest limit: what every backend can add up.
pub const LARGEST_AMOUNT: u64 = 1 << 62;
/// The longest time for which a reservation is held without a word.
pub const LONGEST_HOLD: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The longest time for which a meter is held back at once: a header of a provider may say anything.
pub const LONGEST_HOLD_BACK: Duration = Duration::from_secs(24 * 3_600);
/// For how long what has lapsed can still be settled: a call that took far longer than expected is counted right.
pub const LATE_SETTLEMENT: Duration = Duration::from_secs(3_600);
/// How much of a limit must be used, in percent, for that to be news.
pub const LEVELS: [u8; 2] = [50, 80];
/// The most readings of one call.
pub const MOST_READINGS: usize = 1_000;

/// When what was used is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Window {
    /// Never: a budget in total.
    Total,
    /// When nothing was charged for so long: a budget in total of what comes to an end, such as a task.
    Idle(Span),
    /// At each full multiple of this since the Unix epoch, in UTC: requests a minute, dollars a day.
    Every(Span),
    /// As soon as a reservation is settled or lapses: so many at once.
    Places,
}

/// Something that is counted. Two windows of one name are two meters: dollars a day, and in total.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// What is counted, and of whom.
    pub name: MeterName,
    /// When it is forgotten.
    pub window: Window,
}

/// What a reservation wants of one meter. Amounts are whole numbers: micro-dollars, tokens, requests, places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The meter.
    pub meter: Meter,
    /// How much may be used of it in all. Comes with each charge, so that raising it needs no operation.
    pub limit: u64,
    /// How much is wanted: the worst case.
    pub amount: u64,
}

/// A reservation that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// Names it: the same id again gets the same answer, and charges nothing twice.
    pub id: ReservationId,
    /// The task that it is for, for people.
    pub task: TaskId,
    /// What it wants; of each meter once, at least one and at most [`MOST_CHARGES`].
    pub charges: Vec<Charge>,
    /// For how long it is held without a word; asking again holds it anew. At most [`LONGEST_HOLD`].
    pub lapses: Duration,
}

/// The answer to a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// All of it; how full each meter is now, in the order of the charges.
    Granted(Vec<Usage>),
    /// Nothing of it. Refusals are not kept: ask again.
    Refused(Refusal),
}

/// How full a meter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The meter.
    pub meter: Meter,
    /// How much of it is used or reserved.
    pub used: u64,
    /// How much may be.
    pub limit: u64,
    /// The level that was passed right now, for the first time since this is counted: one of [`LEVELS`].
    pub passed: Option<u8>,
}

/// Why nothing was granted: the meter that stands in the way for longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// How full it is, without what was wanted.
    pub usage: Usage,
    /// From when on the same may be granted, as far as time decides that: its window turns, or
    /// it is no longer held back. Nothing if somebody else must first give something back, or raise the limit.
    pub until: Option<Timestamp>,
    /// Who holds the places, as far as they are named. The task is in the line for one, and is called when it is its turn.
    pub holders: Vec<Holder>,
    /// Tasks whose turn it is, to be told so by whoever gets this.
    pub called: Vec<TaskId>,
}

/// The answer to a settlement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Whether there is such a reservation.
    pub found: bool,
    /// Tasks whose turn it is now, to be told so by whoever gets this.
    pub called: Vec<TaskId>,
}

/// What a reservation has really used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Which reservation.
    pub id: ReservationId,
    /// How much of which meters. Of those that are not named, what was reserved; places are given back in any case.
    pub spent: Vec<(Meter, u64)>,
}

/// A meter as people and metrics see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The meter.
    pub meter: Meter,
    /// How much of it is used or reserved.
    pub used: u64,
    /// The limit that was named last; nothing if none was yet.
    pub limit: Option<u64>,
    /// Since when this has been counted.
    pub since: Timestamp,
    /// Until when nothing is granted, if it is held back.
    pub held_until: Option<Timestamp>,
}

/// A text that is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the window of a meter; write total, places, `every 1m` or `idle 30d`")]
pub struct InvalidWindow(String);

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total => f.write_str("total"),
            Self::Places => f.write_str("places"),
            Self::Every(span) => write!(f, "every {span}"),
            Self::Idle(span) => write!(f, "idle {span}"),
        }
    }
}

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let invalid = || InvalidWindow(text.chars().take(40).collect());
        let span = |text: &str| text.parse().map_err(|_| invalid());
        match text.split_once(' ') {
            None if text == "total" => Ok(Self::Total),
            None if text == "places" => Ok(Self::Places),
            Some(("every", length)) => Ok(Self::Every(span(length)?)),
            Some(("idle", length)) => Ok(Self::Idle(span(length)?)),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Window {
    type Error = InvalidWindow;
    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl Meter {
    /// The key under which a backend without columns keeps it: sorts by name.
    pub(super) fn key(&self) -> String {
        format!("{}\n{}", self.name, self.window)
    }
}

impl Reserve {
    /// Whether a store can do it.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with what is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        let refuse = |why: String| Err(StoreError::Refused(format!("reservation {}: {why}", self.id)));
        let count = self.charges.len();
        if !(1..=MOST_CHARGES).contains(&count) {
            return refuse(format!("it charges {count} meters; use 1 to {MOST_CHARGES}"));
        }
        for (place, Charge { meter, limit, amount }) in self.charges.iter().enumerate() {
            if self.charges.iter().take(place).any(|earlier| earlier.meter == *meter) {
                return refuse(format!("it charges meter {} ({}) twice; add the amounts up", meter.name, meter.window));
            }
            if (*limit).max(*amount) > LARGEST_AMOUNT {
                return refuse(format!("an amount or limit of meter {} is above {LARGEST_AMOUNT}", meter.name));
            }
        }
        if self.lapses.is_zero() || self.lapses > LONGEST_HOLD {
            return refuse(format!("it lapses after {:?}; use more than nothing and at most 30 days", self.lapses));
        }
        Ok(())
    }
}

impl Settle {
    /// Whether a store can do it.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with what is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.spent.len() > MOST_CHARGES || self.spent.iter().any(|(_, amount)| *amount > LARGEST_AMOUNT) {
            let why = format!("at most {MOST_CHARGES} meters are settled at once, and amounts up to {LARGEST_AMOUNT}");
            return Err(StoreError::Refused(format!("reservation {}: {why}", self.id)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_window_is_read_as_it_is_written() {
        let day = Span::from_secs(86_400);
        for window in [Window::Total, Window::Places, Window::Every(day), Window::Idle(day)] {
            assert_eq!(window.to_string().parse::<Window>().unwrap(), window);
        }
        for wrong in ["", "every", "every day", "idle ", "daily", "total 1d"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_no_store_can_count_is_refused() {
        let meter = |name: &str| Meter { name: MeterName::new(name).unwrap(), window: Window::Total };
        let charge = |name: &str, amount| Charge { meter: meter(name), limit: 10, amount };
        let reserve = |charges, lapses| Reserve {
            id: ReservationId::new("r").unwrap(),
            task: TaskId::new(Timestamp::default(), [0; 10]),
            charges,
            lapses: Duration::from_secs(lapses),
        };
        assert!(reserve(vec![charge("a", 1), charge("b", 1)], 60).check().is_ok());
        let many = (0..=MOST_CHARGES).map(|number| charge(&number.to_string(), 1)).collect();
        for (charges, lapses, word) in [
            (Vec::new(), 60, "0 meters"),
            (many, 60, "17 meters"),
            (vec![charge("a", 1), charge("a", 2)], 60, "twice"),
            (vec![charge("a", u64::MAX)], 60, "above"),
            (vec![charge("a", 1)], 0, "lapses"),
            (vec![charge("a", 1)], u64::MAX / 2, "lapses"),
        ] {
            let error = reserve(charges, lapses).check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
