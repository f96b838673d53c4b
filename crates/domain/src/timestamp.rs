//! A moment, as the contract writes it.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::Invalid;

/// A moment in UTC, in microseconds since the Unix epoch: what PostgreSQL keeps and JSON shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment this many microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This moment moved by `seconds`, into the past if negative.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// Reads RFC 3339; any offset, down to microseconds; the years that the wire form can show.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is none; `field` names it in the error.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        /// 0000-01-01T00:00:00Z.
        const YEAR_0: i64 = -62_167_219_200_000_000;
        let parsed = text.parse::<jiff::Timestamp>().ok().map(|moment| Self(moment.as_microsecond()));
        let shown = parsed.filter(|moment| moment.0 >= YEAR_0);
        shown.ok_or_else(|| Invalid::new(field, "expected a time like 2026-01-31T12:00:00Z"))
    }

    /// The calendar month in which it is, in UTC: its first moment, and the first of the next.
    #[must_use]
    pub fn month(self) -> (Self, Self) {
        let moment = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let day = jiff::tz::Offset::UTC.to_datetime(moment).date();
        let first = |day: jiff::civil::Date| {
            let moment = jiff::tz::Offset::UTC.to_timestamp(day.at(0, 0, 0, 0));
            Self(moment.unwrap_or(jiff::Timestamp::MAX).as_microsecond())
        };
        (first(day.first_of_month()), first(day.last_of_month().tomorrow().unwrap_or(jiff::civil::Date::MAX)))
    }

    /// The wire form in a buffer on the stack: `2026-01-31T12:00:00.123456Z`.
    fn render(self) -> [u8; 27] {
        let moment = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let civil = jiff::tz::Offset::UTC.to_datetime(moment);
        let mut out = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |at: usize, width: usize, value: i32| {
            let mut rest = value.unsigned_abs();
            for slot in out[at..at + width].iter_mut().rev() {
                *slot = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        };
        put(0, 4, i32::from(civil.year()));
        put(5, 2, i32::from(civil.month()));
        put(8, 2, i32::from(civil.day()));
        put(11, 2, i32::from(civil.hour()));
        put(14, 2, i32::from(civil.minute()));
        put(17, 2, i32::from(civil.second()));
        put(20, 6, civil.subsec_nanosecond() / 1000);
        out
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.render()).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.render();
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_microseconds_in_utc() {
        let moment = Timestamp::from_micros(1_769_860_800_123_456);

        assert_eq!(moment.to_string(), "2026-01-31T12:00:00.123456Z");
        assert_eq!(Timestamp::parse("at", "2026-01-31T13:00:00.123456789+01:00"), Ok(moment));
        assert!(Timestamp::parse("at", "tomorrow").is_err());
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_month_begins_and_ends_at_midnight() {
        let month = |text| {
            let (begins, ends) = Timestamp::parse("at", text).expect("a time").month();
            (begins.to_string(), ends.to_string())
        };

        let december = ("2026-12-01T00:00:00.000000Z".to_owned(), "2027-01-01T00:00:00.000000Z".to_owned());
        assert_eq!(month("2026-12-31T23:59:59.999999Z"), december);
        assert_eq!(month("2026-12-01T00:00:00Z"), december);
        assert_eq!(month("2028-02-29T12:00:00Z").1, "2028-03-01T00:00:00.000000Z");
    }
}
