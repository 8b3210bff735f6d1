//! The proxy through which HTTP endpoints and token servers are called.

use std::error::Error;
use std::net::IpAddr;

use reqwest::{Proxy, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::address_policy::HAS_DENIED_ADDRESS;
use crate::telemetry::chain;

/// The names of cloud metadata services. The proxy would resolve them.
const METADATA_NAMES: [&str; 5] = [
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
];

/// The last labels of names that belong to this machine or to a private network (RFC 6761, RFC 6762, RFC 8375, RFC 9476).
///
/// Kubernetes adds its own suffix to `svc`. `corp`, `home` and `mail` are never delegated in public (ICANN, resolution
/// 2018.02.04.12).
const PRIVATE_SUFFIXES: [&str; 15] = [
    "localhost",
    "localhost6",
    "localdomain",
    "localdomain4",
    "localdomain6",
    "local",
    "internal",
    "home.arpa",
    "home",
    "lan",
    "intranet",
    "corp",
    "mail",
    "private",
    "svc",
];

/// A proxy. It resolves the names of endpoints, so the addresses are unknown here. The policy then checks only names, and the
/// proxy must refuse denied addresses. Cheap to clone.
#[derive(Clone)]
pub(in crate::relay) struct OutboundProxy {
    proxy: Proxy,
    /// Whether it is an HTTP proxy, and not a SOCKS proxy.
    is_http: bool,
    deny_private: bool,
}

impl OutboundProxy {
    /// Checks the URL. The error is the rule of `relay.proxy_url`.
    pub(in crate::relay) fn new(url: &SecretString, deny_private: bool) -> Result<Self, String> {
        const RULE: &str =
            "must be a URL such as http://proxy.example:3128 or socks5://proxy.example:1080";
        let url = Url::parse(url.expose_secret()).map_err(|_| RULE)?;
        let scheme = match url.scheme() {
            "http" | "https" => url.scheme(),
            // The proxy resolves the names, because this system may know only internal names.
            "socks5" | "socks5h" => "socks5h",
            _ => return Err(RULE.to_owned()),
        };
        if !url.has_host() || !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(RULE.to_owned());
        }
        let rest = url.as_str().split_once(':').map_or("", |(_, rest)| rest);
        let proxy = Proxy::all(format!("{scheme}:{rest}")).map_err(|_| RULE)?;
        Ok(Self {
            proxy,
            is_http: scheme != "socks5h",
            deny_private,
        })
    }

    pub(super) fn proxy(&self) -> Proxy {
        self.proxy.clone()
    }

    /// Returns whether the proxy answers a request to this URL with its own answers and those of the endpoint. Other requests go
    /// through a tunnel, so every answer is the endpoint's.
    pub(super) fn forwards(&self, url: &Url) -> bool {
        self.is_http && url.scheme() == "http"
    }

    /// Returns whether the proxy, and not the endpoint, refused the request. Only a proxy answers 407 (RFC 9110, section 15.5.8).
    pub(super) fn refused(&self, url: &Url, status: StatusCode) -> bool {
        self.forwards(url) && status == StatusCode::PROXY_AUTHENTICATION_REQUIRED
    }

    /// Returns an error without a response as text.
    pub(super) fn describe(error: &reqwest::Error) -> String {
        let advice = if is_refused_tunnel(error) {
            REFUSED
        } else {
            ""
        };
        format!("{THROUGH}: {}{advice}", chain(error))
    }

    /// Returns an answer as text, such as `answered 403 Forbidden`. Names the server or the proxy if the answer may be the proxy's.
    pub(super) fn describe_answer(
        &self,
        server: &str,
        url: &Url,
        status: StatusCode,
        text: String,
    ) -> String {
        if self.refused(url, status) {
            format!("{THROUGH}: the proxy {text}{REFUSED}")
        } else if self.forwards(url) {
            format!("{THROUGH}: {server} or the proxy {text}")
        } else {
            text
        }
    }

    /// Checks the name of a host that the proxy will resolve. `setting` is the key of its URL. The error is a clause.
    pub(super) fn check_name(&self, host: &str, setting: &str) -> Result<(), String> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
        let is_private = || {
            // Public names have a dot. The search list of the proxy can make any name of one label private.
            !is_address && !name.contains('.')
                || PRIVATE_SUFFIXES.iter().any(|suffix| {
                    let before = name.strip_suffix(suffix);
                    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
                })
        };
        if METADATA_NAMES.contains(&&*name) || self.deny_private && is_private() {
            return Err(format!("{setting} {HAS_DENIED_ADDRESS}"));
        }
        Ok(())
    }
}

/// The beginning of an error of a request through the proxy.
const THROUGH: &str = "through relay.proxy_url";

const REFUSED: &str = "; check the user, the password and the rules of the proxy";

/// Returns whether the proxy probably refused a connection: it failed, and not for an error of the network or of TLS.
fn is_refused_tunnel(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return false;
        }
        cause = error.source();
    }
    error.is_connect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_by_name() {
        let proxy = |deny_private| {
            let url = SecretString::from("http://proxy.example:3128");
            OutboundProxy::new(&url, deny_private).expect("a URL")
        };
        for (host, denied, denied_if_private) in [
            ("metadata.google.internal", true, true),
            ("METADATA.google.internal.", true, true),
            ("metadata", true, true),
            ("localhost", false, true),
            ("app.localhost", false, true),
            ("printer.local", false, true),
            ("app.svc.internal", false, true),
            ("redis", false, true),
            ("redis.default.svc", false, true),
            ("localhost.localdomain", false, true),
            ("localhost6.localdomain6", false, true),
            ("ip6-loopback", false, true),
            ("wiki.corp", false, true),
            ("nas.home.", false, true),
            ("192.0.2.1", false, false),
            ("[2001:db8::1]", false, false),
            ("notlocalhost", false, true),
            ("notlocalhost.example", false, false),
            ("app.example", false, false),
        ] {
            let is_denied = |deny_private| proxy(deny_private).check_name(host, "url").is_err();
            assert_eq!(is_denied(false), denied, "{host}");
            assert_eq!(is_denied(true), denied_if_private, "{host}");
        }
    }
}
