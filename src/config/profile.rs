//! The profile: a set of defaults.

use super::environment::Environment;
use super::error::ConfigError;
use crate::config_types::parse_word;

/// A set of defaults, chosen by `APP_PROFILE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For development.
    Development,
    /// For production: `serve` refuses to start without a secret.
    Production,
}

impl Profile {
    /// Returns the profile that `APP_PROFILE` names.
    pub(super) fn of_environment(environment: &Environment) -> Result<Self, ConfigError> {
        const NAME: &str = "APP_PROFILE";
        const ORIGIN: &str = "the environment";
        let words = [
            ("development", Self::Development),
            ("production", Self::Production),
        ];
        match environment.get(NAME) {
            None => Ok(Self::Development),
            Some("") => Err(ConfigError::blank(NAME, ORIGIN)),
            Some(word) => parse_word(word, &words).map_err(|problem| ConfigError::Setting {
                key: NAME.to_owned(),
                origin: ORIGIN.to_owned(),
                problem,
            }),
        }
    }
}
