//! The policy for the addresses of endpoints. It applies to every address that a host name resolves to.
//!
//! Cloud metadata services are always denied, because they give out a machine's credentials. Private
//! addresses are denied if `relay.deny_private` is true.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

use crate::config_types::Networks;

/// The addresses of cloud metadata services, and of services beside them that give out credentials.
const METADATA_NETWORKS: [&str; 15] = [
    // Link-local (RFC 3927): most clouds, and AWS for containers (169.254.170.2 and 169.254.170.23).
    "169.254.0.0/16",
    // Link-local (RFC 4291): OpenStack (fe80::a9fe:a9fe).
    "fe80::/10",
    // AWS: instances, and pods.
    "fd00:ec2::254/128",
    "fd00:ec2::23/128",
    // Google Cloud.
    "fd20:ce::254/128",
    // Azure.
    "168.63.129.16/32",
    // Oracle Cloud: classic, and IPv6.
    "192.0.0.192/32",
    "fd00:c1::a9fe:a9fe/128",
    // Alibaba Cloud.
    "100.100.100.200/32",
    "fd00:100::100:200/128",
    // Akamai (Linode).
    "fd00:a9fe:a9fe::1/128",
    // Scaleway.
    "fd00:42::42/128",
    // Volcengine.
    "100.96.0.96/32",
    // UCloud.
    "100.80.80.80/32",
    // IPv4 addresses behind a local NAT64 gateway (RFC 8215). Each network divides this prefix in its
    // own way, so every address here may lead to one of the others.
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
    /// IPv4 address.
    pub(super) fn denies(&self, ip: IpAddr) -> bool {
        let embeds_denied = match ip {
            IpAddr::V6(ip) => embedded_ipv4(ip.octets()).any(|ip| self.0.contains(ip.into())),
            IpAddr::V4(_) => false,
        };
        embeds_denied || self.0.contains(ip)
    }

    /// Returns whether the host of a URL is a denied address, in any notation that a URL or a system
    /// resolver accepts, such as `0xa9fea9fe`. Returns `false` for a name.
    pub(super) fn denies_host(&self, host: &str) -> bool {
        let ip = host.parse().ok().or_else(|| match Host::parse(host) {
            Ok(Host::Ipv4(ip)) => Some(ip.into()),
            Ok(Host::Ipv6(ip)) => Some(ip.into()),
            Ok(Host::Domain(_)) | Err(_) => None,
        });
        ip.is_some_and(|ip| self.denies(ip))
    }

    /// Resolves a host name and returns the allowed addresses. Fails if there are none.
    pub(super) async fn resolve_allowed(
        &self,
        host: &str,
        port: u16,
    ) -> io::Result<Vec<SocketAddr>> {
        let resolved = tokio::net::lookup_host((host, port)).await?;
        let allowed = self.allowed(resolved);
        if allowed.is_empty() {
            return Err(io::Error::other(Denied::All));
        }
        Ok(allowed)
    }

    /// Resolves a host name. Fails if one of its addresses is denied. For a caller that cannot choose
    /// among the addresses.
    pub(super) async fn check_every_address(&self, host: &str, port: u16) -> io::Result<()> {
        let resolved: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
        if self.allowed(resolved.iter().copied()).len() < resolved.len() {
            return Err(io::Error::other(Denied::Some));
        }
        Ok(())
    }

    fn allowed(&self, resolved: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        resolved
            .filter(|address| !self.denies(address.ip()))
            .collect()
    }
}

/// Returns the IPv4 addresses within an IPv6 address. An address may have several: a Teredo address
/// has two, and the last half of a 6to4 address may be an ISATAP identifier.
fn embedded_ipv4(octets: [u8; 16]) -> impl Iterator<Item = Ipv4Addr> {
    let [first @ .., a, b, c, d] = octets;
    let last_ipv4 = Ipv4Addr::new(a, b, c, d);
    let has_last = match first {
        // IPv4-compatible, `::/96` (RFC 4291, section 2.5.5.1), IPv4-mapped, `::ffff:0:0/96` (section 2.5.5.2), and
        // IPv4-translated, `::ffff:0:0:0/96` (RFC 2765).
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
        | [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]
        // NAT64, `64:ff9b::/96` (RFC 6052, section 2.1).
        | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]
        // ISATAP, under any prefix (RFC 5214, section 6.1). The bit in 2 tells whether the IPv4 address is unique.
        | [_, _, _, _, _, _, _, _, 0 | 2, 0, 0x5e, 0xfe] => true,
        _ => false,
    };
    let (tunnel, client) = match octets {
        // 6to4, `2002::/16` (RFC 3056, section 2).
        [0x20, 0x02, a, b, c, d, ..] => (Some(Ipv4Addr::new(a, b, c, d)), None),
        // Teredo, `2001::/32` (RFC 4380, section 4): the server, and the client with its bits inverted.
        [0x20, 0x01, 0, 0, a, b, c, d, ..] => (Some(Ipv4Addr::new(a, b, c, d)), Some(!last_ipv4)),
        _ => (None, None),
    };
    let last = has_last.then_some(last_ipv4);
    [last, tunnel, client].into_iter().flatten()
}

