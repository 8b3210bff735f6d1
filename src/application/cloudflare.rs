//! What exists at Cloudflare for this service: webhook destinations and notification policies.

mod setup;
mod step;
mod teardown;

use serde::Serialize;

use crate::cloudflare::{ApiError, Client, Destination, Policy};
use crate::config_types::UrlPath;

pub(crate) use setup::{SetupRequest, setup};
pub(crate) use step::{Change, Step, Subject};
pub(crate) use teardown::{plan_teardown, tear_down};

/// The name of the destination and the policy, unless the operator gives another one.
pub(crate) const DEFAULT_NAME: &str = "cloudflare-images-webhook";

/// The destinations and policies that concern this service.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) destinations: Vec<DestinationView>,
    pub(crate) policies: Vec<PolicyView>,
}

/// A webhook destination whose URL has the path of this service.
#[derive(Debug, Serialize)]
pub(crate) struct DestinationView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) last_success: Option<String>,
    pub(crate) last_failure: Option<String>,
}

/// A notification policy for images.
#[derive(Debug, Serialize)]
pub(crate) struct PolicyView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) enabled: bool,
    /// The ids of its webhook destinations.
    pub(crate) destinations: Vec<String>,
}

/// Lists the destinations and policies that concern this service.
pub(crate) async fn status(client: &Client, path: &UrlPath) -> Result<Status, ApiError> {
    let destinations = client.destinations().await?;
    let policies = client.policies().await?;
    let destinations = destinations
        .into_iter()
        .filter(|destination| has_path(&destination.url, path));
    let policies = policies.into_iter().filter(Policy::is_about_images);
    Ok(Status {
        destinations: destinations.map(DestinationView::from).collect(),
        policies: policies.map(PolicyView::from).collect(),
    })
}

/// Returns whether the URL has this path, with or without the slash at its end.
pub(super) fn has_path(url: &str, path: &UrlPath) -> bool {
    let Ok(url) = url::Url::parse(url) else {
        return false;
    };
    url.path().trim_end_matches('/') == path.canonical().trim_end_matches('/')
}

impl From<Destination> for DestinationView {
    fn from(destination: Destination) -> Self {
        Self {
            id: destination.id,
            name: destination.name,
            url: destination.url,
            last_success: destination.last_success,
            last_failure: destination.last_failure,
        }
    }
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        let destinations = policy.webhooks().into_iter().map(str::to_owned).collect();
        Self {
            id: policy.id,
            name: policy.name,
            enabled: policy.enabled,
            destinations,
        }
    }
}
