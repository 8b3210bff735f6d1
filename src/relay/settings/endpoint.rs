//! The settings of one endpoint.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use url::Url;

use super::nats::NatsSettings;
use crate::config_types::{
    Bounded, Seconds, Secret, SecretList, StringList, parse_word, strict_bool,
};
use crate::domain::delivery::RetryPolicy;
use crate::domain::event::{EventKind, Model, Subscription};
use crate::signing::Scheme;

/// Field names under a model's label, or under `*` for every model.
pub(in crate::relay) type FieldNames = BTreeMap<String, Vec<String>>;

/// Replacements for fields, by field name, under a model's label or under `*` for every model.
pub(in crate::relay) type Redactions = BTreeMap<String, BTreeMap<String, String>>;

/// The settings of one endpoint. Every key except `name` and `url` has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with a name and a url")]
pub(in crate::relay) struct EndpointSettings {
    /// The name in tables, logs and commands.
    pub(in crate::relay) name: String,
    /// The destination. It is a secret because some URLs have a token in their path.
    pub(in crate::relay) url: SecretString,
    #[serde(default)]
    secret: Secret,
    #[serde(default)]
    secrets: SecretList,
    #[serde(default)]
    events: Option<StringList>,
    #[serde(default)]
    include_models: Option<StringList>,
    #[serde(default)]
    exclude_models: StringList,
    #[serde(default)]
    pub(in crate::relay) include_fields: FieldNames,
    #[serde(default)]
    pub(in crate::relay) exclude_fields: FieldNames,
    #[serde(default)]
    pub(in crate::relay) redact_fields: Redactions,
    /// A jq program that decides whether an event is sent.
    #[serde(default)]
    pub(in crate::relay) when: String,
    /// A jq program whose first output replaces the message.
    #[serde(default)]
    pub(in crate::relay) transform: String,
    /// The template of the NATS subject. Only for NATS endpoints.
    #[serde(default)]
    pub(in crate::relay) subject: String,
    /// The credentials for NATS servers. Only for NATS endpoints.
    #[serde(default)]
    pub(in crate::relay) nats: Option<NatsSettings>,
    /// Headers that are sent with every message.
    #[serde(default)]
    pub(in crate::relay) headers: BTreeMap<String, SecretString>,
    /// The credentials for a bearer token. Only for HTTP endpoints.
    #[serde(default)]
    pub(in crate::relay) auth: Option<AuthSettings>,
    #[serde(default)]
    signatures: Option<StringList>,
    /// The deadline of one call: connecting, sending and reading the response.
    #[serde(default = "default_timeout")]
    pub(in crate::relay) timeout_secs: Seconds<1, 300>,
    #[serde(default)]
    retry: RetrySettings,
    /// The limit of concurrent calls.
    #[serde(default = "default_max_in_flight")]
    pub(in crate::relay) max_in_flight: Bounded<1, 1000>,
    /// The limit of calls per second. 0 means no limit.
    #[serde(default = "no_limit")]
    pub(in crate::relay) rate_limit_per_second: Bounded<0, 100_000>,
    /// Whether messages about one image are sent one at a time, in the order of their events.
    #[serde(default, deserialize_with = "strict_bool")]
    pub(in crate::relay) ordered: bool,
    /// Whether deliveries wait until the setting is off again.
    #[serde(default, deserialize_with = "strict_bool")]
    pub(in crate::relay) paused: bool,
}

/// The service's credentials at an endpoint, in addition to the signature.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(in crate::relay) enum AuthSettings {
    /// A token from OAuth 2.0 client credentials (RFC 6749, section 4.4).
    OAuth2 {
        client_id: String,
        client_secret: SecretString,
        token_url: SecretString,
        #[serde(default)]
        scope: String,
        #[serde(default)]
        client_authentication: ClientAuthentication,
        /// Further fields of the token request, such as `audience`.
        #[serde(default)]
        form: BTreeMap<String, FormValue>,
    },
}

/// A field of a token request, once or several times, as RFC 8707 allows for `resource`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub(in crate::relay) enum FormValue {
    One(String),
    Several(Vec<String>),
}

impl FormValue {
    pub(in crate::relay) fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        }
    }
}

/// The place of the client's credentials in a token request (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(in crate::relay) enum ClientAuthentication {
    /// The `Authorization` header, which every server supports.
    #[default]
    Basic,
    /// The form.
    Body,
}

impl TryFrom<String> for ClientAuthentication {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        parse_word(&word, &[("basic", Self::Basic), ("body", Self::Body)])
    }
}

fn default_timeout() -> Seconds<1, 300> {
    Seconds::new_const(30)
}

fn default_max_in_flight() -> Bounded<1, 1000> {
    Bounded::new_const(16)
}

fn no_limit() -> Bounded<0, 100_000> {
    Bounded::new_const(0)
}

/// The retries of a failed delivery. The default is ten retries over two and a half to three hours.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetrySettings {
    max_retries: Bounded<0, 1000>,
    delay_secs: Seconds<0, 86_400>,
    backoff_factor: f64,
    max_delay_secs: Seconds<0, 604_800>,
    on_status: Vec<Bounded<100, 599>>,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_retries: Bounded::new_const(10),
            delay_secs: Seconds::new_const(10),
            backoff_factor: 2.0,
            max_delay_secs: Seconds::new_const(3600),
            on_status: Vec::new(),
        }
    }
}

/// The maximum length of a name. Every delivery row repeats the name.
const MAX_NAME_LENGTH: usize = 64;

