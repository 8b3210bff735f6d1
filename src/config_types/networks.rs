//! IP networks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::string_list::StringList;

/// A list of networks, such as `203.0.113.0/24` or `2001:db8::/32`. A single address is a network too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "StringList")]
pub struct Networks(Vec<IpNet>);

impl TryFrom<StringList> for Networks {
    type Error = String;

    fn try_from(texts: StringList) -> Result<Self, String> {
        Self::parse(texts.into_vec().iter().map(String::as_str))
    }
}

impl Networks {
    /// Parses every string as a network or a single address.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let networks = texts.into_iter().map(|text| {
            let text = text.trim();
            let network: Option<IpNet> = text
                .parse()
                .ok()
                .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            network.ok_or_else(|| {
                "must be networks such as 203.0.113.0/24 or 2001:db8::/32, or single IP addresses"
                    .to_owned()
            })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }

    /// Parses the content of a file with one network per line. A `#` starts a comment.
    pub fn parse_lines(text: &str) -> Result<Self, String> {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        Self::parse(lines.filter(|line| !line.is_empty()))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Returns whether the address is in one of the networks. An IPv4-mapped IPv6 address counts as its IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_only_its_addresses() {
        let networks = Networks::parse(["203.0.113.0/24", "2001:db8::/32", " 192.0.2.7 "])
            .expect("they are networks");

        for (address, expected) in [
            ("203.0.113.255", true),
            ("203.0.114.0", false),
            ("::ffff:203.0.113.1", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(networks.contains(address), expected, "{address}");
        }
    }

    #[test]
    fn rejects_invalid_networks() {
        for text in [
            "",
            "everybody",
            "203.0.113.0/33",
            "203.0.113",
            "2001:db8::/129",
        ] {
            assert!(Networks::parse([text]).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_one_network_per_line() {
        let networks = Networks::parse_lines("# all of them\n192.0.2.0/24 # documents\n\n::1\n");

        assert_eq!(networks, Networks::parse(["192.0.2.0/24", "::1"]));
    }
}
