//! Invariants of any headers: client addresses and credentials.
//!
//! An input has the peer's address on its first line, and a header on each further line.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};
use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::signing::{Scheme, Verifier};
use cloudflare_images_webhook::web::TrustedProxies;
use secrecy::SecretString;

use super::webhook::respond;

/// The time of the requests.
const NOW: i64 = 1_704_110_400;

/// The secret. No input contains it, so no input is authenticated.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const BODY: &[u8] = br#"{"text":"test message"}"#;

/// The network of the trusted proxies.
const PROXIES: &str = "10.0.0.0/8";

/// Checks the invariants:
///
/// - Only a trusted proxy can forward another client address.
/// - A request without a valid credential is not accepted, whatever its other headers say.
/// - The copies of the credentials are accepted exactly if the request is.
///
/// Returns whether the client address differs from the peer's address.
pub fn check(input: &[u8]) -> bool {
    let mut lines = input.split(|byte| *byte == b'\n');
    let peer = lines.next().unwrap_or_default();
    let peer = std::str::from_utf8(peer).ok();
    let peer = peer.and_then(|peer| peer.trim().parse().ok());
    let peer = SocketAddr::new(peer.unwrap_or(IpAddr::from([10, 0, 0, 1])), 80);
    let headers = headers(lines);

    // An IPv4 client of a listener on `[::]` is shown with its IPv4 address.
    let shown_peer = SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string();
    let mut is_forwarded = false;
    for proxies in PROXY_SETTINGS.iter() {
        let client = proxies.client(peer, &headers).to_string();
        is_forwarded |= client != shown_peer;
        assert!(client == shown_peer || is_proxy(peer.ip()), "{client}");
    }
    let now = Timestamp::from_unix_seconds(NOW).expect("a time");
    assert!(!VERIFIER.accepts(&headers, BODY, now));
    assert!(!VERIFIER.accepts(&VERIFIER.credentials(&headers), BODY, now));

    let status = respond(headers.clone(), BODY);
    assert!([401, 403, 413].contains(&status), "{status}");

    let mut authenticated = headers;
    authenticated.insert("cf-webhook-auth", HeaderValue::from_static(SECRET));
    assert!(VERIFIER.accepts(&authenticated, BODY, now));
    assert!(VERIFIER.accepts(&VERIFIER.credentials(&authenticated), BODY, now));
    is_forwarded
}

fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        // Skips headers that HTTP itself forbids.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(line[colon + 1..].trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

fn is_proxy(peer: IpAddr) -> bool {
    matches!(peer.to_canonical(), IpAddr::V4(ip) if ip.octets()[0] == 10)
}

/// The proxies, once for each header that they may use.
static PROXY_SETTINGS: LazyLock<[TrustedProxies; 2]> = LazyLock::new(|| {
    ["x-forwarded-for", "cf-connecting-ip"].map(|header| {
        let environment: Environment = [
            ("APP__SERVER__TRUSTED_PROXIES", PROXIES),
            ("APP__SERVER__CLIENT_ADDRESS_HEADER", header),
        ]
        .into_iter()
        .collect();
        let loaded = load(&environment, None).expect("the settings are valid");
        loaded.settings.server.proxies()
    })
});

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let secrets = [SecretString::from(SECRET)].into_iter();
    Verifier::new(&Scheme::ALL, secrets, Duration::from_mins(5)).expect("a valid secret")
});
