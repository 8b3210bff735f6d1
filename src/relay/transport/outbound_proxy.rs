//! The proxy through which HTTP endpoints and token servers are called.

use reqwest::Proxy;
use secrecy::{ExposeSecret, SecretString};

use super::address_policy::HAS_DENIED_ADDRESS;

/// The names of cloud metadata services. The proxy would resolve them.
const METADATA_NAMES: [&str; 5] = [
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
];

/// The last labels of names that belong to this machine or to a private network (RFC 6761, RFC 6762, RFC 8375, RFC 9476).
const PRIVATE_SUFFIXES: [&str; 6] = [
    "localhost",
    "local",
    "internal",
    "home.arpa",
    "lan",
    "intranet",
];

/// A proxy. It resolves the names of endpoints, so the addresses are unknown here. The policy then checks only names, and the
/// proxy must refuse denied addresses. Cheap to clone.
#[derive(Clone)]
pub(in crate::relay) struct OutboundProxy {
    proxy: Proxy,
    deny_private: bool,
}

impl OutboundProxy {
    /// Checks the URL. The error is the rule of `relay.proxy_url`.
    pub(in crate::relay) fn new(url: &SecretString, deny_private: bool) -> Result<Self, String> {
        const RULE: &str =
            "must be a URL such as http://proxy.example:3128 or socks5://proxy.example:1080";
        let url = url::Url::parse(url.expose_secret()).map_err(|_| RULE)?;
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
            deny_private,
        })
    }

    pub(super) fn proxy(&self) -> Proxy {
        self.proxy.clone()
    }

    /// Checks the name of a host that the proxy will resolve. `setting` is the key of its URL. The error is a clause.
    pub(super) fn check_name(&self, host: &str, setting: &str) -> Result<(), String> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let is_private = || {
            PRIVATE_SUFFIXES.iter().any(|suffix| {
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
            ("notlocalhost", false, false),
            ("app.example", false, false),
        ] {
            let is_denied = |deny_private| proxy(deny_private).check_name(host, "url").is_err();
            assert_eq!(is_denied(false), denied, "{host}");
            assert_eq!(is_denied(true), denied_if_private, "{host}");
        }
    }
}
