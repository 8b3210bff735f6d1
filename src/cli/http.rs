//! The commands as HTTP clients of a running service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Response};

/// The most that is read of an answer. Ours are far shorter; this is for a wrong address.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A client with one deadline over everything.
pub(super) fn client(deadline: Duration) -> anyhow::Result<Client> {
    // An error means that a provider is there already, which is all that is wanted.
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .timeout(deadline)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    builder.build().context("the HTTP client could not be made")
}

/// The address at which a listener on this machine is reached.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The answer's body, as text, as much of it as anybody wants to see.
pub(super) async fn text(mut response: Response) -> anyhow::Result<String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            body.truncate(MAX_ANSWER_BYTES);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
}
