//! The `relay` section of the configuration.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::endpoint::Endpoint;
use super::guard::Guard;
use super::message::Form;
use super::oauth2::ClientAuthentication;
use super::program::Program;
use super::shape::{Fields, Masks, Shapes};
use crate::domain::delivery::RetryPolicy;
use crate::domain::event::{EventKind, Model, Subscription};
use crate::setting::{Bounded, InvalidSetting, Switch, Texts};
use crate::signing::Scheme;

/// Who is told what.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    endpoints: Vec<EndpointSettings>,
    /// Whether nothing is sent to private addresses.
    pub deny_private: Switch,
}

/// One subscriber. Everything but its name and its URL has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointSettings {
    /// What it is called in tables, logs and commands.
    pub(super) name: String,
    /// Where messages are posted to. As good as a secret: some have a token in their path.
    pub(super) url: SecretString,
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
    /// Sent with every message.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, SecretString>,
    /// Whose token is sent with every message.
    #[serde(default)]
    pub(super) auth: Option<AuthSettings>,
    #[serde(default)]
    signatures: Option<Texts>,
    /// How long one call may take in all: to connect, to send, and to read the answer.
    #[serde(default = "timeout")]
    pub(super) timeout_secs: Bounded<1, 300>,
    #[serde(default)]
    retry: RetrySettings,
    /// How many calls may be under way at once.
    #[serde(default = "max_in_flight")]
    pub(super) max_in_flight: Bounded<1, 1000>,
    /// How many calls may begin in a second; 0: any number.
    #[serde(default = "no_limit")]
    pub(super) rate_limit_per_second: Bounded<0, 100_000>,
    /// Whether messages about one image are sent one after another, in the order of their events.
    #[serde(default = "off")]
    pub(super) ordered: Switch,
    /// Whether messages wait until this is off again.
    #[serde(default = "off")]
    pub(super) paused: Switch,
}

/// How an endpoint is told who we are, beside the signature.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum AuthSettings {
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

/// How often and when a delivery that failed is tried again. By default ten times over some three hours.
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

impl Settings {
    /// Checks what no single setting can say of itself.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        self.endpoints().map(drop)
    }

    /// Who wants which events.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let subscriptions = self.endpoints.iter().map(EndpointSettings::subscription);
        subscriptions.filter_map(Result::ok).collect()
    }

    /// The endpoints' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| endpoint.name.as_str())
    }

    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, InvalidSetting> {
        let guard = Guard::new(self.deny_private == Switch::On);
        let mut names = HashSet::new();
        self.endpoints
            .iter()
            .map(|settings| {
                let endpoint = settings
                    .subscription()
                    .and_then(|_| Endpoint::new(settings, &guard));
                let is_new = names.insert(&settings.name);
                endpoint
                    .and_then(|endpoint| {
                        is_new.then_some(endpoint).ok_or_else(|| {
                            "has the name of another: each needs a name of its own".to_owned()
                        })
                    })
                    .map_err(|problem| InvalidSetting {
                        key: "relay.endpoints",
                        rule: format!("has an endpoint {:?} that {problem}", settings.name),
                    })
            })
            .collect()
    }
}

impl EndpointSettings {
    /// Checks the name: it stands in commands, and must not look like something else there.
    pub(super) fn check_name(&self) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let is_good = (1..=MAX_NAME).contains(&self.name.len())
            && self.name.bytes().all(is_plain)
            && !self.name.starts_with('-');
        is_good.then_some(()).ok_or_else(|| {
            format!("must have a name of up to {MAX_NAME} letters, digits, -, _ and .")
        })
    }

    fn subscription(&self) -> Result<Subscription, String> {
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
    pub(super) fn form(&self) -> Result<Form, String> {
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
    pub(super) fn schemes(&self) -> Result<Vec<Scheme>, String> {
        let Some(names) = &self.signatures else {
            return Ok(SCHEMES.to_vec());
        };
        let ours = |name: &str| Scheme::named(name).filter(|scheme| SCHEMES.contains(scheme));
        all(names, ours)
            .ok_or_else(|| "has signatures that are not timestamped or standard".to_owned())
    }

    /// The secrets that sign, the first being the one that counts where there is room for one signature.
    pub(super) fn secrets(&self) -> Vec<SecretString> {
        let secrets = self.secrets.clone().into_vec();
        [self.secret.expose_secret().to_owned()]
            .into_iter()
            .chain(secrets)
            .map(|secret| secret.trim().to_owned())
            .filter(|secret| !secret.is_empty())
            .map(SecretString::from)
            .collect()
    }

    pub(super) fn retry(&self) -> Result<RetryPolicy, String> {
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
    pub(super) fn timeout(&self) -> Duration {
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
