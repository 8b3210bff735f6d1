//! The configured endpoints, checked and built.
//!
//! They are built once, when the configuration is loaded. The service and every command use the same [`Endpoints`].

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::payload::MessageBuilder;
use super::settings::{
    AlertEndpointSettings, AlertPolicy, EndpointSettings, RESERVED_NAMES, Settings,
};
use super::transport::{self, AddressPolicy, Message, Network, OutboundProxy, SendOutcome, Sink};
use crate::config_types::InvalidSetting;
use crate::domain::delivery::RetryPolicy;
use crate::domain::event::{Subscription, Subscriptions};
use crate::outbound::Authorities;

/// All endpoints of the configuration. Cheap to clone.
#[derive(Clone)]
pub struct Endpoints(Arc<EndpointSet>);

struct EndpointSet {
    event_endpoints: Vec<Arc<Endpoint>>,
    alert_endpoints: Vec<Arc<Endpoint>>,
    authorities: Authorities,
    alert_policy: AlertPolicy,
    subscriptions: Subscriptions,
}

impl Endpoints {
    /// Builds the endpoints from the settings. Fails on the first invalid endpoint. Does not compile the jq programs; see
    /// [`check_programs`](Self::check_programs). `executable` is the path of this service's own program, which runs them.
    pub(crate) fn new(
        settings: &Settings,
        authorities: Authorities,
        executable: &Path,
    ) -> Result<Self, InvalidSetting> {
        let executable = Arc::from(executable);
        let proxy = settings.proxy_url.get();
        let proxy = proxy.map(|url| OutboundProxy::new(url, settings.deny_private));
        let network = Network {
            policy: AddressPolicy::new(settings.deny_private),
            authorities,
            proxy: proxy.transpose().map_err(|rule| InvalidSetting {
                key: "relay.proxy_url",
                rule,
            })?,
        };
        let mut names = HashSet::from(RESERVED_NAMES);
        let mut event_endpoints = Vec::new();
        let mut subscriptions = Vec::new();
        for endpoint in &settings.endpoints {
            let is_unique = names.insert(&endpoint.name);
            let (built, subscription) =
                build_event_endpoint(endpoint, is_unique, (&network, &executable))
                    .map_err(|problem| invalid_endpoint(&endpoint.name, &problem))?;
            event_endpoints.push(Arc::new(built));
            subscriptions.push(subscription);
        }
        let mut alert_endpoints = Vec::new();
        for AlertEndpointSettings { key, endpoint } in settings.alert_endpoints() {
            let built = Endpoint::new(&endpoint, (&network, &executable));
            let built = built.map_err(|problem| InvalidSetting {
                key,
                rule: format!("endpoint {:?}: {problem}", endpoint.name),
            })?;
            alert_endpoints.push(Arc::new(built));
        }
        Ok(Self(Arc::new(EndpointSet {
            event_endpoints,
            alert_endpoints,
            authorities: network.authorities,
            alert_policy: settings.alert_policy(),
            subscriptions: Subscriptions {
                endpoints: subscriptions,
                channel: settings.notify_channel().map(str::to_owned),
            },
        })))
    }

    /// Compiles the jq programs of every endpoint, in a process for each. Fails on the first invalid one.
    pub(crate) async fn check_programs(&self) -> Result<(), InvalidSetting> {
        for endpoint in self.event_endpoints() {
            let checked = endpoint.message_builder.check_programs().await;
            checked.map_err(|problem| invalid_endpoint(&endpoint.name, &problem))?;
        }
        Ok(())
    }

    /// Returns why no server certificate can be verified, if an endpoint needs that.
    pub(crate) fn missing_authorities(&self) -> Option<&str> {
        self.0.authorities.missing()
    }

    /// Returns why some server certificates cannot be verified, if an endpoint needs that.
    pub(crate) fn incomplete_authorities(&self) -> Option<&str> {
        self.0.authorities.incomplete()
    }

