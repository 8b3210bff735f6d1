//! The listening sockets of a run.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::Settings;

/// The maximum number of connections that the system accepts before the service does. The standard library uses less, 128.
const BACKLOG: u32 = 1024;

/// The listening sockets of a run. The caller chooses the ports.
pub struct Listeners {
    /// The socket for webhooks.
    pub webhook: TcpListener,
    /// The socket for probes and metrics. `None`: the socket for webhooks serves them too.
    pub ops: Option<TcpListener>,
}

impl Listeners {
    /// Listens on the addresses in the settings.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let (webhook, ops) = (settings.server.listen.get(), settings.ops.listen.get());
        let context =
            format!("cannot listen on {webhook} (server.listen, APP__SERVER__LISTEN or PORT)");
        let webhook = bind(webhook).await.context(context)?;
        let ops = if settings.has_one_port() {
            None
        } else {
            let context = format!("cannot listen on {ops} (ops.listen, APP__OPS__LISTEN)");
            Some(bind(ops).await.context(context)?)
        };
        Ok(Self { webhook, ops })
    }

    /// Returns the address for webhooks, and the address for probes and metrics.
    pub(super) fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let webhook = self.webhook.local_addr()?;
        let ops = self.ops.as_ref().map(TcpListener::local_addr);
        Ok((webhook, ops.transpose()?.unwrap_or(webhook)))
    }
}

/// Listens on an address. `[::]` also receives IPv4, whatever the system's default is. On a system without IPv6, it is `0.0.0.0`.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip() != Ipv6Addr::UNSPECIFIED {
        return TcpListener::bind(address).await;
    }
    match bind_both_families(address) {
        Err(error) if is_without_ipv6(&error) => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            tracing::info!(%address, "the system has no IPv6, so the service listens on IPv4 only");
            TcpListener::bind(address).await
        }
        bound => bound,
    }
}

fn bind_both_families(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Returns whether an error means that the system has no IPv6, or no IPv6 address.
fn is_without_ipv6(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_ipv6_differs_from_port_in_use() {
        for (errno, is_missing) in [
            (Errno::AFNOSUPPORT, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::ADDRINUSE, false),
            (Errno::ACCESS, false),
        ] {
            assert_eq!(is_without_ipv6(&errno.into()), is_missing, "{errno}");
        }
    }
}
