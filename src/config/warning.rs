//! Warnings about a configuration that is valid.

use std::fmt;

use super::effective_settings::EffectiveSetting;
use super::layer::RenamedKey;
use super::profile::Profile;
use crate::store::DatabaseUrl;

/// A setting that works, and that an operator should look at.
#[derive(Debug, Clone)]
pub enum ConfigWarning {
    /// A setting has a value under its old name.
    RenamedKey(RenamedKey),
    /// The database URL has parameters without an effect.
    IgnoredParameters {
        /// The names, and what to use instead.
        parameters: String,
        /// The source of the URL.
        origin: String,
    },
    /// In the profile production, another server could pose as the database.
    UnverifiedDatabase {
        /// The source of the URL.
        origin: String,
    },
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RenamedKey(renamed) => renamed.fmt(f),
            Self::IgnoredParameters { parameters, origin } => write!(
                f,
                "database.url: these parameters have no effect: {parameters} (from {origin})."
            ),
            Self::UnverifiedDatabase { origin } => write!(
                f,
                "database.url: the identity of the server is not checked (from {origin}). Use sslmode=verify-full."
            ),
        }
    }
}

/// Returns the warnings about the database URL.
pub(super) fn of_database_url(
    url: &DatabaseUrl,
    profile: Profile,
    settings: &[EffectiveSetting],
) -> Vec<ConfigWarning> {
    let setting = settings
        .iter()
        .find(|setting| setting.key == "database.url");
    let origin = setting.map_or("the configuration", |setting| &*setting.origin);
    let mut warnings = Vec::new();
    let ignored = url.ignored_parameters().iter().map(ToString::to_string);
    let parameters = ignored.collect::<Vec<_>>().join(", ");
    if !parameters.is_empty() {
        let origin = origin.to_owned();
        warnings.push(ConfigWarning::IgnoredParameters { parameters, origin });
    }
    if profile == Profile::Production && url.is_unverified() {
        let origin = origin.to_owned();
        warnings.push(ConfigWarning::UnverifiedDatabase { origin });
    }
    warnings
}
