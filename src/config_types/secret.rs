//! Secrets, and their redaction for display.
//!
//! The name of a key decides whether its value is secret. `tests/architecture.rs` checks that settings of secret types have such
//! names.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::pasted::trim_pasted;
use super::string_list::StringList;

/// A secret, or none if the string is blank. Surrounding white space is removed, because a header cannot carry it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "SecretString")]
pub(crate) struct Secret(Option<SecretString>);

impl From<SecretString> for Secret {
    fn from(secret: SecretString) -> Self {
        let text = trim_pasted(secret.expose_secret());
        Self((!text.is_empty()).then(|| text.into()))
    }
}

impl Secret {
    #[must_use]
    pub(crate) fn get(&self) -> Option<&SecretString> {
        self.0.as_ref()
    }
}

/// A list of secrets, without blank ones.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "StringList")]
pub(crate) struct SecretList(Vec<Secret>);

impl From<StringList> for SecretList {
    fn from(strings: StringList) -> Self {
        let strings = strings.into_vec().into_iter();
        Self(
            strings
                .map(|string| SecretString::from(string).into())
                .collect(),
        )
    }
}

impl SecretList {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &SecretString> {
        self.0.iter().filter_map(Secret::get)
    }
}

/// The last words of keys with secret values. A URL may contain a password or a token.
const SECRET_WORDS: [&str; 6] = ["secret", "secrets", "token", "tokens", "url", "headers"];

/// Returns whether the value of a key is secret, as for `previous_secret` or `relay.endpoints[0].headers.Authorization`.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    key.split('.')
        .any(|name| SECRET_WORDS.contains(&last_word(name)))
}

/// The suffix of a key whose value is the path of a secret's file.
const FILE_SUFFIX: &str = "_file";

/// Returns the key of the secret that the file under this key contains.
#[must_use]
pub(crate) fn secret_of_file(key: &str) -> Option<&str> {
    key.strip_suffix(FILE_SUFFIX).filter(|key| is_secret(key))
}

/// Redacts a secret value for display. The host of a URL stays. For the database URL, the file or the user and the database name
/// stay too.
#[must_use]
pub(crate) fn redacted(key: &str, text: &str) -> String {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    if text.is_empty() {
        String::new()
    } else if key == DATABASE_URL {
        redacted_database_url(text)
    } else if last_word(name) == "url" && !is_secret(table) {
        redacted_url(text)
    } else {
        "***".to_owned()
    }
}

fn last_word(name: &str) -> &str {
    name.rsplit('_').next().unwrap_or_default()
}

/// Redacts everything except the scheme and the host, because the path may be a token.
///
/// A user or password that is not percent-encoded may contain a slash. Then the position of the host is unknown, and the host is
/// redacted too.
fn redacted_url(url: &str) -> String {
    let Some((scheme, after_scheme)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let end = after_scheme
        .find(['/', '\\', '?', '#'])
        .unwrap_or(after_scheme.len());
    let (authority, path) = after_scheme.split_at(end);
    if path.contains('@') {
        return format!("{scheme}://***");
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/***")
}

/// The key of the database URL.
const DATABASE_URL: &str = "database.url";

/// Redacts a database URL. The file of an SQLite database stays, as do the user, host and name of a Postgres database.
///
/// It uses no URL parser. A parser rejects passwords that are not percent-encoded, and these must be redacted too.
fn redacted_database_url(url: &str) -> String {
    if url.starts_with("sqlite:") {
        // A parameter of another driver can be the key of an encrypted file.
        return match url.split_once('?') {
            Some((file, _)) => format!("{file}?***"),
            None => url.to_owned(),
        };
    }
    let Some((scheme, after_scheme)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let (address, parameters) = match after_scheme.split_once('?') {
        // The question mark may be part of the password.
        Some((_, after)) if after.contains('@') => return format!("{scheme}://***"),
        Some((address, _)) => (address, "?***"),
        None => (after_scheme, ""),
    };
    match address.rsplit_once('@') {
        Some((credentials, location)) => {
            let user = credentials.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{location}{parameters}")
        }
        None => format!("{scheme}://{address}{parameters}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_passwords_in_database_urls() {
        for (url, shown) in [
            ("sqlite://data/images.db", "sqlite://data/images.db"),
            ("sqlite://images.db?key=SECRET", "sqlite://images.db?***"),
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
            assert_eq!(redacted("database.url", url), shown);
        }
    }

    #[test]
    fn shows_only_host_of_other_urls() {
        for (url, shown) in [
            (
                "https://SECRET:SECRET@app.example:8443/SECRET?SECRET",
                "https://app.example:8443/***",
            ),
            ("https:SECRET", "***"),
            ("https://user:SEC/RET@app.example/", "https://***"),
            ("https://user:SEC#RET@app.example/", "https://***"),
            (
                "postgres://app.example/SECRET",
                "postgres://app.example/***",
            ),
            ("sqlite:SECRET", "***"),
        ] {
            assert_eq!(redacted("relay.endpoints[0].token_url", url), shown);
        }
        assert_eq!(redacted("headers.x_url", "https://app.example/"), "***");
    }

    #[test]
    fn never_shows_webhook_secrets() {
        for secret in ["sqlite:SECRET", "postgres://SECRET", "SECRET"] {
            for key in ["webhook.secrets", "webhook.previous_secret"] {
                assert!(is_secret(key));
                assert_eq!(redacted(key, secret), "***");
            }
        }
    }
}
