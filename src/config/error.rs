//! The errors of a configuration: the key, the problem, the source of the value, and the remedy.
//!
//! No error repeats a value, because it can be a secret under the wrong key.

use std::path::PathBuf;

use ::config::ConfigError as CrateError;

use super::effective_settings::EffectiveSetting;

/// The address for webhooks, with which the other address can collide.
const LISTEN: &str = "server.listen";

/// The reason why the settings could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}: {}", with_origin(problem, origin))]
    Setting {
        key: String,
        origin: String,
        /// The problem. The remedy may follow as a second sentence.
        problem: String,
    },
    /// A value has nothing but white space. Trimmed, it would turn authentication off, or choose a default.
    #[error(
        "{key}: has only white space (from {origin}). {}",
        remedy_of_blank(key)
    )]
    Blank { key: String, origin: String },
    #[error("{key}: unknown setting (from {origin}). {known}")]
    UnknownKey {
        key: String,
        origin: String,
        /// A sentence that lists the known keys.
        known: String,
    },
    #[error("{key}: {key}_file is set too (from {origin}). Remove one of them.")]
    ValueAndFile { key: String, origin: String },
    #[error("{new}: its old name {old} is set too (from {origin}). Remove {old}.")]
    OldAndNewKey {
        old: String,
        new: String,
        origin: String,
    },
    #[error("cannot read the configuration file {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file of a secret cannot be read. The path is not repeated: by mistake it can be the secret itself.
    #[error("{key}: cannot read the file that {origin} names: {source}")]
    SecretFile {
        key: String,
        /// The source of the file's path.
        origin: String,
        source: std::io::Error,
    },
    /// The file of a secret is empty. Without this error, authentication would be off.
    #[error("{key}: the file {path} is empty (from {origin}). Write the value into it.")]
    EmptySecretFile {
        key: String,
        path: String,
        /// The source of the file's path.
        origin: String,
    },
    #[error("{file}, line {line}: invalid TOML: {problem}")]
    NotToml {
        file: String,
        line: usize,
        problem: String,
    },
    /// A list without an item, which would allow every address.
    #[error(
        "{key}: has no item (from {origin}). Remove it, or write 0.0.0.0/0 and ::/0 to allow every address."
    )]
    EmptyList { key: String, origin: String },
    #[error(
        "webhook.secrets: a secret has fewer than 16 bytes, and the profile production refuses it. Make another one, for example with \
         openssl rand -hex 32."
    )]
    ShortSecret,
    #[error("the environment variable {name} is not valid UTF-8")]
    NotUnicode { name: String },
    #[error(
        "webhook.secrets: no secret is set, and the profile production requires one. Set CLOUDFLARE_WEBHOOK_SECRET or \
         CLOUDFLARE_WEBHOOK_SECRET_FILE."
    )]
    SecretRequired,
}

impl ConfigError {
    /// Returns the error of a value that has only white space.
    pub(super) fn blank(key: &str, origin: &str) -> Self {
        Self::Blank {
            key: key.to_owned(),
            origin: origin.to_owned(),
        }
    }

    /// Returns the error of an invalid setting, with the origin of its value. All values in a list of tables have one origin.
    pub(super) fn invalid(key: String, problem: String, settings: &[EffectiveSetting]) -> Self {
        let list = key.split('[').next().unwrap_or_default();
        let is_in_list = |name: &str| {
            let suffix = name.strip_prefix(list);
            suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('['))
        };
        let setting = settings.iter().find(|setting| is_in_list(&setting.key));
        let origin = setting.map_or("the configuration", |setting| &*setting.origin);
        let mut origin = origin.to_owned();
        // This error is about two settings, and the other one is usually the wrong one.
        let other = settings.iter().find(|setting| {
            key == "ops.listen" && setting.key == LISTEN && problem.contains(LISTEN)
        });
        if let Some(other) = other {
            origin = format!("{origin}, {LISTEN} from {}", other.origin);
        }
        Self::Setting {
            origin,
            key,
            problem,
        }
    }
}

fn remedy_of_blank(key: &str) -> &'static str {
    if key == "webhook.secrets" {
        "Write a secret, or an empty value to turn authentication off."
    } else {
        "Write a value, or remove it."
    }
}

/// Inserts the origin of a value after the first sentence of its problem. A sentence begins with a capital letter.
fn with_origin(problem: &str, origin: &str) -> String {
    let begins_sentence = |end: usize| problem[end + 2..].starts_with(char::is_uppercase);
    let mut ends = problem.match_indices(". ").map(|(end, _)| end);
    match ends.find(|end| begins_sentence(*end)) {
        Some(end) => format!("{} (from {origin}){}", &problem[..end], &problem[end..]),
        None => format!("{problem} (from {origin})"),
    }
}

/// Converts an error of serde. Leaves out the value.
pub(super) fn of_serde(
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
        _ => "has an invalid value".to_owned(),
    };
    ConfigError::invalid(key, problem, settings)
}

/// Removes the value from a message of serde or of the config crate. Returns what was expected instead.
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
        None if has_value => "has a value of the wrong type".to_owned(),
        _ => message.to_owned(),
    }
}
