//! The database URL.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

/// A database URL: `sqlite://path` or `postgres://…`. It can contain a password, so it has no `Display`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub enum DatabaseUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A Postgres server.
    Postgres(Box<PgConnectOptions>),
}

/// The error of a text that is no supported database URL. It does not contain the text, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters percent-encoded (@ is %40)"
)]
pub struct InvalidDatabaseUrl;

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(url: &str) -> Result<Self, InvalidDatabaseUrl> {
        if let Some(path) = url
            .strip_prefix("sqlite://")
            .or_else(|| url.strip_prefix("sqlite:"))
        {
            // An in-memory database is refused, because acknowledged webhooks must survive the process. Parameters are refused,
            // because they could select one.
            let is_file = !path.is_empty() && !path.contains('?') && !path.contains(":memory:");
            return if is_file {
                Ok(Self::Sqlite(path.into()))
            } else {
                Err(InvalidDatabaseUrl)
            };
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            if url.matches('@').count() > 1 {
                return Err(InvalidDatabaseUrl);
            }
            let options = PgConnectOptions::from_str(url).map_err(|_| InvalidDatabaseUrl)?;
            return Ok(Self::Postgres(Box::new(options)));
        }
        Err(InvalidDatabaseUrl)
    }
}

impl TryFrom<String> for DatabaseUrl {
    type Error = InvalidDatabaseUrl;

    fn try_from(url: String) -> Result<Self, InvalidDatabaseUrl> {
        url.parse()
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(options) => write!(
                f,
                "postgres://{}:{}",
                options.get_host(),
                options.get_port()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_sqlite_files_and_postgres_servers() {
        assert!(
            matches!("sqlite://data/images.db".parse(), Ok(DatabaseUrl::Sqlite(path)) if path.ends_with("data/images.db"))
        );
        assert!(
            matches!("sqlite:///var/lib/images.db".parse(), Ok(DatabaseUrl::Sqlite(path)) if path.is_absolute())
        );
        assert!(matches!(
            "postgres://app:secret@db:5432/app".parse(),
            Ok(DatabaseUrl::Postgres(_))
        ));
        assert!(matches!(
            "postgresql://db/app".parse(),
            Ok(DatabaseUrl::Postgres(_))
        ));
    }

    #[test]
    fn rejects_other_urls() {
        for url in [
            "",
            "images.db",
            "sqlite:",
            "sqlite://",
            "sqlite::memory:",
            "sqlite://a?mode=ro",
            "mysql://db/app",
            "postgres://db:port",
            "postgres://user:p@ss@db/app",
        ] {
            assert!(url.parse::<DatabaseUrl>().is_err(), "{url}");
        }
    }

    #[test]
    fn debug_hides_password() {
        let url: DatabaseUrl = "postgres://app:hunter2@db:5432/app"
            .parse()
            .expect("a Postgres URL");

        assert_eq!(format!("{url:?}"), "postgres://db:5432");
    }
}
