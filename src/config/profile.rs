//! The profile: a set of defaults.

use super::environment::Environment;
use super::error::ConfigError;

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
        match environment.get("APP_PROFILE") {
            None | Some("development") => Ok(Self::Development),
            Some("production") => Ok(Self::Production),
            Some(_) => Err(ConfigError::Setting {
                key: "APP_PROFILE".to_owned(),
                origin: "the environment".to_owned(),
                problem: "must be development or production".to_owned(),
            }),
        }
    }
}
