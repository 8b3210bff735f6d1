//! The HTTP client of one endpoint, for its messages and its tokens.

use reqwest::Client;
use reqwest::redirect::Policy;
use url::Url;

use super::address_policy::HAS_DENIED_ADDRESS;
use super::network::Network;
use crate::outbound::{HTTP_PROTOCOL, USER_AGENT, config_without_authorities};

/// Creates a client. Each endpoint has its own client, so endpoints do not compete for connections.
///
/// Without TLS it needs no certificate authority, so plain HTTP works on a system that has none.
pub(super) fn client(
    network: &Network,
    max_in_flight: usize,
    has_tls: bool,
) -> Result<Client, String> {
    let mut tls = if has_tls {
        network.authorities.client_config(None)?
    } else {
        config_without_authorities()
    };
    tls.alpn_protocols = vec![HTTP_PROTOCOL.to_vec()];
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        // A proxy of the environment would connect to addresses that the policy has not checked.
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .pool_max_idle_per_host(max_in_flight);
    let builder = match &network.proxy {
        // The client resolves only the name of the proxy. An operator chose it, so it may have any address.
        Some(proxy) => builder.proxy(proxy.proxy()),
        None => builder.dns_resolver(network.policy.clone()),
    };
    builder
        .build()
        .map_err(|error| format!("the HTTP client cannot be created: {error}"))
}

/// Checks a URL that the client will call. `setting` is its key. The error is a clause that names the setting.
///
/// The client checks the addresses of a host name when it connects. An IP address is checked here,
/// because the client does not resolve it. So is a name that a proxy will resolve.
pub(super) fn check_url(url: &Url, setting: &str, network: &Network) -> Result<(), String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{setting} must not contain a user or password"));
    }
    let host = url.host_str().unwrap_or_default();
    if network.policy.denies_host(host) {
        return Err(format!("{setting} {HAS_DENIED_ADDRESS}"));
    }
    match &network.proxy {
        Some(proxy) => proxy.check_name(host, setting),
        None => Ok(()),
    }
}
