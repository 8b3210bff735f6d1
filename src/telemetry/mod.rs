//! Logging: the format, the filter and the start of the log. The metrics are in [`metrics`].
//!
//! A log that cannot be written never stops or delays the service: see [`log_queue`].

#[cfg(test)]
pub(crate) mod captured_log;
mod log_queue;
pub mod metrics;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config_types::{Bounded, parse_word};
use log_queue::LogQueue;

/// The time limit for writing the rest of the log at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue of the log, once the log has started.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// The `log` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The format of a line.
    pub format: Format,
    /// The filter of log lines.
    pub filter: Filter,
    /// The maximum number of access-log lines per second for each status of a refused request. 0 means no limit.
    pub refused_lines_per_second: Bounded<0, 1_000_000>,
}

impl Settings {
    /// Returns the maximum number of access-log lines per second for each status of a refused request. 0 means no limit.
    #[must_use]
    pub fn refused_lines_per_second(&self) -> u32 {
        u32::try_from(self.refused_lines_per_second.count()).unwrap_or(u32::MAX)
    }
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

impl TryFrom<String> for Format {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        let words = [
            ("auto", Self::Auto),
            ("text", Self::Text),
            ("json", Self::Json),
        ];
        parse_word(&word, &words)
    }
}

/// The filter directives of the log, in the syntax of `RUST_LOG`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Filter(String);

impl TryFrom<String> for Filter {
    type Error = &'static str;

    fn try_from(directives: String) -> Result<Self, Self::Error> {
        // `EnvFilter` would take a bare word that is not a level as the name of a module, and report no error.
        let are_levels = directives
            .split(',')
            .filter(|directive| !directive.contains(['=', '[']))
            .all(|word| word.trim().parse::<LevelFilter>().is_ok());
        // tracing-subscriber 0.3.23 panics on some characters outside ASCII. No module name contains such characters.
        if are_levels && directives.is_ascii() && EnvFilter::try_new(&directives).is_ok() {
            Ok(Self(directives))
        } else {
            Err(
                "must be a level (error, warn, info, debug, trace), or directives such as info,sqlx=debug",
            )
        }
    }
}

/// Starts logging to standard error, for the life of the process. A second call changes nothing.
///
/// Fails if the system has no thread or file descriptor left.
pub fn start(settings: &Settings) -> io::Result<()> {
    let stderr = io::stderr();
    let is_terminal = stderr.is_terminal();
    let is_json = match settings.format {
        Format::Auto => !is_terminal,
        Format::Text => false,
        Format::Json => true,
    };
    // The log has its own file handle. While the output is blocked, its thread must not hold the lock of `io::stderr`.
    let output = File::from(stderr.as_fd().try_clone_to_owned()?);
    let queue = LogQueue::start(output)?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&settings.filter.0))
        .with_span_events(FmtSpan::NONE)
        // Otherwise tracing-subscriber prints its own errors to standard error, and panics if that fails.
        .log_internal_errors(false)
        .with_writer(queue.clone());

    let started = if is_json {
        subscriber
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        subscriber.with_ansi(is_terminal).try_init()
    };
    // An error means that logging has already started, for example in tests. The log then stays as it is.
    if started.is_ok() {
        let _already_set = QUEUE.set(queue);
    }
    log_panics();
    Ok(())
}

/// Writes the rest of the log, but waits at most one second. Call it before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIMEOUT);
    }
}

/// Writes a line to standard error, after the log if the log has started. A failed write is ignored.
pub fn print_line(text: &str) {
    use std::io::Write;

    match QUEUE.get() {
        Some(queue) => queue.push(format!("{text}\n").as_bytes()),
        None => {
            let _failed = writeln!(io::stderr(), "{text}");
        }
    }
}

/// Returns the number of log lines that were dropped since the log has started.
fn dropped_log_lines() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped_lines)
}

/// Logs each panic as an error on one line.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(location, "panicked: {message}");
    }));
}

/// Returns an error and its sources as one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = Vec::new();
    for text in causes.map(ToString::to_string) {
        // Many libraries repeat the text of the source in their own text.
        if texts.last().is_none_or(|last| !last.ends_with(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
