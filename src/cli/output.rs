//! Output for a person or a program.

use std::io::Write;

use comfy_table::{Table, presets};

use crate::domain::timestamp::Timestamp;

/// Writes a line to standard output. A reader that closes early, such as `head`, is not an error.
pub(super) fn print_line(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}

/// Writes a line to standard error.
pub(super) fn print_error(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Returns an empty table without borders.
pub(super) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Formats a time. No time is an empty text.
pub(super) fn format_time(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// Escapes the control characters that a terminal would interpret. Line breaks stay.
pub(super) fn escape_control(text: &str) -> String {
    let is_plain = |character: char| !character.is_control() || character == '\n';
    text.chars()
        .map(|character| {
            if is_plain(character) {
                character.to_string()
            } else {
                character.escape_default().to_string()
            }
        })
        .collect()
}
