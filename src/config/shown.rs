//! The configuration as people may see it.

use ::config::{Map, Value, ValueKind};

use super::endpoints::ENDPOINTS;
use super::layer::{DATABASE_URL, SECRET_KEYS};

/// A setting, as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The dotted key.
    pub key: String,
    /// The value as TOML writes it; a secret's place is taken by stars.
    pub value: String,
    /// Where it came from.
    pub origin: String,
}

/// Every setting under its key, sorted.
pub(super) fn all(merged: &Map<String, Value>) -> Vec<Shown> {
    let mut shown = Vec::new();
    collect("", merged, &mut shown);
    shown.sort_by(|a, b| a.key.cmp(&b.key));
    shown
}

fn collect(prefix: &str, table: &Map<String, Value>, shown: &mut Vec<Shown>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match &value.kind {
            ValueKind::Table(table) => collect(&key, table, shown),
            ValueKind::Array(tables) if key == ENDPOINTS && !tables.is_empty() => {
                for (number, table) in tables.iter().enumerate() {
                    if let ValueKind::Table(table) = &table.kind {
                        collect(&format!("{key}[{number}]"), table, shown);
                    }
                }
            }
            kind => {
                let value_text = if is_secret(&key) {
                    redacted(&key, kind)
                } else {
                    written(kind)
                };
                shown.push(Shown {
                    key,
                    value: value_text,
                    origin: value.origin().unwrap_or("unknown").to_owned(),
                });
            }
        }
    }
}

/// Of an endpoint, what lets others in: its secrets, its headers, and its URLs but for where they lead.
fn is_secret(key: &str) -> bool {
    let of_endpoint = key.strip_prefix(ENDPOINTS).is_some_and(|key| {
        let name = last(key);
        ["secret", "secrets", "client_secret"].contains(&name)
            || is_url(name)
            || key.contains(".headers.")
    });
    of_endpoint || SECRET_KEYS.contains(&key)
}

fn is_url(name: &str) -> bool {
    name == "url" || name.ends_with("_url")
}

fn written(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(values) => {
            let values: Vec<String> = values.iter().map(|value| written(&value.kind)).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}

/// Stars for a secret, nothing for none. The database's URL keeps what is no secret: where it is.
fn redacted(key: &str, kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) if text.is_empty() => "\"\"".to_owned(),
        ValueKind::String(url) if key == DATABASE_URL => format!("{:?}", redacted_url(url)),
        ValueKind::String(url) if key.starts_with(ENDPOINTS) && is_url(last(key)) => {
            format!("{:?}", redacted_path(url))
        }
        ValueKind::Array(values) => {
            let values: Vec<String> = values
                .iter()
                .map(|value| redacted(key, &value.kind))
                .collect();
            format!("[{}]", values.join(", "))
        }
        _ => "\"***\"".to_owned(),
    }
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or_default()
}

/// Where a URL leads: some have a token in their path.
fn redacted_path(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let place = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
            let place = place.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{place}/***")
        }
        None => "***".to_owned(),
    }
}

/// By hand and not by a URL parser: a password that was not encoded as it should be is a password all the same.
fn redacted_url(url: &str) -> String {
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let (address, parameters) = rest
        .split_once('?')
        .map_or((rest, None), |(address, after)| (address, Some(after)));
    if parameters.is_some_and(|parameters| parameters.contains('@')) {
        return format!("{scheme}://***");
    }
    let parameters = if parameters.is_some() { "?***" } else { "" };
    match address.rsplit_once('@') {
        Some((credentials, place)) => {
            let user = credentials.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{place}{parameters}")
        }
        None => format!("{scheme}://{address}{parameters}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_databases_url_everything_is_shown_that_cannot_be_a_password() {
        for (url, shown) in [
            ("sqlite://data/images.db", "sqlite://data/images.db"),
            ("postgres://db/app", "postgres://db/app"),
            ("postgres://app@db/app", "postgres://app:***@db/app"),
            (
                "postgres://app:SECRET@db:5432/app",
                "postgres://app:***@db:5432/app",
            ),
            (
                "postgres://app:SECRET@SECRET/SECRET#SECRET@db/app",
                "postgres://app:***@db/app",
            ),
            (
                "postgres://db/app?user=x&password=SECRET",
                "postgres://db/app?***",
            ),
            (
                "postgres://db/app?user=x&password=SEC@RET",
                "postgres://***",
            ),
            ("postgres://app:SEC?RET@db/app", "postgres://***"),
            ("SECRET", "***"),
        ] {
            assert_eq!(redacted_url(url), shown);
        }
    }

    #[test]
    fn a_webhooks_secret_is_never_shown_whatever_it_looks_like() {
        for secret in ["sqlite:SECRET", "postgres://SECRET", "SECRET"] {
            for key in ["webhook.secrets", "webhook.previous_secret"] {
                assert_eq!(redacted(key, &ValueKind::from(secret)), "\"***\"");
            }
        }
    }
}
