//! Writing for the person or the program that ran a command.

use std::io::Write;

use comfy_table::{Table, presets};

use crate::domain::timestamp::Timestamp;

/// Writes a line to standard output. A reader that has gone away, such as `head`, is nobody's fault.
pub(super) fn say(text: &str) {
    let _nobody_reads = writeln!(std::io::stdout(), "{text}");
}

/// Writes a line to standard error.
pub(super) fn complain(text: &str) {
    let _nobody_reads = writeln!(std::io::stderr(), "{text}");
}

/// A table without lines.
pub(super) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A time, if there is one.
pub(super) fn optional(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// What somebody else wrote, without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
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
