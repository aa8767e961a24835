//! A hook for tests and drills: the process kills itself at a chosen journal
//! append, or at a step of a model batch, as `kill -9` or a power cut would. Off unless `TEAMSTER_FAULT` says
//! otherwise; it is in every build, so that what is tested is what runs.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable: a place such as `before_append`, `:`, and N from 1.
pub const VARIABLE: &str = "TEAMSTER_FAULT";

/// Where to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The N-th append of this process has not reached the store.
    BeforeAppend(u64),
    /// The N-th append of this process is durable, and nobody knows yet.
    AfterAppend(u64),
    /// The N-th model batch of this process is noted as being sent, and has not left.
    BeforeSend(u64),
    /// The provider has the N-th model batch of this process, and nobody knows yet.
    AfterSend(u64),
    /// The N-th answer from a model batch is not told to its task.
    BeforeDelivery(u64),
}

/// Makes a point of its number.
type ToPoint = fn(u64) -> Point;

/// The names of the points.
const PLACES: [(&str, ToPoint); 5] = [
    ("before_append", Point::BeforeAppend),
    ("after_append", Point::AfterAppend),
    ("before_send", Point::BeforeSend),
    ("after_send", Point::AfterSend),
    ("before_delivery", Point::BeforeDelivery),
];

/// A text that names no such place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE} is {0:?}, and must be NAME:N, with one of before_append, after_append, before_send, after_send, before_delivery"
)]
pub struct InvalidPoint(String);

impl FromStr for Point {
    type Err = InvalidPoint;

    fn from_str(text: &str) -> Result<Self, InvalidPoint> {
        let invalid = || InvalidPoint(text.to_owned());
        let (place, number) = text.split_once(':').ok_or_else(invalid)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(invalid)?;
        let (_, point) = PLACES.into_iter().find(|(name, _)| *name == place).ok_or_else(invalid)?;
        Ok(point(number))
    }
}

/// Counts appends, and ends the process at the chosen one.
#[derive(Debug, Default)]
pub struct Fault {
    point: Option<Point>,
    appends: AtomicU64,
    sends: AtomicU64,
    deliveries: AtomicU64,
}

impl Fault {
    /// As the environment says; nothing happens where it says nothing.
    pub fn from_env() -> Result<Self, InvalidPoint> {
        let point = std::env::var(VARIABLE).ok().map(|text| text.parse()).transpose()?;
        Ok(Self { point, ..Self::default() })
    }

    /// To be called before an append; the answer is for [`Fault::after_append`].
    pub fn before_append(&self) -> u64 {
        let number = self.appends.fetch_add(1, Ordering::Relaxed) + 1;
        if self.point == Some(Point::BeforeAppend(number)) {
            die();
        }
        number
    }

    /// To be called when an append is durable.
    pub fn after_append(&self, number: u64) {
        if self.point == Some(Point::AfterAppend(number)) {
            die();
        }
    }

    /// To be called before a model batch is sent; the answer is for [`Fault::after_send`].
    pub fn before_send(&self) -> u64 {
        let number = self.sends.fetch_add(1, Ordering::Relaxed) + 1;
        if self.point == Some(Point::BeforeSend(number)) {
            die();
        }
        number
    }

    /// To be called when the provider has a model batch.
    pub fn after_send(&self, number: u64) {
        if self.point == Some(Point::AfterSend(number)) {
            die();
        }
    }

    /// To be called before an answer from a model batch is told to its task.
    pub fn before_delivery(&self) {
        let number = self.deliveries.fetch_add(1, Ordering::Relaxed) + 1;
        if self.point == Some(Point::BeforeDelivery(number)) {
            die();
        }
    }
}

fn die() {
    // SIGKILL cannot be caught: nothing is flushed, closed or handed over.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_or_refused() {
        assert_eq!("before_append:3".parse(), Ok(Point::BeforeAppend(3)));
        assert_eq!("after_append:1".parse(), Ok(Point::AfterAppend(1)));
        assert_eq!("before_delivery:7".parse(), Ok(Point::BeforeDelivery(7)));
        for bad in ["", "append:1", "before_append", "before_append:0", "before_append:x"] {
            assert!(bad.parse::<Point>().is_err(), "{bad:?}");
        }
    }
}
