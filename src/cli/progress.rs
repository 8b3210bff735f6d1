//! A progress bar on a terminal. Without a terminal there is none.

use std::io::{self, IsTerminal, Write};

use crate::telemetry;

/// The number of characters of the bar.
const BAR_WIDTH: u64 = 30;

/// The control sequence that clears the line of the cursor (ECMA-48, EL).
const CLEAR_LINE: &str = "\r\u{1b}[2K";

/// The progress of a command, on the last line of standard error.
pub(super) struct Progress {
    is_terminal: bool,
    /// The size of the work, if it is known.
    total: Option<u64>,
}

impl Progress {
    pub(super) fn new(total: Option<u64>) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { is_terminal, total }
    }

    /// Shows the part of the work that is done, and a text.
    pub(super) fn show(&mut self, done: u64, text: &str) {
        let bar = self.total.map(|total| bar(done, total)).unwrap_or_default();
        self.write(&format!("{CLEAR_LINE}{bar}{text}"));
    }

    /// Removes the bar.
    pub(super) fn clear(&mut self) {
        self.write(CLEAR_LINE);
    }

    /// Prints a line above the bar.
    pub(super) fn print_line(&mut self, line: &str) {
        if self.is_terminal {
            self.write(&format!("{CLEAR_LINE}{line}\n"));
        } else {
            telemetry::print_line(line);
        }
    }

    fn write(&mut self, text: &str) {
        if self.is_terminal {
            let mut stderr = io::stderr();
            // Without a terminal that shows it, the bar is of no use.
            let _failed = stderr.write_all(text.as_bytes());
        }
    }
}

fn bar(done: u64, total: u64) -> String {
    let part = |width: u64| width * done.min(total) / total.max(1);
    let filled = usize::try_from(part(BAR_WIDTH)).unwrap_or_default();
    let width = usize::try_from(BAR_WIDTH).unwrap_or_default();
    format!("[{:<width$}] {} %  ", "=".repeat(filled), part(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_has_constant_width() {
        for (done, total, expected) in [
            (0, 10, "[                              ] 0 %  "),
            (5, 10, "[===============               ] 50 %  "),
            (10, 10, "[==============================] 100 %  "),
            (11, 10, "[==============================] 100 %  "),
            (0, 0, "[                              ] 0 %  "),
        ] {
            assert_eq!(bar(done, total), expected);
        }
    }
}
