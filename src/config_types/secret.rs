//! Secrets, and what may be shown of them.
//!
//! A key's name says whether its value is secret. `tests/architecture.rs` checks that secret types have such names.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::string_list::StringList;

/// A secret, or none if the text is blank. White space around a secret is removed: no header can carry it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "SecretString")]
pub(crate) struct Secret(Option<SecretString>);

impl From<SecretString> for Secret {
    fn from(secret: SecretString) -> Self {
        let text = secret.expose_secret().trim();
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

/// The last words of the names of keys with secret values. A URL can have a password or a token in it.
const SECRET_WORDS: [&str; 4] = ["secret", "secrets", "url", "headers"];

/// Returns whether a key's values are secret: `previous_secret`, `relay.endpoints[0].headers.Authorization`.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    key.split('.')
        .any(|name| SECRET_WORDS.contains(&last_word(name)))
}

/// The end of a key that names the file of a secret.
const FILE_SUFFIX: &str = "_file";

/// Returns the key of the secret whose file this key names.
#[must_use]
pub(crate) fn secret_of_file(key: &str) -> Option<&str> {
    key.strip_suffix(FILE_SUFFIX).filter(|key| is_secret(key))
}

/// Returns what may be shown of a secret text: nothing, but of a URL its host. Of the database's URL also the file, or the user and
/// the name.
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

/// Keeps the host of a URL: the rest can be a token. A user or a password that is not percent-encoded can hold a slash, so that
/// nothing tells where the host is.
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

/// The key whose URL is a database's.
const DATABASE_URL: &str = "database.url";

/// Keeps the file of SQLite, and the user, the host and the name of a Postgres database.
///
/// A URL parser would refuse a password that is not percent-encoded, and such a password must not be shown either.
fn redacted_database_url(url: &str) -> String {
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Some((scheme, after_scheme)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let (address, parameters) = match after_scheme.split_once('?') {
        // The question mark can be a part of the password.
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
