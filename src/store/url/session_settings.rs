//! The session settings of a Postgres URL: the schema, and the settings in `options`.
//!
//! libpq sends them when it connects. Poolers refuse that, so the service sets them itself.

use super::ignored_parameter::{IgnoredParameter, USE_TIMEOUT};

/// The settings that Postgres accepts only when a client connects (context `backend` or `superuser-backend` in `pg_settings`).
const ONLY_WHEN_CONNECTING: [&str; 8] = [
    "ignore_system_indexes",
    "jit_debugging_support",
    "jit_profiling_support",
    "local_preload_libraries",
    "log_connections",
    "log_disconnections",
    "post_auth_delay",
    "session_preload_libraries",
];

const SET_BY_SERVICE: &str = "the service sets it";

/// The settings that the service sets after those of the URL (`store::postgres::pool`), and the setting to use instead.
const REPLACED: [(&str, &str); 8] = [
    ("statement_timeout", USE_TIMEOUT),
    ("lock_timeout", USE_TIMEOUT),
    ("idle_in_transaction_session_timeout", USE_TIMEOUT),
    ("plan_cache_mode", SET_BY_SERVICE),
    ("enable_seqscan", SET_BY_SERVICE),
    ("enable_hashjoin", SET_BY_SERVICE),
    ("enable_mergejoin", SET_BY_SERVICE),
    ("jit", SET_BY_SERVICE),
];

/// The names and values of session settings.
#[derive(Clone, Default)]
pub(in crate::store) struct SessionSettings {
    settings: Vec<(String, String)>,
}

impl SessionSettings {
    /// Adds a setting. Of two values for one name, the later one applies.
    pub(super) fn push(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Adds the settings in a text of `options`, and returns the other options, as they were written. An example is Neon's
    /// `endpoint=…`, which its proxy reads.
    pub(super) fn extend_from_options(&mut self, options: &str) -> String {
        let mut others = Vec::new();
        let mut words = split(options).into_iter();
        while let Some(mut word) = words.next() {
            if word.text == "-c"
                && let Some(value) = words.next()
            {
                word.text.push_str(&value.text);
                word.written = format!("{} {}", word.written, value.written);
            }
            match setting(&word.text) {
                Some((name, value)) => self.settings.push((name, value)),
                None => others.push(word.written),
            }
        }
        others.join(" ")
    }

    /// Returns the settings that have no effect, because the service sets them itself.
    pub(super) fn ignored(&self) -> impl Iterator<Item = IgnoredParameter> {
        let replaced = REPLACED.iter().filter(|(replaced, _)| {
            let mut names = self.settings.iter().map(|(name, _)| name);
            names.any(|name| name.eq_ignore_ascii_case(replaced))
        });
        replaced.map(|(name, advice)| IgnoredParameter {
            name: format!("{name} in options"),
            advice: Some(advice),
        })
    }

    /// Returns statements that set them, until the end of the transaction if `is_local`, or else of the session.
    pub(in crate::store) fn sql(&self, is_local: bool) -> String {
        let set = |(name, value): &(String, String)| {
            let (name, value) = (literal(name), literal(value));
            // `SET` would take a list of schemas in quotes for one schema.
            format!("SELECT set_config({name}, {value}, {is_local});")
        };
        self.settings.iter().map(set).collect()
    }
}

/// A word of the text of `options`.
#[derive(Default)]
struct Word {
    /// As it was written.
    written: String,
    /// Without escapes.
    text: String,
}

/// Splits a text of `options` at white space. A backslash keeps the next character (`pg_split_opts` in Postgres).
fn split(options: &str) -> Vec<Word> {
    let mut words = vec![Word::default()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        if character.is_ascii_whitespace() {
            words.push(Word::default());
            continue;
        }
        let Some(word) = words.last_mut() else {
            continue;
        };
        word.written.push(character);
        if character != '\\' {
            word.text.push(character);
        } else if let Some(escaped) = characters.next() {
            word.written.push(escaped);
            word.text.push(escaped);
        }
    }
    words.retain(|word| !word.written.is_empty());
    words
}

/// Returns the name and the value of `-cname=value` or `--name=value`, if a client may set it after connecting.
fn setting(word: &str) -> Option<(String, String)> {
    let assignment = word
        .strip_prefix("-c")
        .or_else(|| word.strip_prefix("--"))?;
    let (name, value) = assignment.split_once('=')?;
    let name = name.replace('-', "_").to_ascii_lowercase();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
    let may_be_set = !ONLY_WHEN_CONNECTING.contains(&&*name);
    (!name.is_empty() && name.bytes().all(is_name) && may_be_set).then(|| (name, value.to_owned()))
}

/// Returns a text as an SQL literal that no setting of the server changes.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
