//! The rules of the two listeners: their ports and paths, and the address for `PORT`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config_types::{InvalidSetting, UrlPath};
use crate::{ops, web};

/// Returns the address for `PORT` if `server.listen` has no value: every address, because the platform connects from elsewhere.
pub(super) fn platform_address(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}

/// Returns whether one port serves webhooks, probes and metrics. Port 0 stands for a free port, so two of them differ.
pub(super) fn is_one_port(webhook: SocketAddr, ops: SocketAddr) -> bool {
    webhook == ops && webhook.port() != 0
}

/// Checks that the ports and the paths do not collide.
pub(super) fn check(
    server: &web::Settings,
    ops: &ops::Settings,
    webhook_path: &UrlPath,
) -> Result<(), InvalidSetting> {
    let (webhook, ops) = (server.listen.get(), ops.listen.get());
    let has_one_port = is_one_port(webhook, ops);
    if !has_one_port && overlap(webhook, ops) {
        return Err(InvalidSetting {
            key: "ops.listen",
            rule: format!(
                "port {} on this address is taken by server.listen. Use another port, or the same address for both.",
                ops.port()
            ),
        });
    }
    if has_one_port && is_ops_path(webhook_path) {
        return Err(InvalidSetting {
            key: "webhook.path",
            rule:
                "is a path of ops.listen, which has the port of server.listen. Choose another path."
                    .to_owned(),
        });
    }
    let Some(health) = server.health_path.get() else {
        return Ok(());
    };
    let rule = if health == webhook_path {
        "must differ from webhook.path. Choose another path, or off."
    } else if has_one_port && is_ops_path(health) {
        "is a path of ops.listen, which has the port of server.listen. Choose another path, or off."
    } else {
        return Ok(());
    };
    Err(InvalidSetting {
        key: "server.health_path",
        rule: rule.to_owned(),
    })
}

fn is_ops_path(path: &UrlPath) -> bool {
    let routes = path.routes();
    routes.iter().any(|path| ops::PATHS.contains(&&**path))
}

/// Returns whether two listeners cannot both have their address: they have one port, and a client could mean either.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    one == other || covers(one, other) || covers(other, one)
}

/// Returns whether a listener on an address receives every connection to another address. `::` includes IPv4.
fn covers(listener: IpAddr, address: IpAddr) -> bool {
    listener == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || listener == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && address.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_port_on_overlapping_addresses_collides() {
        for (one, other, collide) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("10.0.0.1:80", "10.0.0.2:80", false),
            ("[::]:80", "127.0.0.1:81", false),
            ("[::]:0", "127.0.0.1:0", false),
        ] {
            let (one, other) = (one.parse().expect("it"), other.parse().expect("it"));
            assert_eq!(overlap(one, other), collide, "{one} {other}");
            assert_eq!(overlap(other, one), collide, "{other} {one}");
        }
    }
}
