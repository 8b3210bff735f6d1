//! The `database` section of the configuration.

use serde::Deserialize;

use super::url::DatabaseUrl;
use crate::setting::{Bounded, Switch};

/// Which database, and how much of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the database is.
    pub url: DatabaseUrl,
    /// How many connections there are at most. Postgres only: SQLite has one writer and a few readers.
    pub max_connections: Bounded<1, 1000>,
    /// How long to wait for a free or a new connection. A database that is back within this time is waited for.
    pub acquire_timeout_secs: Bounded<1, 300>,
    /// How long one operation may take in all: the wait for a connection and for locks, and its statements.
    pub timeout_secs: Bounded<1, 300>,
    /// Whether `serve` brings the tables up to date before it listens.
    pub migrate_on_start: Switch,
}
