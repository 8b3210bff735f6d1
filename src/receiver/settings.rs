//! The `webhook` section of the configuration.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use super::payload::{Pointer, Pointers};
use crate::config_types::{
    Bounded, Days, InvalidSetting, Networks, Seconds, Secret, SecretList, StringList, read_file,
};
use crate::domain::notification::UnknownImages;
use crate::signing::{Scheme, Verifier};

/// The word for Cloudflare's networks.
const CLOUDFLARE_KEYWORD: &str = "cloudflare";

/// Cloudflare's networks, as far as this release knows.
const BUNDLED_CLOUDFLARE_NETWORKS: &str = include_str!("../../config/cloudflare-addresses.txt");

/// Where webhooks come, who may send them, and what to do with what they say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where Cloudflare posts to.
    pub path: WebhookPath,
    secrets: SecretList,
    previous_secret: Secret,
    /// How a sender may prove that it knows a secret.
    pub schemes: Schemes,
    /// How far a proof's timestamp may be from now, either way.
    pub timestamp_tolerance_secs: Seconds<1, 86_400>,
    unknown_images: UnknownImagesPolicy,
    /// For how long a notification waits for its image's row.
    pub parked_ttl_days: Days<0, 365>,
    allowed_addresses: AllowedAddresses,
    cloudflare_addresses_file: PathBuf,
    /// How many webhooks a second one client may send; 0: any number.
    pub client_rate_limit_per_second: Bounded<0, 1_000_000>,
    /// How many webhooks a second all clients together may send; 0: any number.
    pub rate_limit_per_second: Bounded<0, 1_000_000>,
    /// How many webhooks are worked on at once.
    pub max_in_flight: Bounded<1, 1_000_000>,
    /// Where a Cloudflare notification says what.
    pub envelope: EnvelopeSettings,
}

impl Settings {
    /// The keys that have a new name: the old one still works, with a warning.
    pub(crate) const RENAMED_KEYS: [(&str, &str); 2] = [
        ("webhook.park_days", "webhook.parked_ttl_days"),
        ("webhook.tolerance_secs", "webhook.timestamp_tolerance_secs"),
    ];

    /// The secrets that are accepted, the current ones first.
    pub fn secrets(&self) -> impl Iterator<Item = SecretString> {
        let secrets = self.secrets.iter().chain(self.previous_secret.get());
        secrets.cloned()
    }

    /// What to do with a notification for an unknown image.
    #[must_use]
    pub fn unknown_images(&self) -> UnknownImages {
        self.unknown_images.0
    }

    /// Checks what no single setting can say of itself.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        self.allowed_networks()?;
        self.verifier().map(drop)
    }

    /// From where webhooks are taken; from everywhere, if these are none. `cloudflare` stands for Cloudflare's networks.
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
                Err(invalid("must have a network in it".to_owned()))
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

/// From where webhooks are taken.
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

/// The path of the webhook: it begins with a slash, and whether it ends with one makes no difference.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct WebhookPath(String);

impl TryFrom<String> for WebhookPath {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
        if path.starts_with('/') && !path.contains("//") && path.bytes().all(is_plain) {
            Ok(Self(path.trim_end_matches('/').to_owned()))
        } else {
            Err("must be a path that begins with a slash, of letters, digits and - . _ ~ /")
        }
    }
}

impl WebhookPath {
    /// The path as it is written in documents, with a slash at its end.
    #[must_use]
    pub fn canonical(&self) -> String {
        format!("{}/", self.0)
    }

    /// The ways a client may write it.
    pub(super) fn routes(&self) -> Vec<String> {
        let routes = [self.canonical(), self.0.clone()];
        routes.into_iter().filter(|path| !path.is_empty()).collect()
    }
}

/// The schemes that are on, at least one.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "StringList")]
pub struct Schemes(Vec<Scheme>);

impl TryFrom<StringList> for Schemes {
    type Error = &'static str;

    fn try_from(names: StringList) -> Result<Self, Self::Error> {
        const RULE: &str =
            "must be a list of at least one of cf-webhook-auth, hmac, timestamped, standard";
        names.parse_all(Scheme::from_name).map(Self).ok_or(RULE)
    }
}

impl Schemes {
    /// The one that a sender would use: Cloudflare's own, if it is on.
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
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        match word.as_str() {
            "reject" => Ok(Self(UnknownImages::Reject)),
            "create" => Ok(Self(UnknownImages::Create)),
            _ => Err("must be reject or create"),
        }
    }
}

/// Where a Cloudflare notification says what. Cloudflare publishes no schema for the `data` of Images notifications.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are those of the keys")]
pub struct EnvelopeSettings {
    id_pointers: JsonPointers,
    status_pointers: JsonPointers,
    error_pointers: JsonPointers,
}

impl EnvelopeSettings {
    /// Where to look.
    #[must_use]
    pub fn pointers(&self) -> Pointers {
        Pointers {
            id: self.id_pointers.0.clone(),
            status: self.status_pointers.0.clone(),
            error: self.error_pointers.0.clone(),
        }
    }
}

/// JSON pointers, RFC 6901, at least one.
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
