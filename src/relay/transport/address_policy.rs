//! The policy for the addresses of endpoints. It applies to every address that a host name resolves to.
//!
//! Cloud metadata services are always denied, because they give out a machine's credentials. Private
//! addresses are denied if `relay.deny_private` is true.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config_types::Networks;

/// The addresses of cloud metadata services: link-local ones (RFC 3927), AWS, Google and Scaleway over IPv6, Alibaba, Azure and
/// Oracle. The last network holds IPv4 addresses behind a local NAT64 gateway (RFC 8215), so it may lead to any of the others.
const METADATA_NETWORKS: [&str; 9] = [
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
    "fd00:42::42/128",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "64:ff9b:1::/48",
];

/// The addresses of this machine, of private networks, for multicast and for reserved uses (RFC 6890).
const PRIVATE_NETWORKS: [&str; 14] = [
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
    "fec0::/10",
    "ff00::/8",
];

/// The end of the error message if a URL has a denied address. The key of the URL precedes it.
pub(super) const HAS_DENIED_ADDRESS: &str = "has a denied address: a cloud metadata service, or a private address while \
                                             relay.deny_private is true";

/// The denied addresses. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::relay) struct AddressPolicy(Arc<Networks>);

impl AddressPolicy {
    /// Creates a policy that denies metadata services, and optionally private addresses.
    pub(in crate::relay) fn new(deny_private: bool) -> Self {
        let private: &[&str] = if deny_private { &PRIVATE_NETWORKS } else { &[] };
        let denied = METADATA_NETWORKS.iter().chain(private).copied();
        let denied = Networks::parse(denied).expect("the constants are networks");
        Self(Arc::new(denied))
    }

    /// Returns whether the address is denied. An IPv6 address is also denied if it contains a denied
    /// IPv4 address (RFC 4291, RFC 6052).
    pub(super) fn denies(&self, ip: IpAddr) -> bool {
        let embedded_ip = match ip {
            IpAddr::V6(ip) => embedded_ipv4(ip.octets()),
            IpAddr::V4(_) => None,
        };
        self.0.contains(ip) || embedded_ip.is_some_and(|ip| self.0.contains(ip.into()))
    }

    /// Resolves a host name and returns the allowed addresses. Fails if there are none.
    pub(super) async fn resolve_allowed(
        &self,
        host: &str,
        port: u16,
    ) -> io::Result<Vec<SocketAddr>> {
        let resolved = tokio::net::lookup_host((host, port)).await?;
        let allowed: Vec<SocketAddr> = resolved
            .filter(|address| !self.denies(address.ip()))
            .collect();
        if allowed.is_empty() {
            return Err(io::Error::other(AllDenied));
        }
        Ok(allowed)
    }
}

/// Returns the IPv4 address within an IPv6 address: behind a translating gateway (`64:ff9b::/96`),
/// a 6to4 tunnel (`2002::/16`), or in another notation (`::/96`, `::ffff:0:0:0/96`).
fn embedded_ipv4(octets: [u8; 16]) -> Option<Ipv4Addr> {
    const PREFIXES: [[u8; 12]; 3] = [
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0],
        [0; 12],
        [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
    ];
    if let [0x20, 0x02, ip @ ..] = octets {
        return ip.first_chunk().map(|ip: &[u8; 4]| Ipv4Addr::from(*ip));
    }
    let (prefix, ip) = octets.split_first_chunk()?;
    let ip = <[u8; 4]>::try_from(ip).ok()?;
    PREFIXES.contains(prefix).then(|| Ipv4Addr::from(ip))
}

/// The error if every address of a host is denied.
#[derive(Debug, thiserror::Error)]
#[error("every address of the host is denied")]
struct AllDenied;

impl Resolve for AddressPolicy {
    /// Resolves a name for the HTTP client, which connects only to the returned addresses.
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.clone();
        Box::pin(async move {
            let allowed = policy.resolve_allowed(name.as_str(), 0).await?;
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denies_metadata_always_and_private_on_request() {
        let always = [
            "169.254.169.254",
            "169.254.0.1",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
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
            "::127.0.0.1",
            "fec0::1",
        ];
        let public = ["203.0.113.7", "1.1.1.1", "2606:4700::1", "64:ff9b::101:101"];
        let denied = |deny_private: bool, ip: &str| {
            AddressPolicy::new(deny_private).denies(ip.parse().expect("an address"))
        };
        for ip in always {
            assert!(denied(false, ip) && denied(true, ip), "{ip}");
        }
        for ip in private {
            assert!(!denied(false, ip) && denied(true, ip), "{ip}");
        }
        for ip in public {
            assert!(!denied(false, ip) && !denied(true, ip), "{ip}");
        }
    }
}
