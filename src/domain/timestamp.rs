//! Timestamps with the precision that both databases store.

use std::fmt;
use std::ops::Sub;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

const NANOS_PER_MICRO: i128 = 1_000;
const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The Julian day number of 1970-01-01, as the time crate counts.
const JULIAN_DAY_OF_1970: i32 = 2_440_588;

/// An instant in UTC with microsecond precision. The years are 0000 to 9999, as in RFC 3339.
///
/// Postgres stores microseconds. Finer digits are dropped here, so writing and reading a time returns the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The error for a text or number that is not a time within the range of RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 time such as 2024-01-01T12:00:00Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    const MIN: i64 = -62_167_219_200 * MICROS_PER_SECOND;
    const MAX: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;

    /// Parses a date-time (RFC 3339, section 5.6). Digits finer than a microsecond are dropped.
    pub fn parse_rfc3339(text: &str) -> Result<Self, InvalidTimestamp> {
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        Self::from_offset_date_time(instant)
    }

    /// Converts whole seconds since 1970-01-01T00:00:00Z.
    pub fn from_unix_seconds(seconds: i64) -> Result<Self, InvalidTimestamp> {
        Self::from_unix_micros(
            seconds
                .checked_mul(MICROS_PER_SECOND)
                .ok_or(InvalidTimestamp)?,
        )
    }

    /// Parses seconds since 1970-01-01T00:00:00Z: digits, and a fraction if there is a point. Digits finer than a microsecond are
    /// dropped.
    pub fn parse_unix_seconds(text: &str) -> Result<Self, InvalidTimestamp> {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if fraction.is_empty() {
            return Err(InvalidTimestamp);
        }
        let micros = fraction.get(..6).unwrap_or(fraction);
        let parse = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_: &i64| is_number)
        };
        let seconds = parse(seconds).ok_or(InvalidTimestamp)?;
        let micros = parse(&format!("{micros:0<6}")).ok_or(InvalidTimestamp)?;
        let whole = Self::from_unix_seconds(seconds)?;
        Self::from_unix_micros(whole.0 + micros)
    }

    /// Converts microseconds since 1970-01-01T00:00:00Z.
    pub fn from_unix_micros(micros: i64) -> Result<Self, InvalidTimestamp> {
        if (Self::MIN..=Self::MAX).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(InvalidTimestamp)
        }
    }

    /// Converts a value of the time crate to UTC. Digits finer than a microsecond are dropped.
    pub fn from_offset_date_time(instant: OffsetDateTime) -> Result<Self, InvalidTimestamp> {
        let micros = instant.unix_timestamp_nanos().div_euclid(NANOS_PER_MICRO);
        Self::from_unix_micros(i64::try_from(micros).map_err(|_| InvalidTimestamp)?)
    }

    /// Converts to a value of the time crate, in UTC.
    #[must_use]
    pub fn to_offset_date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * NANOS_PER_MICRO)
            .expect("the constructors allow only the years 0000 to 9999")
    }

    /// Returns the microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn unix_micros(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since 1970-01-01T00:00:00Z, rounded down.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// Adds a duration. Stops at the end of the year 9999.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros).min(Self::MAX))
    }

    /// Subtracts a duration. Stops at the start of the year 0000.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros).max(Self::MIN))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Returns the time between two instants, in either order.
    fn sub(self, other: Self) -> Duration {
        Duration::from_micros(self.0.abs_diff(other.0))
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC with six fractional digits. The texts sort like the instants.
    ///
    /// Written by hand for speed: a webhook writes about a dozen times, and a format string takes ten times as long for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, micros) = (
            self.0.div_euclid(MICROS_PER_DAY),
            self.0.rem_euclid(MICROS_PER_DAY),
        );
        let julian_day = i32::try_from(day).unwrap_or_default() + JULIAN_DAY_OF_1970;
        let (year, month, day) = Date::from_julian_day(julian_day)
            .expect("the constructors allow only the years 0000 to 9999")
            .to_calendar_date();
        let seconds = micros / MICROS_PER_SECOND;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (last, width, number) in [
            (3, 4, i64::from(year)),
            (6, 2, i64::from(u8::from(month))),
            (9, 2, i64::from(day)),
            (12, 2, seconds / 3600),
            (15, 2, seconds / 60 % 60),
            (18, 2, seconds % 60),
            (25, 6, micros % MICROS_PER_SECOND),
        ] {
            write_digits(&mut text[last + 1 - width..=last], number);
        }
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

/// Writes a number with leading zeros.
fn write_digits(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rfc_3339() {
        for (text, written) in [
            ("2024-01-01T12:00:00.000Z", "2024-01-01T12:00:00.000000Z"),
            ("2024-01-01T14:00:00+02:00", "2024-01-01T12:00:00.000000Z"),
            (
                "2024-01-01T12:00:00.1234569Z",
                "2024-01-01T12:00:00.123456Z",
            ),
            (
                "1969-12-31T23:59:59.9999999Z",
                "1969-12-31T23:59:59.999999Z",
            ),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000000Z"),
            ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000000Z"),
            ("1900-03-01T01:02:03.000004Z", "1900-03-01T01:02:03.000004Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(
                Timestamp::parse_rfc3339(text).expect(text).to_string(),
                written
            );
        }
    }

    #[test]
    fn rejects_other_time_formats() {
        for text in [
            "",
            "yesterday",
            "2024-01-01",
            "2024-01-01T12:00:00",
            "2024-13-01T12:00:00Z",
            "2024-02-30T12:00:00Z",
            "1704110400",
            "0000-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
        ] {
            let read = Timestamp::parse_rfc3339(text);
            assert_eq!(read, Err(InvalidTimestamp), "{text:?}");
        }
    }

    #[test]
    fn parses_unix_seconds() {
        for (text, micros) in [
            ("0", 0),
            ("1704110400", 1_704_110_400_000_000),
            ("1704110400.5", 1_704_110_400_500_000),
            ("1704110400.123456", 1_704_110_400_123_456),
            ("1704110400.0000019", 1_704_110_400_000_001),
            ("253402300799.999999", 253_402_300_799_999_999),
        ] {
            let read = Timestamp::parse_unix_seconds(text);
            assert_eq!(read.map(Timestamp::unix_micros), Ok(micros), "{text}");
        }
        for text in [
            "",
            "-1",
            "+1",
            "1.x",
            "1.",
            "1e9",
            "253402300800",
            "99999999999999999999",
        ] {
            let read = Timestamp::parse_unix_seconds(text);
            assert_eq!(read, Err(InvalidTimestamp), "{text:?}");
        }
    }

    #[test]
    fn rejects_seconds_out_of_range() {
        for seconds in [i64::MAX, 253_402_300_800] {
            let read = Timestamp::from_unix_seconds(seconds);
            assert_eq!(read, Err(InvalidTimestamp), "{seconds}");
        }
        assert!(Timestamp::from_unix_seconds(253_402_300_799).is_ok());
    }
}
