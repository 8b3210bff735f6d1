//! The `relay` section of the configuration.

mod channel;
mod endpoint;

use std::collections::HashSet;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::endpoint::Endpoint;
use super::guard::Guard;
use super::notices::{ALERTS, Notices, ON_FAILURE};
use crate::domain::event::Audience;
use crate::setting::{Bounded, InvalidSetting, Switch};
use crate::store::NOTIFY_ENDPOINT;

use channel::Channel;
pub(super) use endpoint::{AuthSettings, EndpointSettings};

/// Who is told what.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    endpoints: Vec<EndpointSettings>,
    /// Whether nothing is sent to private addresses.
    pub deny_private: Switch,
    on_failure: OnFailure,
    failure_url: SecretString,
    failure_secret: SecretString,
    notify_channel: Channel,
    monitoring: Monitoring,
}

/// What becomes of a delivery that is given up, beside its row and its line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnFailure {
    /// Nothing.
    Log,
    /// Somebody is told.
    Callback,
}

/// Who is told that an endpoint fails, and when.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Monitoring {
    #[serde(rename = "alert_on_consecutive_failures")]
    after_failures: Bounded<0, 100_000>,
    #[serde(rename = "alert_url")]
    url: SecretString,
    #[serde(rename = "alert_secret")]
    secret: SecretString,
}

impl Settings {
    /// Checks what no single setting can say of itself.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        self.endpoints()?;
        self.told_of_failures().map(drop)
    }

    /// What somebody is told of failures.
    pub(super) fn notices(&self) -> Notices {
        let after = self.monitoring.after_failures.count();
        let after = u32::try_from(after).unwrap_or(u32::MAX);
        let is_told = after > 0 && !is_empty(&self.monitoring.url);
        Notices {
            failures: self.on_failure == OnFailure::Callback,
            alert_after: is_told.then_some(after),
        }
    }

    /// Those who are told of failures.
    pub(super) fn told_of_failures(&self) -> Result<Vec<Endpoint>, InvalidSetting> {
        let notices = self.notices();
        let monitoring = &self.monitoring;
        let told = [
            notices.failures.then_some((
                ON_FAILURE,
                "relay.failure_url",
                &self.failure_url,
                &self.failure_secret,
            )),
            notices.alert_after.map(|_| {
                let (url, secret) = (&monitoring.url, &monitoring.secret);
                (ALERTS, "relay.monitoring.alert_url", url, secret)
            }),
        ];
        let guard = self.guard();
        told.into_iter()
            .flatten()
            .map(|(name, key, url, secret)| {
                let settings = EndpointSettings::plain(name, url, secret);
                Endpoint::new(&settings, &guard).map_err(|problem| InvalidSetting {
                    key,
                    rule: format!("cannot be told: the endpoint {problem}"),
                })
            })
            .collect()
    }

    fn guard(&self) -> Guard {
        Guard::new(self.deny_private == Switch::On)
    }

    /// Where Postgres says which images changed.
    #[must_use]
    pub fn notify_channel(&self) -> Option<&str> {
        self.notify_channel.get()
    }

    /// Who is told what.
    #[must_use]
    pub fn audience(&self) -> Audience {
        let subscriptions = self.endpoints.iter().map(EndpointSettings::subscription);
        Audience {
            subscriptions: subscriptions.filter_map(Result::ok).collect(),
            channel: self.notify_channel().map(str::to_owned),
        }
    }

    /// The endpoints' names, of those too that are told of failures.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let notices = self.notices();
        let told = [
            notices.failures.then_some(ON_FAILURE),
            notices.alert_after.map(|_| ALERTS),
        ];
        let endpoints = self.endpoints.iter();
        endpoints
            .map(|endpoint| endpoint.name.as_str())
            .chain(told.into_iter().flatten())
    }

    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, InvalidSetting> {
        let guard = self.guard();
        let mut names = HashSet::from([ON_FAILURE, ALERTS, NOTIFY_ENDPOINT]);
        self.endpoints
            .iter()
            .map(|settings| {
                let is_new = names.insert(&*settings.name);
                let endpoint = settings
                    .subscription()
                    .and_then(|_| Endpoint::new(settings, &guard));
                endpoint
                    .and_then(|endpoint| {
                        is_new.then_some(endpoint).ok_or_else(|| {
                            "has the name of another, or one of ours (on_failure, alerts, notify): each needs a name of its own".to_owned()
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

fn is_empty(secret: &SecretString) -> bool {
    secret.expose_secret().trim().is_empty()
}
