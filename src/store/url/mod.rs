//! The database URL: `sqlite://path` or `postgres://…`.
//!
//! The parser is the service's own. sqlx's parser ignores unknown parameters, so a misspelt `sslmode` would turn encryption off,
//! and its errors can repeat a part of the password.

mod encryption;
mod error;
mod ignored_parameter;
mod label;
mod location;
mod parameters;
mod postgres;
mod query;
mod resolution;
mod session_settings;
mod sqlite;
mod suggestion;
mod target;
mod tls;
mod variables;

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use error::InvalidDatabaseUrl;
pub use ignored_parameter::IgnoredParameter;
pub(super) use label::label;
pub(super) use postgres::PostgresUrl;
pub(super) use session_settings::SessionSettings;
use sqlite::SqliteUrl;
pub(crate) use variables::InvalidVariables;

/// A database URL: `sqlite://path` or `postgres://…`. It can contain a password, so it has no `Display`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub enum DatabaseUrl {
    /// A SQLite file.
    Sqlite(SqliteUrl),
    /// A Postgres server.
    Postgres(Box<PostgresUrl>),
}

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(url: &str) -> Result<Self, InvalidDatabaseUrl> {
        if url.contains(char::is_control) {
            return Err(InvalidDatabaseUrl::ControlCharacter);
        }
        if let Some(file) = url.strip_prefix("sqlite:") {
            let file = file.strip_prefix("//").unwrap_or(file);
            return sqlite::parse(file).map(Self::Sqlite);
        }
        let (scheme, after_scheme) = url
            .split_once("://")
            .ok_or(InvalidDatabaseUrl::UnknownScheme)?;
        match scheme {
            "postgres" | "postgresql" => {
                postgres::parse(after_scheme).map(|url| Self::Postgres(Box::new(url)))
            }
            _ if names_driver(scheme) => Err(InvalidDatabaseUrl::Driver),
            _ => Err(InvalidDatabaseUrl::UnknownScheme),
        }
    }
}

/// Returns whether the scheme names a driver, as in `postgresql+psycopg://` and `jdbc:postgresql://`.
fn names_driver(scheme: &str) -> bool {
    let protocol = scheme.strip_prefix("jdbc:").unwrap_or(scheme);
    let protocol = protocol.split('+').next().unwrap_or_default();
    ["postgres", "postgresql"].contains(&protocol)
}

impl TryFrom<String> for DatabaseUrl {
    type Error = InvalidDatabaseUrl;

    fn try_from(url: String) -> Result<Self, InvalidDatabaseUrl> {
        url.parse()
    }
}

impl DatabaseUrl {
    /// Returns the parameters that have no effect.
    #[must_use]
    pub fn ignored_parameters(&self) -> &[IgnoredParameter] {
        match self {
            Self::Sqlite(url) => &url.ignored,
            Self::Postgres(url) => &url.ignored,
        }
    }

    /// Returns whether the server is on another host, and another server could pose as it.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(url) => url.is_unverified(),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(url) => write!(f, "sqlite://{}", url.path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
