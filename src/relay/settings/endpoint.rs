//! One endpoint's settings.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::value::MapDeserializer;

use crate::domain::delivery::RetryPolicy;
use crate::domain::event::{EventKind, Model, Subscription};
use crate::relay::message::Form;
use crate::relay::oauth2::ClientAuthentication;
use crate::relay::program::Program;
use crate::relay::shape::{Fields, Masks, Shapes};
use crate::setting::{Bounded, Switch, Texts};
use crate::signing::Scheme;

/// One subscriber. Everything but its name and its URL has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::relay) struct EndpointSettings {
    /// What it is called in tables, logs and commands.
    pub(in crate::relay) name: String,
    /// Where messages are sent to. As good as a secret: some have a token in their path.
    pub(in crate::relay) url: SecretString,
    #[serde(default)]
    secret: SecretString,
    #[serde(default)]
    secrets: Texts,
    #[serde(default)]
    events: Option<Texts>,
    #[serde(default)]
    include_models: Option<Texts>,
    #[serde(default)]
    exclude_models: Texts,
    #[serde(default)]
    include_fields: Fields,
    #[serde(default)]
    exclude_fields: Fields,
    #[serde(default)]
    redact_fields: Masks,
    #[serde(default)]
    when: String,
    #[serde(default)]
    transform: String,
    /// What messages are published under, where that is asked.
    #[serde(default)]
    pub(in crate::relay) subject: String,
    /// Sent with every message.
    #[serde(default)]
    pub(in crate::relay) headers: BTreeMap<String, SecretString>,
    /// Whose token is sent with every message.
    #[serde(default)]
    pub(in crate::relay) auth: Option<AuthSettings>,
    #[serde(default)]
    signatures: Option<Texts>,
    /// How long one call may take in all: to connect, to send, and to read the answer.
    #[serde(default = "timeout")]
    pub(in crate::relay) timeout_secs: Bounded<1, 300>,
    #[serde(default)]
    retry: RetrySettings,
    /// How many calls may be under way at once.
    #[serde(default = "max_in_flight")]
    pub(in crate::relay) max_in_flight: Bounded<1, 1000>,
    /// How many calls may begin in a second; 0: any number.
    #[serde(default = "no_limit")]
    pub(in crate::relay) rate_limit_per_second: Bounded<0, 100_000>,
    /// Whether messages about one image are sent one after another, in the order of their events.
    #[serde(default = "off")]
    pub(in crate::relay) ordered: Switch,
    /// Whether messages wait until this is off again.
    #[serde(default = "off")]
    pub(in crate::relay) paused: Switch,
}

/// How an endpoint is told who we are, beside the signature.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(in crate::relay) enum AuthSettings {
    /// By a token of OAuth 2.0's client credentials.
    OAuth2 {
        client_id: String,
        client_secret: SecretString,
        token_url: SecretString,
        #[serde(default)]
        scope: String,
        #[serde(default)]
        client_authentication: ClientAuthentication,
    },
}

fn timeout() -> Bounded<1, 300> {
    Bounded::constant(30)
}

fn max_in_flight() -> Bounded<1, 1000> {
    Bounded::constant(16)
}

fn no_limit() -> Bounded<0, 100_000> {
    Bounded::constant(0)
}

fn off() -> Switch {
    Switch::Off
}

/// How often and when a delivery that failed is tried again. By default ten times over two and a half to three hours.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetrySettings {
    max_retries: Bounded<0, 1000>,
    delay_secs: Bounded<0, 86_400>,
    backoff_factor: f64,
    max_delay_secs: Bounded<0, 604_800>,
    on_status: Vec<Bounded<100, 599>>,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_retries: Bounded::constant(10),
            delay_secs: Bounded::constant(10),
            backoff_factor: 2.0,
            max_delay_secs: Bounded::constant(3600),
            on_status: Vec::new(),
        }
    }
}

/// The longest name. It is in every row of the delivery log.
const MAX_NAME: usize = 64;

/// The schemes that an endpoint may be signed for, and both by default.
const SCHEMES: [Scheme; 2] = [Scheme::Timestamped, Scheme::Standard];

impl EndpointSettings {
    /// One with nothing but the defaults beside.
    pub(in crate::relay) fn plain(name: &str, url: &SecretString, secret: &SecretString) -> Self {
        let texts = [
            ("name", name),
            ("url", url.expose_secret()),
            ("secret", secret.expose_secret()),
        ];
        let texts = MapDeserializer::<_, serde::de::value::Error>::new(texts.into_iter());
        Self::deserialize(texts).expect("they are texts, and all else has a default")
    }

