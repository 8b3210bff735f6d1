//! The client address: the peer address of the connection, or the address that a trusted proxy forwards.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue};
use serde::Deserialize;

use crate::config_types::{Networks, parse_word};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress {
    peer: SocketAddr,
    /// The address in a trusted proxy's header.
    forwarded: Option<IpAddr>,
}

impl ClientAddress {
    /// Returns the IP address. An IPv4-mapped IPv6 address is returned as IPv4.
    pub(crate) fn ip(&self) -> IpAddr {
        self.forwarded.unwrap_or(self.peer.ip()).to_canonical()
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.forwarded {
            Some(ip) => ip.fmt(f),
            None => SocketAddr::new(self.ip(), self.peer.port()).fmt(f),
        }
    }
}

/// The header in which a proxy forwards the address of its client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: each proxy appends the address of its client.
    #[default]
    XForwardedFor,
    /// `CF-Connecting-IP`: set by Cloudflare.
    CfConnectingIp,
}

impl TryFrom<String> for ForwardedHeader {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let words = [
            ("x-forwarded-for", Self::XForwardedFor),
            ("cf-connecting-ip", Self::CfConnectingIp),
        ];
        parse_word(&name, &words)
    }
}

/// The proxies whose forwarding header is used. The header is ignored from all other addresses, because any client can send it.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    pub(crate) trusted: Networks,
    pub(crate) header: ForwardedHeader,
}

impl TrustedProxies {
    /// Returns the client address of a request from this peer.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> ClientAddress {
        let forwarded = self
            .trusted
            .contains(peer.ip())
            .then(|| self.forwarded(headers))
            .flatten();
        ClientAddress { peer, forwarded }
    }

    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        match self.header {
            ForwardedHeader::CfConnectingIp => {
                parse_address(headers.get(CF_CONNECTING_IP)?.to_str().ok()?)
            }
            ForwardedHeader::XForwardedFor => {
                let values: Vec<&HeaderValue> = headers.get_all(X_FORWARDED_FOR).iter().collect();
                self.last_untrusted(&values)
            }
        }
    }

    /// Returns the last address that does not belong to a trusted proxy. Each proxy appends an address, so a client can forge all
    /// addresses before that one. An invalid address ends the search. The client is then the trusted proxy after it.
    fn last_untrusted(&self, values: &[&HeaderValue]) -> Option<IpAddr> {
        let mut client = None;
        for value in values.iter().rev() {
            for address_text in value.as_bytes().rsplit(|byte| *byte == b',') {
                let Some(ip) = std::str::from_utf8(address_text)
                    .ok()
                    .and_then(parse_address)
                else {
                    return client;
                };
                client = Some(ip);
                if !self.trusted.contains(ip) {
                    return client;
                }
            }
        }
        client
    }
}

/// Returns the key of a client for its limits: its IPv4 address, or the /64 network of its IPv6 address. Such a network belongs to
/// one client (RFC 6177).
pub(crate) fn client_key(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}

/// Parses an IP address, with or without a port. An IPv6 address may have brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let ip = bare.unwrap_or(text).parse::<IpAddr>().ok();
    ip.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ForwardedHeader, peer: &str, headers: &[(HeaderName, &str)]) -> String {
        let proxies = TrustedProxies {
            trusted: Networks::parse(["10.0.0.0/8"]).expect("a network"),
            header,
        };
        let value = |value: &str| HeaderValue::from_bytes(value.as_bytes()).expect("a header");
        let headers = headers
            .iter()
            .map(|(name, told)| (name.clone(), value(told)))
            .collect();
        let peer = SocketAddr::new(peer.parse().expect("an address"), 1);
        proxies.client(peer, &headers).ip().to_string()
    }

    #[test]
    fn uses_last_untrusted_forwarded_address() {
        for (told, expected) in [
            ("203.0.113.7", "203.0.113.7"),
            ("192.0.2.1, 203.0.113.7", "203.0.113.7"),
            ("192.0.2.1, 203.0.113.7, 10.1.1.1", "203.0.113.7"),
            ("10.1.1.1, 10.1.1.2", "10.1.1.1"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("192.0.2.1, nonsense, 10.1.1.1", "10.1.1.1"),
            ("nonsense", "10.0.0.1"),
            ("\u{ff}, 203.0.113.66", "203.0.113.66"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("", "10.0.0.1"),
        ] {
            let headers = [(X_FORWARDED_FOR, told)];
            let seen = client(ForwardedHeader::XForwardedFor, "10.0.0.1", &headers);
            assert_eq!(seen, expected, "{told}");
        }
    }

    #[test]
    fn joins_repeated_headers() {
        let headers = [
            (X_FORWARDED_FOR, "203.0.113.7"),
            (X_FORWARDED_FOR, "10.1.1.1"),
        ];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().expect("a header"));
        }
        let proxies = TrustedProxies {
            trusted: Networks::parse(["10.0.0.0/8"]).expect("a network"),
            header: ForwardedHeader::XForwardedFor,
        };

        let seen = proxies.client("10.0.0.1:1".parse().expect("an address"), &map);

        assert_eq!(seen.to_string(), "203.0.113.7");
    }

    #[test]
    fn trusts_only_configured_proxies_and_header() {
        let both = [
            (X_FORWARDED_FOR, "203.0.113.7"),
            (CF_CONNECTING_IP, "203.0.113.8"),
        ];

        for (header, peer, expected) in [
            (ForwardedHeader::XForwardedFor, "192.0.2.1", "192.0.2.1"),
            (ForwardedHeader::CfConnectingIp, "192.0.2.1", "192.0.2.1"),
            (ForwardedHeader::CfConnectingIp, "10.0.0.1", "203.0.113.8"),
            (ForwardedHeader::XForwardedFor, "10.0.0.1", "203.0.113.7"),
        ] {
            let seen = client(header, peer, &both);
            assert_eq!(seen, expected, "{header:?} from {peer}");
        }
    }
}
