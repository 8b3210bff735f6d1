//! The transports: one call to an endpoint, over HTTP or NATS.
//!
//! A new protocol needs one more file with a [`Sink`], and one more arm in [`open`].

mod address_policy;
mod headers;
mod http;
mod http_client;
mod nats;
mod nats_subject;
mod network;
mod oauth2;
mod outbound_proxy;
mod sink;

use std::sync::Arc;

use url::Url;

use super::settings::{EndpointSettings, parse_urls};

use http::HttpSink;
use nats::NatsSink;

pub(super) use address_policy::AddressPolicy;
pub(super) use network::Network;
pub(super) use outbound_proxy::OutboundProxy;
pub(super) use sink::{Message, SendOutcome, Sink};

/// Creates the sink for the endpoint's URL. Does not connect yet.
///
/// The error is a clause that names the setting. It never repeats the URL, which may contain a secret.
pub(super) fn open(
    settings: &EndpointSettings,
    network: &Network,
) -> Result<Arc<dyn Sink>, String> {
    const RULE: &str =
        "url must be a URL such as https://app.example/webhooks/ or nats://nats.example:4222";
    let urls = parse_urls(&settings.url).ok_or(RULE)?;
    let is_nats = |url: &Url| matches!(url.scheme(), "nats" | "tls");
    match urls.as_slice() {
        [url] if matches!(url.scheme(), "http" | "https") => {
            Ok(Arc::new(HttpSink::new(settings, url.clone(), network)?))
        }
        urls if urls.iter().all(is_nats) => Ok(Arc::new(NatsSink::new(settings, urls, network)?)),
        _ => Err(RULE.to_owned()),
    }
}