    /// Returns the subscriptions of the endpoints, and the Postgres channel.
    #[must_use]
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.0.subscriptions
    }

    /// Returns the names of all endpoints, including those that receive alerts.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all().map(|endpoint| endpoint.name.as_str())
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Returns whether an endpoint is ordered. `None` if it is not configured.
    pub(crate) fn is_ordered(&self, name: &str) -> Option<bool> {
        self.find(name).map(|endpoint| endpoint.is_ordered)
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.all().find(|endpoint| endpoint.name == name).cloned()
    }

    /// Returns the endpoints in `relay.endpoints`.
    pub(super) fn event_endpoints(&self) -> &[Arc<Endpoint>] {
        &self.0.event_endpoints
    }

    /// Returns the endpoints that receive alerts about other endpoints.
    pub(super) fn alert_endpoints(&self) -> &[Arc<Endpoint>] {
        &self.0.alert_endpoints
    }

    /// Returns the policy that decides which failures cause alerts.
    pub(super) fn alert_policy(&self) -> AlertPolicy {
        self.0.alert_policy
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.0.event_endpoints.iter().chain(&self.0.alert_endpoints)
    }
}

impl fmt::Debug for Endpoints {
    /// Writes the names only, because the other values can be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

fn invalid_endpoint(name: &str, problem: &str) -> InvalidSetting {
    InvalidSetting {
        key: "relay.endpoints",
        rule: format!("endpoint {name:?}: {problem}"),
    }
}

/// The parts that all endpoints share: the network, and the path of this service's own program.
type Shared<'a> = (&'a Network, &'a Arc<Path>);

/// Builds an endpoint from an entry of `relay.endpoints`. The error is a clause without the endpoint's name.
fn build_event_endpoint(
    settings: &EndpointSettings,
    is_unique: bool,
    shared: Shared<'_>,
) -> Result<(Endpoint, Subscription), String> {
    let subscription = settings.subscription()?;
    let endpoint = Endpoint::new(settings, shared)?;
    if !is_unique {
        return Err("the name is used twice or reserved (on_failure, alerts, notify)".to_owned());
    }
    Ok((endpoint, subscription))
}

/// A destination of deliveries.
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) message_builder: MessageBuilder,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) retry: RetryPolicy,
    pub(super) max_in_flight: usize,
    /// Whether messages about one image are sent one at a time, in the order of their events.
    pub(super) is_ordered: bool,
    pub(super) is_paused: bool,
    pub(super) timeout: Duration,
    rate_limiter: Option<DefaultDirectRateLimiter>,
}

impl Endpoint {
    /// Builds an endpoint. The error is a clause without the endpoint's name.
    fn new(settings: &EndpointSettings, (network, executable): Shared<'_>) -> Result<Self, String> {
        settings.check_name()?;
        Ok(Self {
            name: settings.name.clone(),
            message_builder: MessageBuilder::new(settings, executable)?,
            sink: transport::open(settings, network)?,
            retry: settings.retry()?,
            max_in_flight: settings.max_in_flight.count(),
            is_ordered: settings.ordered,
            is_paused: settings.paused,
            timeout: settings.timeout(),
            rate_limiter: rate_limiter(settings.rate_limit_per_second.count()),
        })
    }

    /// Waits until the rate limit allows another call.
    pub(super) async fn wait_for_rate_limit(&self) {
        if let Some(limiter) = &self.rate_limiter {
            limiter.until_ready().await;
        }
    }

    /// Sends a message once, within the deadline.
    pub(super) async fn send(&self, message: &Message) -> SendOutcome {
        let sending = self.sink.send(message);
        match tokio::time::timeout(self.timeout, sending).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => SendOutcome::no_response(format!(
                "no complete response within {} s",
                self.timeout.as_secs()
            )),
        }
    }
}

/// Returns the limiter for a number of calls per second. 0 means no limit.
fn rate_limiter(per_second: usize) -> Option<DefaultDirectRateLimiter> {
    let per_second = NonZeroU32::new(u32::try_from(per_second).unwrap_or(u32::MAX))?;
    // With a larger burst, more calls than the limit could start within one second.
    let quota = Quota::per_second(per_second).allow_burst(NonZeroU32::MIN);
    Some(RateLimiter::direct(quota))
}