/// The error if addresses of a host are denied.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("every address of the host is denied")]
    All,
    #[error("an address of the host is denied")]
    Some,
}

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

    /// The addresses that are always denied, with their owners.
    const METADATA: [(&str, &str); 18] = [
        (
            "169.254.169.254",
            "AWS, Google Cloud, Azure and most others",
        ),
        ("169.254.170.2", "AWS: tasks"),
        ("169.254.170.23", "AWS: pods"),
        ("169.254.0.23", "Tencent Cloud"),
        ("fe80::a9fe:a9fe", "OpenStack"),
        ("fd00:ec2::254", "AWS"),
        ("fd00:ec2::23", "AWS: pods"),
        ("fd20:ce::254", "Google Cloud"),
        ("168.63.129.16", "Azure"),
        ("192.0.0.192", "Oracle Cloud: classic"),
        ("fd00:c1::a9fe:a9fe", "Oracle Cloud"),
        ("100.100.100.200", "Alibaba Cloud"),
        ("fd00:100::100:200", "Alibaba Cloud"),
        ("fd00:a9fe:a9fe::1", "Akamai"),
        ("fd00:42::42", "Scaleway"),
        ("100.96.0.96", "Volcengine"),
        ("100.80.80.80", "UCloud"),
        ("64:ff9b:1::1", "a local NAT64 gateway"),
    ];

    const PRIVATE: [(&str, &str); 13] = [
        ("127.0.0.1", "this machine"),
        ("0.0.0.0", "this machine"),
        ("::1", "this machine"),
        ("::", "this machine"),
        ("10.1.2.3", "a private network"),
        ("172.31.0.1", "a private network"),
        ("192.168.1.1", "a private network"),
        ("100.64.0.1", "a carrier's network"),
        ("fd12::1", "a private network"),
        ("fd00:ec2::1", "a private network, next to AWS's address"),
        ("fec0::1", "a site-local network"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
    ];

    const PUBLIC: [(&str, &str); 8] = [
        ("203.0.113.7", "IPv4"),
        ("1.1.1.1", "IPv4"),
        ("2606:4700::1", "IPv6"),
        (
            "2606:4700::a9fe:a9fe",
            "IPv6 that ends in an address of no tunnel",
        ),
        ("64:ff9b::101:101", "NAT64 to 1.1.1.1"),
        ("2002:101:101::1", "6to4 to 1.1.1.1"),
        (
            "2001:0:101:101::fefe:fefe",
            "Teredo through 1.1.1.1 to 1.1.1.1",
        ),
        ("2606:4700::5efe:101:101", "ISATAP to 1.1.1.1"),
    ];

    /// Returns every IPv6 address that leads to an IPv4 address.
    fn tunnels_to(ip: Ipv4Addr) -> Vec<(&'static str, String)> {
        let [a, b, c, d] = ip.octets();
        let hex = format!("{a:02x}{b:02x}:{c:02x}{d:02x}");
        let inverted = format!("{:02x}{:02x}:{:02x}{:02x}", !a, !b, !c, !d);
        vec![
            ("IPv4-mapped", format!("::ffff:{ip}")),
            ("IPv4-compatible", format!("::{ip}")),
            ("IPv4-translated", format!("::ffff:0:{ip}")),
            ("NAT64", format!("64:ff9b::{ip}")),
            ("6to4", format!("2002:{hex}::1")),
            ("Teredo client", format!("2001:0:101:101::{inverted}")),
            ("Teredo server", format!("2001:0:{hex}::fefe:fefe")),
            ("ISATAP", format!("2606:4700::5efe:{ip}")),
            ("ISATAP, unique", format!("2606:4700::200:5efe:{ip}")),
            ("ISATAP in 6to4", format!("2002:101:101::5efe:{ip}")),
        ]
    }

    fn denied(deny_private: bool, ip: &str) -> bool {
        AddressPolicy::new(deny_private).denies(ip.parse().expect(ip))
    }

    #[test]
    fn denies_metadata_always_and_private_on_request() {
        for (ip, owner) in METADATA {
            assert!(denied(false, ip) && denied(true, ip), "{ip}: {owner}");
        }
        for (ip, owner) in PRIVATE {
            assert!(!denied(false, ip) && denied(true, ip), "{ip}: {owner}");
        }
        for (ip, kind) in PUBLIC {
            assert!(!denied(false, ip) && !denied(true, ip), "{ip}: {kind}");
        }
    }

    #[test]
    fn denies_tunnels_to_denied_addresses() {
        let tunnels = |ip: &str| ip.parse().map_or_else(|_| Vec::new(), tunnels_to);

        for (ip, owner) in METADATA {
            for (tunnel, ip) in tunnels(ip) {
                assert!(denied(false, &ip), "{ip}: {tunnel} to {owner}");
            }
        }
        for (ip, owner) in PRIVATE {
            for (tunnel, ip) in tunnels(ip) {
                assert!(denied(true, &ip), "{ip}: {tunnel} to {owner}");
            }
        }
        for (tunnel, ip) in tunnels("1.1.1.1") {
            assert!(!denied(true, &ip), "{ip}: {tunnel}");
        }
    }

    #[test]
    fn keeps_only_allowed_addresses_of_a_host() {
        let resolved = ["203.0.113.7:80", "169.254.169.254:80", "[fd00:ec2::23]:80"];
        let resolved = resolved.map(|address| address.parse().expect("an address"));

        let allowed = AddressPolicy::new(false).allowed(resolved.into_iter());

        assert_eq!(allowed, [resolved[0]]);
    }
}
