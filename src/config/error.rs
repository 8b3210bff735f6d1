//! What can be wrong with a configuration: one sentence that names the key, the source of its value, and what is allowed.

use std::path::PathBuf;

use ::config::ConfigError as CrateError;

use super::shown::EffectiveSetting;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}, from {origin}, {problem}")]
    Setting {
        key: String,
        origin: String,
        problem: String,
    },
    #[error("{key}, from {origin}, is not a setting; {known}")]
    UnknownKey {
        key: String,
        origin: String,
        known: String,
    },
    #[error("{key} and {key}_file are both set in {origin}: keep one of them")]
    ValueAndFile { key: String, origin: String },
    #[error("{new} is also set under its old name {old}, from {origin}: keep {new}")]
    OldAndNewKey {
        old: String,
        new: String,
        origin: String,
    },
    #[error("{} cannot be read: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file of a secret cannot be read. Its name is not repeated: it can be the secret itself, put there by mistake.
    #[error("the file for {key}, named by {origin}, cannot be read: {source}")]
    SecretFile {
        key: String,
        /// Where the file's name came from.
        origin: String,
        source: std::io::Error,
    },
    /// The file of a secret is empty. Without a secret, authentication would be off.
    #[error("the file {path} for {key}, named by {origin}, is empty")]
    EmptySecretFile {
        key: String,
        path: String,
        /// Where the file's name came from.
        origin: String,
    },
    #[error("{file}, line {line}, is not TOML: {problem}")]
    NotToml {
        file: String,
        line: usize,
        problem: String,
    },
    #[error("the environment variable {name} must be UTF-8")]
    NotUnicode { name: String },
    #[error(
        "webhook.secrets is empty, and the profile production does not serve without a secret: set CLOUDFLARE_WEBHOOK_SECRET, or \
         CLOUDFLARE_WEBHOOK_SECRET_FILE"
    )]
    SecretRequired,
}

impl ConfigError {
    /// An error with the origin of the setting. All values in a list of tables have one origin.
    pub(super) fn wrong(key: String, problem: String, settings: &[EffectiveSetting]) -> Self {
        let list = key.split('[').next().unwrap_or_default();
        let is_it = |name: &str| {
            let rest = name.strip_prefix(list);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        let setting = settings.iter().find(|setting| is_it(&setting.key));
        let origin = setting.map_or("the configuration", |setting| &*setting.origin);
        Self::Setting {
            origin: origin.to_owned(),
            key,
            problem,
        }
    }
}

/// Converts serde's error. The value is left out: it can be a secret under the wrong key.
pub(super) fn explain(
    error: &serde_path_to_error::Error<CrateError>,
    settings: &[EffectiveSetting],
) -> ConfigError {
    let mut key = error.path().to_string();
    let mut inner = error.inner();
    while let CrateError::At { error, .. } = inner {
        inner = error;
    }
    let problem = match inner {
        CrateError::NotFound(path) => {
            let field = path.rsplit(['.', ']']).next().unwrap_or_default();
            key = format!("{key}.{field}");
            "is missing".to_owned()
        }
        CrateError::Type { expected, .. } => format!("must be {expected}"),
        CrateError::Message(message) => without_value(message),
        _ => "cannot be used".to_owned(),
    };
    ConfigError::wrong(key, problem, settings)
}

/// Removes the value from a message of serde or of the config crate. What was expected is kept.
fn without_value(message: &str) -> String {
    let has_value = [
        "invalid type: ",
        "invalid value: ",
        "invalid length ",
        "unknown variant ",
        "variant constructor ",
    ]
    .iter()
    .any(|words| message.contains(words));
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if has_value => format!("must be {expected}"),
        None if has_value => "has a value of another kind than it must be".to_owned(),
        _ => message.to_owned(),
    }
}
