//! Lengths of time as users write them: `500ms`, `2s`, `5m`, `72h`, `30d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time with a unit, at least 1 ms and at most 366 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

/// A text that is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write a number and a unit, such as 500ms, 2s, 5m, 72h or 30d (at most 366d)")]
pub struct InvalidSpan(String);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

impl Span {
    /// Clamps to what can be expressed.
    pub fn clamped(duration: Duration) -> Self {
        Self(duration.clamp(Duration::from_millis(1), LONGEST))
    }

    /// From whole seconds; for defaults in code.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// As a duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan(text.chars().take(40).collect());
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits.parse().map_err(|_| invalid())?;
        let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let duration = Duration::from_millis(number.checked_mul(scale).ok_or_else(invalid)?);
        if duration.is_zero() || duration > LONGEST {
            return Err(invalid());
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, scale) =
            UNITS.into_iter().rev().find(|(_, scale)| millis.is_multiple_of(*scale)).unwrap_or(UNITS[0]);
        write!(f, "{}{unit}", millis / scale)
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;
    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_back_what_it_writes() {
        for text in ["500ms", "2s", "5m", "72h", "30d", "1500ms"] {
            let span: Result<Span, _> = text.parse();
            assert_eq!(span.map(|s| s.to_string().parse::<Span>()), Ok(text.parse()), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_refused() {
        for text in ["", "5", "s", "0s", "-1s", "1.5s", "1 s", "5min", "400d", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
