//! Our values as Postgres types: times, and the numbers that are signed there.

use std::error::Error;
use std::time::Duration;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::LeaseToken;

/// Milliseconds between the Unix epoch and that of Postgres, 2000-01-01.
const EPOCH: i64 = 946_684_800_000;
/// The longest time that is added to another: a hundred years, in milliseconds.
const LONGEST: i64 = 100 * 365 * 24 * 3_600_000;
/// The years 1 to 9999: what Postgres, RFC 3339 and people can all write down.
const RANGE: (i64, i64) = (-62_135_596_800_000, 253_402_300_799_999);

/// A `timestamptz`. What lies outside of the years 1 to 9999 is kept as their edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Timestamp);

impl ToSql for Time {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let millis = self.0.as_millis().clamp(RANGE.0, RANGE.1);
        out.extend_from_slice(&((millis - EPOCH) * 1_000).to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Time {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(Timestamp::from_millis(micros.div_euclid(1_000).saturating_add(EPOCH))))
    }

    accepts!(TIMESTAMPTZ);
}

/// Postgres' integers are signed; ours never come near the limit.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The reverse of [`integer`].
pub(super) fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A duration in milliseconds, to be added to a time.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(LONGEST)
}

/// A token as it is kept.
pub(super) fn token_uuid(token: LeaseToken) -> Uuid {
    Uuid::from_bytes(*token.as_bytes())
}

/// A text without the character NUL, which Postgres cannot keep, and of at most so many bytes.
pub(super) fn text(text: &str, limit: usize) -> String {
    let mut kept = text.replace('\0', "\u{FFFD}");
    let mut end = kept.len().min(limit);
    while !kept.is_char_boundary(end) {
        end -= 1;
    }
    kept.truncate(end);
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        for millis in [0, -1, 1, 1_800_000_000_123, RANGE.0, RANGE.1] {
            let mut bytes = BytesMut::new();
            Time(Timestamp::from_millis(millis)).to_sql(&Type::TIMESTAMPTZ, &mut bytes).unwrap();
            let read = Time::from_sql(&Type::TIMESTAMPTZ, &bytes).unwrap();
            assert_eq!(read.0.as_millis(), millis);
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_kept_as_its_edge() {
        let mut bytes = BytesMut::new();
        Time(Timestamp::from_millis(i64::MAX)).to_sql(&Type::TIMESTAMPTZ, &mut bytes).unwrap();
        assert_eq!(Time::from_sql(&Type::TIMESTAMPTZ, &bytes).unwrap().0.as_millis(), RANGE.1);
    }

    #[test]
    fn a_text_is_cut_at_a_character_and_has_no_nul() {
        assert_eq!(text("a\0b", 10), "a\u{FFFD}b");
        assert_eq!(text("äöü", 3), "ä");
    }
}
