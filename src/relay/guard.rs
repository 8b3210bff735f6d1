//! Where nobody is sent to, whatever a name resolves to: addresses that a cloud gives its machines their credentials at, and, if that
//! is wanted, every private one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::setting::Networks;

/// Where clouds serve their metadata: link-local addresses (RFC 3927), and those of AWS, Google, and Scaleway over IPv6, of Alibaba, Azure
/// and Oracle. And networks that a gateway of one's own translates (RFC 8215), which may lead to any of these.
const METADATA: [&str; 9] = [
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

/// This machine, and networks that are not the Internet's (RFC 6890).
const PRIVATE: [&str; 14] = [
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

    /// The addresses of this name that are not refused, at least one.
    pub(super) async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((host, port)).await?;
        let allowed: Vec<SocketAddr> = found
            .filter(|address| !self.refuses(address.ip()))
            .collect();
        if allowed.is_empty() {
            return Err(io::Error::other(Refused));
        }
        Ok(allowed)
    }
}

/// The address within one that a gateway translates (`64:ff9b::/96`), that is tunnelled (6to4, `2002::/16`), or that merely writes it in
/// another way (`::/96`, `::ffff:0:0:0/96`).
fn embedded(octets: [u8; 16]) -> Option<Ipv4Addr> {
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

/// Every address that the name has is refused.
#[derive(Debug, thiserror::Error)]
#[error("the host has only addresses that nothing is sent to")]
struct Refused;

impl Resolve for Guard {
    /// What is looked at is what is connected to: there is no second look-up that could say something else.
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let allowed = guard.look_up(name.as_str(), 0).await?;
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
