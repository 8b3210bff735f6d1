//! Logging: the format, the filter and the start of the log. The metrics are in [`metrics`].

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
    /// The format of a line.
    pub format: Format,
    /// The filter of log lines.
    pub filter: Filter,
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

    // An error means that logging has already started, for example in tests. The log then stays as it is.
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
