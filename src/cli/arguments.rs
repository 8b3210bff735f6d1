//! Parsing of arguments that several commands have.

use crate::domain::timestamp::Timestamp;

/// Parses a time, as 2026-01-15T10:30:00Z.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).map_err(|error| error.to_string())
}
