//! The `webhook` section of the configuration.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::payload::{Pointer, Pointers};
use crate::config_types::{
    Bounded, Days, InvalidSetting, Networks, Seconds, Secret, SecretList, StringList, UrlPath,
    parse_word, read_file, trim_quotes,
};
use crate::domain::notification::UnknownImages;
use crate::signing::{Scheme, Verifier, is_ambiguous, key_bytes};

/// The keyword for Cloudflare's networks in `webhook.allowed_addresses`.
const CLOUDFLARE_KEYWORD: &str = "cloudflare";

/// The minimum length of a secret without a warning. An attacker can try all short secrets against one recorded signature.
const MIN_SECRET_BYTES: usize = 16;

/// The age of a secret during a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretAge {
    /// In `webhook.secrets`.
    Current,
    /// In `webhook.previous_secret`.
    Previous,
}

/// Cloudflare's networks at the time of this release.
const BUNDLED_CLOUDFLARE_NETWORKS: &str = include_str!("../../config/cloudflare-addresses.txt");

/// The `webhook` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The path of the webhook.
    pub path: UrlPath,
    secrets: SecretList,
    previous_secret: Secret,
    /// The accepted authentication schemes.
    pub schemes: Schemes,
    /// The maximum difference between the timestamp of a signature and the time of receipt, in either direction.
    pub timestamp_tolerance_secs: Seconds<1, 86_400>,
    unknown_images: UnknownImagesPolicy,
    /// The maximum time for which a notification stays parked. With 0, no notification stays parked.
    pub parked_ttl_days: Days<0, 365>,
    allowed_addresses: AllowedAddresses,
    cloudflare_addresses_file: PathBuf,
    /// The maximum number of requests per second from one client. 0 means no limit.
    pub client_rate_limit_per_second: Bounded<0, 1_000_000>,
    /// The maximum number of requests per second from all clients together. 0 means no limit.
    pub rate_limit_per_second: Bounded<0, 1_000_000>,
    /// The maximum number of requests in flight.
    pub max_in_flight: Bounded<1, 1_000_000>,
    /// The positions of the image's data in a Cloudflare notification.
    pub envelope: EnvelopeSettings,
}

impl Settings {
    /// The renamed keys, as (old, new). An old key still works, with a warning.
    pub(crate) const RENAMED_KEYS: [(&str, &str); 2] = [
        ("webhook.park_days", "webhook.parked_ttl_days"),
        ("webhook.tolerance_secs", "webhook.timestamp_tolerance_secs"),
    ];

    /// The lists that allow every address if they are not set. An empty value is an error, because it is probably a mistake.
    pub(crate) const LISTS_WITH_ITEMS: [&str; 1] = ["webhook.allowed_addresses"];

    /// Returns the accepted secrets, the current ones first.
    pub fn secrets(&self) -> impl Iterator<Item = SecretString> {
        let secrets = self.secrets.iter().chain(self.previous_secret.get());
        secrets.cloned()
    }

    /// Returns whether a secret of this age is shorter than [`MIN_SECRET_BYTES`].
    #[must_use]
    pub fn has_short_secret(&self, age: SecretAge) -> bool {
        let is_short = |secret: &SecretString| key_bytes(secret) < MIN_SECRET_BYTES;
        match age {
            SecretAge::Current => self.secrets.iter().any(is_short),
            SecretAge::Previous => self.previous_secret.get().is_some_and(is_short),
        }
    }

    /// Returns whether the scheme `standard` can read a secret in two ways.
    #[must_use]
    pub fn has_ambiguous_secret(&self) -> bool {
        let mut secrets = self.secrets();
        self.schemes.0.contains(&Scheme::Standard) && secrets.any(|secret| is_ambiguous(&secret))
    }

    /// Returns whether a secret has quotes around it, which are a part of the secret.
    #[must_use]
    pub fn has_quoted_secret(&self) -> bool {
        self.secrets().any(|secret| {
            let secret = secret.expose_secret();
            trim_quotes(secret).len() < secret.len()
        })
    }

    /// Returns the policy for notifications about unknown images.
    #[must_use]
    pub fn unknown_images(&self) -> UnknownImages {
        self.unknown_images.0
    }

