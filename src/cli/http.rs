//! The HTTP client of the commands that call a running service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Response};

/// The most bytes of a response that are read. The service's responses are far shorter, but the address can be wrong.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Returns a client with one deadline for the whole request.
pub(super) fn client(deadline: Duration) -> anyhow::Result<Client> {
    // An error means that a provider is already installed.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .timeout(deadline)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    builder.build().context("cannot create the HTTP client")
}

/// Returns the address at which clients on this machine reach a listener.
pub(super) fn local_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Reads the body of a response as text, up to [`MAX_RESPONSE_BYTES`].
pub(super) async fn read_text(mut response: Response) -> anyhow::Result<String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_RESPONSE_BYTES {
            body.truncate(MAX_RESPONSE_BYTES);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
}
