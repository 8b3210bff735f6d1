//! What can be wrong with a configuration: one sentence that names the key, the source of its value, and what is allowed.

use std::path::PathBuf;

use ::config::{Config, ConfigError as Foreign};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is not allowed.
    #[error("{key}, from {origin}, {problem}")]
    Setting {
        /// The key.
        key: String,
        /// The file or the environment variable.
        origin: String,
        /// What is allowed.
        problem: String,
    },
    /// There is no such key.
    #[error("{key}, from {origin}, is not a setting; {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The file or the environment variable.
        origin: String,
        /// The keys there are.
        known: String,
    },
    /// A secret and its file are both given.
    #[error("{key} and {key}_file are both set in {origin}: keep one of them")]
    Twice {
        /// The key of the secret itself.
        key: String,
        /// The file or the environment.
        origin: String,
    },
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file of a secret cannot be read. Its name is not repeated: a secret may stand where its file's name should be.
    #[error("the file for {key}, named by {origin}, cannot be read: {source}")]
    SecretFile {
        /// The key of the secret.
        key: String,
        /// Where the file's name came from.
        origin: String,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file of a secret has nothing in it. It was made to hold one, so that going on without would let everybody in.
    #[error("the file {path} for {key}, named by {origin}, is empty")]
    EmptySecretFile {
        /// The key of the secret.
        key: String,
        /// The file.
        path: String,
        /// Where the file's name came from.
        origin: String,
    },
    /// A file is no TOML.
    #[error("{file}, line {line}, is not TOML: {problem}")]
    NotToml {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An environment variable is no Unicode.
    #[error("the environment variable {name} must be UTF-8")]
    NotUnicode {
        /// The variable.
        name: String,
    },
    /// The profile `production` has no secret.
    #[error(
        "webhook.secrets is empty, and the profile production does not serve without a secret: set CLOUDFLARE_WEBHOOK_SECRET, or \
         CLOUDFLARE_WEBHOOK_SECRET_FILE"
    )]
    SecretRequired,
}

/// Puts the config crate's error into our sentence. The value itself is left out: it can be a secret under the wrong key.
pub(super) fn explain(error: &Foreign, merged: &Config) -> ConfigError {
    let (key, problem) = key_and_problem(error);
    // The crate leaves the point out between a list's place and a name.
    let key = key.replace(']', "].").replace("..", ".");
    let key = key.trim_end_matches('.').to_owned();
    let setting = key.split('[').next().unwrap_or(&key).to_owned();
    ConfigError::Setting {
        origin: super::origin(merged, &setting),
        key,
        problem,
    }
}

/// The words of serde's own errors have the value in them: only what was expected is kept.
fn without_value(message: &str) -> String {
    let has_value = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .any(|words| message.contains(words));
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if has_value => format!("must be {expected}"),
        None if has_value => "has a value of another kind than it must be".to_owned(),
        _ => message.to_owned(),
    }
}

fn key_and_problem(error: &Foreign) -> (String, String) {
    match error {
        Foreign::At { error, key, .. } => {
            let (inner, problem) = key_and_problem(error);
            (key.clone().unwrap_or(inner), problem)
        }
        Foreign::Type { key, expected, .. } => (
            key.clone().unwrap_or_default(),
            format!("must be {expected}"),
        ),
        Foreign::NotFound(key) => (key.clone(), "is missing".to_owned()),
        Foreign::Message(message) => (String::new(), without_value(message)),
        other => (String::new(), format!("cannot be used: {other}")),
    }
}