    /// Checks the rules that involve several settings or a file.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        self.allowed_networks()?;
        self.verifier().map(drop)
    }

    /// Returns the networks that may send webhooks. Empty means every network. `cloudflare` is replaced by Cloudflare's networks.
    pub(super) fn allowed_networks(&self) -> Result<Networks, InvalidSetting> {
        let mut allowed = self.allowed_addresses.networks.clone();
        if self.allowed_addresses.includes_cloudflare {
            allowed.extend(self.cloudflare_networks()?);
        }
        Ok(allowed)
    }

    fn cloudflare_networks(&self) -> Result<Networks, InvalidSetting> {
        let invalid = |rule| InvalidSetting {
            key: "webhook.cloudflare_addresses_file",
            rule,
        };
        let file = &self.cloudflare_addresses_file;
        let networks = if file.as_os_str().is_empty() {
            Networks::parse_lines(BUNDLED_CLOUDFLARE_NETWORKS)
        } else {
            let text =
                read_file(file).map_err(|error| invalid(format!("cannot be read: {error}")))?;
            Networks::parse_lines(&text)
        };
        match networks {
            Ok(networks) if networks.is_empty() => {
                Err(invalid("must contain at least one network".to_owned()))
            }
            networks => networks.map_err(invalid),
        }
    }

    pub(super) fn verifier(&self) -> Result<Verifier, InvalidSetting> {
        Verifier::new(
            &self.schemes.0,
            self.secrets(),
            self.timestamp_tolerance_secs.seconds(),
        )
        .map_err(|error| InvalidSetting {
            key: "webhook.secrets",
            rule: error.to_string(),
        })
    }
}

/// The networks that may send webhooks.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "StringList")]
struct AllowedAddresses {
    networks: Networks,
    includes_cloudflare: bool,
}

impl TryFrom<StringList> for AllowedAddresses {
    type Error = String;

    fn try_from(texts: StringList) -> Result<Self, String> {
        let texts = texts.into_vec();
        let (keywords, networks): (Vec<_>, Vec<_>) = texts
            .iter()
            .partition(|text| text.trim() == CLOUDFLARE_KEYWORD);
        let networks = Networks::parse(networks.into_iter().map(String::as_str))
            .map_err(|rule| format!("{rule}, or cloudflare"))?;
        Ok(Self {
            networks,
            includes_cloudflare: !keywords.is_empty(),
        })
    }
}

/// The accepted schemes, at least one.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "StringList")]
pub struct Schemes(Vec<Scheme>);

impl TryFrom<StringList> for Schemes {
    type Error = &'static str;

    fn try_from(names: StringList) -> Result<Self, Self::Error> {
        const RULE: &str =
            "must be a list of at least one of cf-webhook-auth, hmac, timestamped, standard";
        names
            .parse_all(|name| Scheme::from_name(&name.to_ascii_lowercase()))
            .map(Self)
            .ok_or(RULE)
    }
}

impl Schemes {
    /// Returns the scheme for the command `send`: the one that Cloudflare uses if it is accepted, else the first.
    #[must_use]
    pub fn preferred(&self) -> Scheme {
        let first = self.0.first().copied().unwrap_or(Scheme::CfWebhookAuth);
        if self.0.contains(&Scheme::CfWebhookAuth) {
            Scheme::CfWebhookAuth
        } else {
            first
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct UnknownImagesPolicy(UnknownImages);

impl TryFrom<String> for UnknownImagesPolicy {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        let words = [
            ("reject", UnknownImages::Reject),
            ("create", UnknownImages::Create),
        ];
        parse_word(&word, &words).map(Self)
    }
}

/// The positions of the image's data in a Cloudflare notification. They are settings, because Cloudflare publishes no schema for
/// the `data` of Images notifications.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are those of the keys")]
pub struct EnvelopeSettings {
    id_pointers: JsonPointers,
    status_pointers: JsonPointers,
    error_pointers: JsonPointers,
}

impl EnvelopeSettings {
    /// Returns the pointers.
    #[must_use]
    pub fn pointers(&self) -> Pointers {
        Pointers {
            id: self.id_pointers.0.clone(),
            status: self.status_pointers.0.clone(),
            error: self.error_pointers.0.clone(),
            can_look_up: false,
        }
    }
}

/// A list of JSON pointers (RFC 6901), at least one.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "StringList")]
struct JsonPointers(Vec<Pointer>);

impl TryFrom<StringList> for JsonPointers {
    type Error = &'static str;

    fn try_from(pointers: StringList) -> Result<Self, Self::Error> {
        const RULE: &str = "must be a list of at least one JSON pointer, such as /data/image/id";
        pointers.parse_all(Pointer::parse).map(Self).ok_or(RULE)
    }
}
