//! Parsers for the arguments of several commands.

use crate::domain::timestamp::Timestamp;

/// Parses an RFC 3339 time, such as 2026-01-15T10:30:00Z.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).map_err(|error| error.to_string())
}