/// The schemes that can sign messages. The default is both.
const SUPPORTED_SCHEMES: [Scheme; 2] = [Scheme::Timestamped, Scheme::Standard];

impl EndpointSettings {
    /// Returns settings with this name, URL and secret, and the defaults for all other keys.
    pub(in crate::relay) fn with_defaults(name: &str, url: &Secret, secret: &Secret) -> Self {
        let url = url.get().map_or("", ExposeSecret::expose_secret);
        let values = [("name", name), ("url", url)];
        let values = MapDeserializer::<_, serde::de::value::Error>::new(values.into_iter());
        Self {
            secret: secret.clone(),
            ..Self::deserialize(values).expect("every key except name and url has a default")
        }
    }

    /// Checks the name. Operators type it in commands, so it must not look like an option.
    pub(in crate::relay) fn check_name(&self) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let is_valid = (1..=MAX_NAME_LENGTH).contains(&self.name.len())
            && self.name.bytes().all(is_plain)
            && !self.name.starts_with('-');
        is_valid.then_some(()).ok_or_else(|| {
            format!("name must have 1 to {MAX_NAME_LENGTH} letters, digits, -, _ or ., and must not begin with -")
        })
    }

    pub(in crate::relay) fn subscription(&self) -> Result<Subscription, String> {
        let kinds = match &self.events {
            None => EventKind::ALL.to_vec(),
            Some(names) => items_named(names, EventKind::from_name)
                .ok_or("events must be created, updated or deleted")?,
        };
        let models = |labels: &StringList| {
            items_named(labels, Model::from_label).ok_or(
                "include_models and exclude_models can only have cloudflare_images.CloudflareImage and cloudflare_images.ImageUploadLog",
            )
        };
        let mut included = match &self.include_models {
            None => Model::ALL.to_vec(),
            Some(labels) => models(labels)?,
        };
        let excluded = models(&self.exclude_models)?;
        included.retain(|model| !excluded.contains(model));
        if included.is_empty() || kinds.is_empty() {
            return Err(
                "the endpoint would receive no events: it has no events or no models".to_owned(),
            );
        }
        Ok(Subscription {
            endpoint: self.name.clone(),
            kinds,
            models: included,
            ordered: self.ordered,
        })
    }

    pub(in crate::relay) fn schemes(&self) -> Result<Vec<Scheme>, String> {
        let Some(names) = &self.signatures else {
            return Ok(SUPPORTED_SCHEMES.to_vec());
        };
        let supported = |name: &str| {
            Scheme::from_name(&name.to_ascii_lowercase())
                .filter(|scheme| SUPPORTED_SCHEMES.contains(scheme))
        };
        items_named(names, supported)
            .ok_or_else(|| "signatures must be timestamped or standard".to_owned())
    }

    /// Returns the secrets that sign the messages. A scheme with one signature per message uses the first.
    pub(in crate::relay) fn secrets(&self) -> Vec<SecretString> {
        let secrets = self.secret.get().into_iter().chain(self.secrets.iter());
        secrets.cloned().collect()
    }

    pub(in crate::relay) fn retry(&self) -> Result<RetryPolicy, String> {
        let retry = &self.retry;
        if !(1.0..=100.0).contains(&retry.backoff_factor) {
            return Err("retry.backoff_factor must be from 1 to 100".to_owned());
        }
        let statuses = retry.on_status.iter();
        Ok(RetryPolicy {
            max_retries: u32::try_from(retry.max_retries.count())
                .expect("the setting is at most 1,000"),
            delay: retry.delay_secs.seconds(),
            backoff_factor: retry.backoff_factor,
            max_delay: retry.max_delay_secs.seconds(),
            on_status: statuses
                .map(|status| u16::try_from(status.count()).expect("a status is at most 599"))
                .collect(),
        })
    }

    pub(in crate::relay) fn timeout(&self) -> Duration {
        self.timeout_secs.seconds()
    }
}

/// Returns the URL. `None` if the text is not a URL or has no host.
pub(in crate::relay) fn parse_url(text: &SecretString) -> Option<Url> {
    let url = Url::parse(text.expose_secret().trim()).ok();
    url.filter(Url::has_host)
}

/// Returns the URLs of the servers of an endpoint. Only NATS has several, separated by commas. A password may contain a comma, so
/// only a comma before a scheme separates. `None` if one of them is not a URL.
pub(in crate::relay) fn parse_urls(text: &SecretString) -> Option<Vec<Url>> {
    let text = text.expose_secret().trim();
    let begins_server = |text: &str| text.starts_with("nats://") || text.starts_with("tls://");
    let mut starts = vec![0];
    if begins_server(text) {
        let commas = text.match_indices(',').map(|(comma, _)| comma + 1);
        starts.extend(commas.filter(|start| begins_server(text[*start..].trim_start())));
    }
    let ends = starts
        .iter()
        .skip(1)
        .map(|start| start - 1)
        .chain([text.len()]);
    let urls = starts.iter().zip(ends);
    urls.map(|(start, end)| parse_url(&text[*start..end].into()))
        .collect()
}

/// Returns the items with these names, without duplicates. `None` if a name is unknown.
fn items_named<T: PartialEq>(
    names: &StringList,
    find: impl Fn(&str) -> Option<T>,
) -> Option<Vec<T>> {
    let mut found = Vec::new();
    for name in names.clone().into_vec() {
        let item = find(&name)?;
        if !found.contains(&item) {
            found.push(item);
        }
    }
    Some(found)
}
