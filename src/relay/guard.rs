//! Where nobody is sent to, whatever a name resolves to: addresses that a cloud gives its machines their credentials at, and, if that
//! is wanted, every private one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::setting::Networks;

/// Link-local addresses, which clouds serve their metadata at (RFC 3927), and that of AWS over IPv6.
const METADATA: [&str; 3] = ["169.254.0.0/16", "fd00:ec2::254/128", "fe80::/10"];

/// This machine, and networks that are not the Internet's (RFC 6890).
const PRIVATE: [&str; 13] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
    "::/128",
    "::1/128",
    "fc00::/7",
    "ff00::/8",
];

/// Which addresses are refused.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Networks>);

impl Guard {
    /// Refuses metadata, and private addresses if they are denied.
    pub(super) fn new(deny_private: bool) -> Self {
        let private = PRIVATE.iter().filter(|_| deny_private);
        let refused = METADATA.iter().chain(private).copied();
        Self(Arc::new(
            Networks::parse(refused).expect("they are networks"),
        ))
    }

    /// Whether nobody is sent to this address. One of IPv4 within one of IPv6 (RFC 4291, 6052) is that one of IPv4.
    pub(super) fn refuses(&self, ip: IpAddr) -> bool {
        let embedded = match ip {
            IpAddr::V6(ip) => embedded(ip.octets()),
            IpAddr::V4(_) => None,
        };
        self.0.contain(ip) || embedded.is_some_and(|ip| self.0.contain(ip.into()))
    }
}

/// The address within `64:ff9b::/96`, which a gateway translates.
fn embedded(octets: [u8; 16]) -> Option<Ipv4Addr> {
    const WELL_KNOWN: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    let (prefix, ip) = octets.split_first_chunk()?;
    (*prefix == WELL_KNOWN).then(|| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)))?
}

/// Every address that the name has is refused.
#[derive(Debug, thiserror::Error)]
#[error("the host has only addresses that nothing is sent to")]
struct Refused;

impl Resolve for Guard {
    /// What is looked at is what is connected to: there is no second look-up that could say something else.
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| !guard.refuses(address.ip()))
                .collect();
            if allowed.is_empty() {
                return Err(Refused.into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_always_refused_and_what_is_private_where_that_is_denied() {
        let always = [
            "169.254.169.254",
            "169.254.0.1",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ];
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fd12::1",
            "255.255.255.255",
            "64:ff9b::7f00:1",
        ];
        let public = ["203.0.113.7", "1.1.1.1", "2606:4700::1", "64:ff9b::101:101"];
        let refused = |deny_private: bool, ip: &str| {
            Guard::new(deny_private).refuses(ip.parse().expect("an address"))
        };
        for ip in always {
            assert!(refused(false, ip) && refused(true, ip), "{ip}");
        }
        for ip in private {
            assert!(!refused(false, ip) && refused(true, ip), "{ip}");
        }
        for ip in public {
            assert!(!refused(false, ip) && !refused(true, ip), "{ip}");
        }
    }
}
