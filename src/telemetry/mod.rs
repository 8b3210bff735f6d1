//! Logging: where it goes, in which form, and how much of it.

#[cfg(test)]
pub(crate) mod captured_log;
pub mod metrics;

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The `log` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// What is logged.
    pub filter: Filter,
}

/// The form of a log line.
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
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        match word.as_str() {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be auto, text or json"),
        }
    }
}

/// The directives of what is logged, in the language of `RUST_LOG`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Filter(String);

impl TryFrom<String> for Filter {
    type Error = &'static str;

    fn try_from(directives: String) -> Result<Self, Self::Error> {
        // A bare word that is no level would silently name a module that does not exist.
        let are_levels = directives
            .split(',')
            .filter(|directive| !directive.contains(['=', '[']))
            .all(|word| word.trim().parse::<LevelFilter>().is_ok());
        // tracing-subscriber 0.3.23 panics at some letters outside ASCII; no module of ours, nor of a library, has any.
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
pub fn start(settings: &Settings) {
    let is_json = match settings.format {
        Format::Auto => !std::io::stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&settings.filter.0))
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr);

    // An error means that somebody has started logging already, as tests do; their logs then stay where they are.
    let _already_started = if is_json {
        subscriber
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        subscriber
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
    log_panics();
}

/// A panic is a fault of ours: it goes to the log like any other, on one line.
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

/// An error and what caused it, in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = Vec::new();
    for text in causes.map(ToString::to_string) {
        // Many libraries repeat their cause in their own text.
        if texts.last().is_none_or(|last| !last.ends_with(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
