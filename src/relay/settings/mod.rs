//! The `relay` section of the configuration, as data.
//!
//! Nothing is built here. [`Endpoints::new`](super::endpoint::Endpoints::new) checks these values
//! and builds the endpoints from them.

mod channel;
mod endpoint;
mod nats;

use serde::Deserialize;

use crate::config_types::{Bounded, Secret, parse_word, strict_bool};
use crate::store::NOTIFY_ENDPOINT;

use channel::Channel;
pub(super) use endpoint::{
    AuthSettings, ClientAuthentication, EndpointSettings, FieldNames, FormValue, Redactions,
    parse_url, parse_urls,
};

pub(super) use nats::NatsSettings;

/// The name of the endpoint that receives alerts about failed deliveries.
pub(super) const FAILURE_ENDPOINT: &str = "on_failure";

/// The name of the endpoint that receives alerts about failing endpoints.
pub(super) const ALERT_ENDPOINT: &str = "alerts";

/// The names that entries of `relay.endpoints` cannot have.
pub(super) const RESERVED_NAMES: [&str; 3] = [FAILURE_ENDPOINT, ALERT_ENDPOINT, NOTIFY_ENDPOINT];

/// The settings of the relay.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(super) endpoints: Vec<EndpointSettings>,
    /// Whether private addresses are denied too. Addresses of cloud metadata services are always denied.
    #[serde(deserialize_with = "strict_bool")]
    pub(super) deny_private: bool,
    /// The proxy for HTTP endpoints and their token servers.
    pub(super) proxy_url: Secret,
    on_failure: OnFailure,
    failure_url: Secret,
    failure_secret: Secret,
    notify_channel: Channel,
    monitoring: Monitoring,
}

/// The reaction to a failed delivery. The delivery is logged and stored in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum OnFailure {
    /// No further reaction.
    Log,
    /// The delivery is reported to `failure_url`.
    Callback,
}

impl TryFrom<String> for OnFailure {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        parse_word(&word, &[("log", Self::Log), ("callback", Self::Callback)])
    }
}

/// The settings of alerts about failing endpoints.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Monitoring {
    #[serde(rename = "alert_on_consecutive_failures")]
    failure_threshold: Bounded<0, 100_000>,
    #[serde(rename = "alert_url")]
    url: Secret,
    #[serde(rename = "alert_secret")]
    secret: Secret,
}

/// The failures that cause alerts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AlertPolicy {
    /// Whether failed deliveries are reported to [`FAILURE_ENDPOINT`].
    pub(super) reports_failed_deliveries: bool,
    /// The number of consecutive failures after which an endpoint is reported to [`ALERT_ENDPOINT`].
    pub(super) failure_threshold: Option<u32>,
}

/// The settings of an endpoint that receives alerts.
pub(super) struct AlertEndpointSettings {
    /// The key that an error names if the endpoint cannot be built.
    pub(super) key: &'static str,
    pub(super) endpoint: EndpointSettings,
}

impl Settings {
    /// The keys of jq programs. In their values, `$` does not refer to an environment variable.
    pub const VERBATIM_KEYS: [&str; 2] = ["when", "transform"];

    /// Returns the policy that decides which failures cause alerts.
    pub(super) fn alert_policy(&self) -> AlertPolicy {
        let failure_threshold = self.monitoring.failure_threshold.count();
        let has_url = self.monitoring.url.get().is_some();
        AlertPolicy {
            reports_failed_deliveries: self.on_failure == OnFailure::Callback,
            failure_threshold: (failure_threshold > 0 && has_url)
                .then(|| u32::try_from(failure_threshold).expect("the setting is at most 100,000")),
        }
    }

    /// Returns the endpoints that receive alerts under the [`AlertPolicy`].
    pub(super) fn alert_endpoints(&self) -> Vec<AlertEndpointSettings> {
        let policy = self.alert_policy();
        let mut endpoints = Vec::new();
        if policy.reports_failed_deliveries {
            let (url, secret) = (&self.failure_url, &self.failure_secret);
            endpoints.push(AlertEndpointSettings {
                key: "relay.failure_url",
                endpoint: EndpointSettings::with_defaults(FAILURE_ENDPOINT, url, secret),
            });
        }
        if policy.failure_threshold.is_some() {
            let (url, secret) = (&self.monitoring.url, &self.monitoring.secret);
            endpoints.push(AlertEndpointSettings {
                key: "relay.monitoring.alert_url",
                endpoint: EndpointSettings::with_defaults(ALERT_ENDPOINT, url, secret),
            });
        }
        endpoints
    }

    /// Returns whether HTTP endpoints are called through a proxy.
    #[must_use]
    pub fn has_proxy(&self) -> bool {
        self.proxy_url.get().is_some()
    }

    /// Returns the Postgres channel that announces changed images, if one is set.
    #[must_use]
    pub fn notify_channel(&self) -> Option<&str> {
        self.notify_channel.name()
    }
}
