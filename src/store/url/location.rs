//! The location of a server: a host and a port, or a socket.

use std::net::Ipv6Addr;

use super::error::InvalidDatabaseUrl;
use super::query::decode;

/// The beginning of a socket's file name. Its port follows.
const SOCKET_FILE: &str = "/.s.PGSQL.";

/// The location of a server.
#[derive(Debug, Clone)]
pub(super) enum Host {
    /// A name, or an IP address.
    Name(String),
    /// The folder of a socket, and the port in the name of the socket's file.
    Socket { folder: String, port: Option<u16> },
}

/// Parses the host and the port of a URL's middle part.
pub(super) fn parse_location(
    location: &str,
) -> Result<(Option<Host>, Option<u16>), InvalidDatabaseUrl> {
    if location.contains(',') {
        return Err(InvalidDatabaseUrl::SeveralHosts);
    }
    let (host, port) = split_port(location)?;
    Ok((parse_host(&decode(host)?)?, parse_port(port)?))
}

/// Splits `host:port`. In the path of a socket, only digits after the last colon are a port.
fn split_port(location: &str) -> Result<(&str, &str), InvalidDatabaseUrl> {
    if location.starts_with('[') {
        let end = location.find(']').ok_or(InvalidDatabaseUrl::Host)?;
        let (host, port) = location.split_at(end + 1);
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if port.is_empty() => Ok((host, "")),
            None => Err(InvalidDatabaseUrl::Host),
        };
    }
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match location.rsplit_once(':') {
        None => Ok((location, "")),
        Some((host, port)) if location.starts_with('%') => Ok(if is_port(port) {
            (host, port)
        } else {
            (location, "")
        }),
        Some((host, _)) if host.contains(':') => Err(InvalidDatabaseUrl::Host),
        Some((host, port)) => Ok((host, port)),
    }
}

/// Parses a decoded host. `None` is the default host.
pub(super) fn parse_host(text: &str) -> Result<Option<Host>, InvalidDatabaseUrl> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with('/') {
        return parse_socket(text).map(Some);
    }
    if text.contains(',') {
        return Err(InvalidDatabaseUrl::SeveralHosts);
    }
    let in_brackets = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let name = in_brackets.unwrap_or(text);
    let is_ipv6 = || {
        let address = name.split('%').next().unwrap_or_default();
        address.parse::<Ipv6Addr>().is_ok()
    };
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_valid = if in_brackets.is_some() || name.contains(':') {
        is_ipv6()
    } else {
        name.chars().all(is_plain)
    };
    if is_valid {
        Ok(Some(Host::Name(name.to_owned())))
    } else {
        Err(InvalidDatabaseUrl::Host)
    }
}

/// Parses the path of a socket's folder, or of the socket's file in it.
fn parse_socket(path: &str) -> Result<Host, InvalidDatabaseUrl> {
    let (folder, port) = match path.rsplit_once(SOCKET_FILE) {
        Some((folder, port)) => (folder, parse_port(port)?),
        None => (path, None),
    };
    let folder = folder.trim_end_matches('/');
    Ok(Host::Socket {
        folder: if folder.is_empty() { "/" } else { folder }.to_owned(),
        port,
    })
}

/// Parses a port. An empty text is the default port.
pub(super) fn parse_port(text: &str) -> Result<Option<u16>, InvalidDatabaseUrl> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.contains(',') {
        return Err(InvalidDatabaseUrl::SeveralHosts);
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port > 0);
    port.map(Some).ok_or(InvalidDatabaseUrl::Port)
}
