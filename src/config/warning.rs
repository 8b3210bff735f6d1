//! Warnings about a configuration that is valid.

use std::fmt;

use super::effective_settings::EffectiveSetting;
use super::layer::RenamedKey;
use super::profile::Profile;
use crate::receiver::{self, SecretAge};
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
    /// A secret is short.
    ShortSecret {
        /// The setting.
        key: &'static str,
    },
    /// A secret is a text and valid base64, and the scheme `standard` accepts both as the key.
    AmbiguousSecret,
    /// A secret has quotes around it.
    QuotedSecret,
    /// The service cannot be limited to the authority in the database URL.
    AnyAuthority {
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
            Self::ShortSecret { key } => write!(
                f,
                "{key}: a secret has fewer than 16 bytes. Make another one, for example with openssl rand -hex 32."
            ),
            Self::AmbiguousSecret => f.write_str(
                "webhook.secrets: the scheme standard accepts a secret as text and as base64. Write whsec_ before base64.",
            ),
            Self::QuotedSecret => f.write_str(
                "webhook.secrets: a secret has quotes around it, which are a part of it. Remove them unless the sender has them too.",
            ),
            Self::AnyAuthority { origin } => write!(
                f,
                "database.url: with sslmode=verify-ca, a server with a certificate of any authority of this system is accepted (from {origin}). \
                 Use sslmode=verify-full."
            ),
            Self::UnverifiedDatabase { origin } => write!(
                f,
                "database.url: the identity of the server is not checked (from {origin}). Use sslmode=verify-full."
            ),
        }
    }
}

/// Returns the warnings about the database URL. `authorities` is the file that replaces the system's authorities.
pub(super) fn of_database_url(
    url: &DatabaseUrl,
    profile: Profile,
    authorities: Option<&str>,
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
    let trusts_any = match url {
        DatabaseUrl::Sqlite(_) => false,
        DatabaseUrl::Postgres(url) => url.trusts_any_authority(authorities),
    };
    if trusts_any {
        let origin = origin.to_owned();
        warnings.push(ConfigWarning::AnyAuthority { origin });
    } else if profile == Profile::Production && url.is_unverified() {
        let origin = origin.to_owned();
        warnings.push(ConfigWarning::UnverifiedDatabase { origin });
    }
    warnings
}

/// Returns the warnings about the secrets of senders.
///
/// In the profile production, a short secret is an error.
pub(super) fn of_secrets(settings: &receiver::Settings, profile: Profile) -> Vec<ConfigWarning> {
    let mut warnings = Vec::new();
    for (age, key) in [
        (SecretAge::Current, "webhook.secrets"),
        (SecretAge::Previous, "webhook.previous_secret"),
    ] {
        let is_error = profile == Profile::Production && age == SecretAge::Current;
        if !is_error && settings.has_short_secret(age) {
            warnings.push(ConfigWarning::ShortSecret { key });
        }
    }
    if settings.has_ambiguous_secret() {
        warnings.push(ConfigWarning::AmbiguousSecret);
    }
    if settings.has_quoted_secret() {
        warnings.push(ConfigWarning::QuotedSecret);
    }
    warnings
}
