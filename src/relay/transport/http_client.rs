//! The HTTP client of one endpoint, for its messages and its tokens.

use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use url::{Host, Url};

use super::address_policy::AddressPolicy;

pub(super) const USER_AGENT: &str =
    concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));

/// Creates a client. Each endpoint has its own, so endpoints do not compete for connections.
pub(super) fn client(policy: &AddressPolicy, max_in_flight: usize) -> Result<Client, String> {
    // An error means that a provider is already installed, which is enough.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        // A proxy would connect to addresses that the policy has not checked.
        .no_proxy()
        .dns_resolver(policy.clone())
        .pool_max_idle_per_host(max_in_flight)
        .build()
        .map_err(|error| format!("cannot be called: {error}"))
}

/// Checks a URL that the client will call. `name` is its setting, with an article.
///
/// The client checks the addresses of a host name when it connects. An IP address is checked here,
/// because the client does not resolve it.
pub(super) fn check_url(url: &Url, name: &str, policy: &AddressPolicy) -> Result<(), String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "must have {name} without a user and a password: send them in headers"
        ));
    }
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        Some(Host::Domain(_)) | None => None,
    };
    if ip.is_some_and(|ip| policy.denies(ip)) {
        return Err(format!("has {name} to an address that nothing is sent to"));
    }
    Ok(())
}

/// Reads a response's body. Returns `None`, and stops reading, if it exceeds the limit.
pub(super) async fn read_capped(
    mut response: Response,
    max_bytes: usize,
) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max_bytes {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
