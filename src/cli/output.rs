//! Writing for the person or the program that ran a command.

use std::io::Write;

/// Writes a line to standard output. A reader that has gone away, such as `head`, is nobody's fault.
pub(super) fn say(text: &str) {
    let _nobody_reads = writeln!(std::io::stdout(), "{text}");
}

/// Writes a line to standard error.
pub(super) fn complain(text: &str) {
    let _nobody_reads = writeln!(std::io::stderr(), "{text}");
}
