//! Durations, written as a number or as a string with a unit.

use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

use super::scalar::Scalar;

const DAY: u64 = 86_400;

/// The units of a string, in seconds.
const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", DAY)];

/// A duration from `MIN` to `MAX` units of `UNIT` seconds. A string may use another unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundedDuration<const UNIT: u64, const MIN: u64, const MAX: u64>(Duration);

/// A duration in seconds: `30`, `"30s"` or `"5m"`.
pub(crate) type Seconds<const MIN: u64, const MAX: u64> = BoundedDuration<1, MIN, MAX>;

/// A duration in days: `7`, `"7d"` or `"12h"`.
pub(crate) type Days<const MIN: u64, const MAX: u64> = BoundedDuration<DAY, MIN, MAX>;

impl<const UNIT: u64, const MIN: u64, const MAX: u64> BoundedDuration<UNIT, MIN, MAX> {
    /// Creates a duration at compile time from a number of units. Panics if it is out of bounds.
    #[must_use]
    pub const fn new_const(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX, "out of bounds");
        Self(Duration::from_secs(number * UNIT))
    }

    fn parse(text: &str) -> Option<u64> {
        let number = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
        let unit = match &text[number.len()..] {
            "" => UNIT,
            name => UNITS.iter().find(|(unit, _)| *unit == name)?.1,
        };
        number.parse::<u64>().ok()?.checked_mul(unit)
    }
}

impl<const MIN: u64, const MAX: u64> Seconds<MIN, MAX> {
    #[must_use]
    pub fn seconds(self) -> Duration {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Days<MIN, MAX> {
    #[must_use]
    pub fn days(self) -> Duration {
        self.0
    }
}

impl<'de, const UNIT: u64, const MIN: u64, const MAX: u64> Deserialize<'de>
    for BoundedDuration<UNIT, MIN, MAX>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = match Scalar::deserialize(deserializer) {
            Ok(Scalar::Number(number)) => number.checked_mul(UNIT),
            Ok(Scalar::Text(text)) => Self::parse(&text),
            Ok(Scalar::Bool(_)) | Err(_) => None,
        };
        seconds
            .filter(|seconds| (MIN * UNIT..=MAX * UNIT).contains(seconds))
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| {
                let (name, unit) = if UNIT == DAY { ("days", "d") } else { ("seconds", "s") };
                D::Error::custom(format_args!(
                    "must be a whole number from {MIN} to {MAX} (in {name}), or a duration from \"{MIN}{unit}\" to \"{MAX}{unit}\" (units: s, m, h, d)"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::Error;

    use super::*;

    fn seconds<'de, const UNIT: u64, const MIN: u64, const MAX: u64>(
        value: impl IntoDeserializer<'de, Error>,
    ) -> Option<u64> {
        let read = BoundedDuration::<UNIT, MIN, MAX>::deserialize(value.into_deserializer());
        read.ok().map(|duration| duration.0.as_secs())
    }

    #[test]
    fn has_bounds_in_every_unit() {
        for (text, expected) in [
            ("3599", None),
            ("3600", Some(3600)),
            ("7200", Some(7200)),
            ("7201", None),
            ("3599s", None),
            ("3600s", Some(3600)),
            ("7201s", None),
            ("59m", None),
            ("60m", Some(3600)),
            ("120m", Some(7200)),
            ("121m", None),
            ("0h", None),
            ("1h", Some(3600)),
            ("2h", Some(7200)),
            ("3h", None),
            ("1d", None),
        ] {
            assert_eq!(seconds::<1, 3600, 7200>(text), expected, "{text}");
        }
        for (number, expected) in [
            (3599, None),
            (3600, Some(3600)),
            (7200, Some(7200)),
            (7201, None),
        ] {
            assert_eq!(seconds::<1, 3600, 7200>(number), expected, "{number}");
        }
    }

    #[test]
    fn counts_bare_numbers_in_days() {
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7 * DAY)),
            ("8", None),
            ("7d", Some(7 * DAY)),
            ("168h", Some(7 * DAY)),
            ("169h", None),
        ] {
            assert_eq!(seconds::<DAY, 0, 7>(text), expected, "{text}");
        }
        assert_eq!(seconds::<DAY, 0, 7>(7_u64), Some(7 * DAY));
        assert_eq!(seconds::<DAY, 0, 7>(8_u64), None);
    }

    #[test]
    fn rejects_other_texts() {
        for text in [
            "",
            "h",
            "1H",
            "1 h",
            "1.5h",
            "-1h",
            "1h30m",
            "1w",
            "60min",
            "3600000ms",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert_eq!(seconds::<1, 3600, 7200>(text), None, "{text}");
        }
    }

    #[test]
    fn error_names_both_forms() {
        let refused =
            Seconds::<3600, 7200>::deserialize(IntoDeserializer::<Error>::into_deserializer("5m"));

        assert_eq!(
            refused.expect_err("it is too short").to_string(),
            "must be a whole number from 3600 to 7200 (in seconds), or a duration from \"3600s\" to \"7200s\" (units: s, m, h, d)"
        );
    }
}