    /// Checks the name: it stands in commands, and must not look like something else there.
    pub(in crate::relay) fn check_name(&self) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let is_good = (1..=MAX_NAME).contains(&self.name.len())
            && self.name.bytes().all(is_plain)
            && !self.name.starts_with('-');
        is_good.then_some(()).ok_or_else(|| {
            format!("must have a name of up to {MAX_NAME} letters, digits, -, _ and .")
        })
    }

    pub(in crate::relay) fn subscription(&self) -> Result<Subscription, String> {
        let kinds = match &self.events {
            None => EventKind::ALL.to_vec(),
            Some(names) => all(names, EventKind::named)
                .ok_or("has events that are not created, updated or deleted")?,
        };
        let models = |labels: &Texts| {
            all(labels, Model::labelled).ok_or(
                "has models that are not cloudflare_images.CloudflareImage or cloudflare_images.ImageUploadLog",
            )
        };
        let mut included = match &self.include_models {
            None => Model::ALL.to_vec(),
            Some(labels) => models(labels)?,
        };
        let excluded = models(&self.exclude_models)?;
        included.retain(|model| !excluded.contains(model));
        if included.is_empty() || kinds.is_empty() {
            return Err("would be told nothing: its models or its events are none".to_owned());
        }
        Ok(Subscription {
            endpoint: self.name.clone(),
            kinds,
            models: included,
            ordered: self.ordered == Switch::On,
        })
    }

    /// What is made of an event.
    pub(in crate::relay) fn form(&self) -> Result<Form, String> {
        let program = |name: &str, code: &str| {
            let is_there = !code.trim().is_empty();
            let program = is_there.then(|| Program::new(code)).transpose();
            program.map_err(|problem| format!("has a `{name}` that {problem}"))
        };
        let (fields, excluded) = (&self.include_fields, &self.exclude_fields);
        Ok(Form {
            shapes: Shapes::new(fields, excluded, &self.redact_fields)?,
            when: program("when", &self.when)?,
            transform: program("transform", &self.transform)?,
        })
    }

    /// Under which schemes messages are signed.
    pub(in crate::relay) fn schemes(&self) -> Result<Vec<Scheme>, String> {
        let Some(names) = &self.signatures else {
            return Ok(SCHEMES.to_vec());
        };
        let ours = |name: &str| Scheme::named(name).filter(|scheme| SCHEMES.contains(scheme));
        all(names, ours)
            .ok_or_else(|| "has signatures that are not timestamped or standard".to_owned())
    }

    /// The secrets that sign, the first being the one that counts where there is room for one signature.
    pub(in crate::relay) fn secrets(&self) -> Vec<SecretString> {
        let secrets = self.secrets.clone().into_vec();
        [self.secret.expose_secret().to_owned()]
            .into_iter()
            .chain(secrets)
            .map(|secret| secret.trim().to_owned())
            .filter(|secret| !secret.is_empty())
            .map(SecretString::from)
            .collect()
    }

    pub(in crate::relay) fn retry(&self) -> Result<RetryPolicy, String> {
        let retry = &self.retry;
        if !(1.0..=100.0).contains(&retry.backoff_factor) {
            return Err("must have a retry.backoff_factor from 1 to 100".to_owned());
        }
        let statuses = retry.on_status.iter();
        Ok(RetryPolicy {
            max_retries: u32::try_from(retry.max_retries.count()).unwrap_or(u32::MAX),
            delay: retry.delay_secs.seconds(),
            backoff_factor: retry.backoff_factor,
            max_delay: retry.max_delay_secs.seconds(),
            on_status: statuses
                .filter_map(|status| u16::try_from(status.count()).ok())
                .collect(),
        })
    }

    /// How long one call may take.
    pub(in crate::relay) fn timeout(&self) -> Duration {
        self.timeout_secs.seconds()
    }
}

/// What all of the texts name, each once; `None` if one of them names nothing.
fn all<T: PartialEq>(texts: &Texts, named: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let mut found = Vec::new();
    for text in texts.clone().into_vec() {
        let one = named(&text)?;
        if !found.contains(&one) {
            found.push(one);
        }
    }
    Some(found)
}
