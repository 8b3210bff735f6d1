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
        // Images without /etc/hosts do not know the name. The port comes from the URL.
        .resolve_to_addrs(
            "localhost",
            &[
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0),
            ],
        )
        .redirect(reqwest::redirect::Policy::none());
    builder.build().context("cannot create the HTTP client")
}

/// Returns the host and the port at which clients on this machine reach a listener.
///
/// A listener on `[::]` is reached at `localhost`: some systems have only one of the addresses `127.0.0.1` and `::1`.
pub(super) fn local_address(listen: SocketAddr) -> String {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port()).to_string()
        }
        IpAddr::V6(ip) if ip.is_unspecified() => format!("localhost:{}", listen.port()),
        _ => listen.to_string(),
    }
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
