//! The `database` section of the configuration.

use serde::Deserialize;

use super::inbox::group_commit::GroupCommitLimits;
use super::url::DatabaseUrl;
use crate::config_types::{Bounded, Seconds, strict_bool};

/// Which database, and how much of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the database is.
    pub url: DatabaseUrl,
    /// How many connections there are at most. Postgres only: SQLite has one writer and a few readers.
    pub max_connections: Bounded<1, 1000>,
    /// How many transactions record webhooks at once. Postgres only.
    pub writers: Bounded<1, 64>,
    /// How many webhooks are recorded in one transaction at most.
    pub batch_limit: Bounded<1, 10_000>,
    /// How many webhooks may wait to be recorded, in all; each writer has its share.
    pub queue_limit: Bounded<1, 1_000_000>,
    /// How long to wait for a free or a new connection. A database that is back within this time is waited for.
    pub acquire_timeout_secs: Seconds<1, 300>,
    /// How long one operation may take in all: the wait for a connection and for locks, and its statements; and how long a
    /// webhook may wait for it to begin.
    pub timeout_secs: Seconds<1, 300>,
    /// Whether `serve` brings the tables up to date before it listens.
    #[serde(deserialize_with = "strict_bool")]
    pub migrate_on_start: bool,
}

impl Settings {
    /// How much is written at once.
    #[must_use]
    pub fn limits(&self) -> GroupCommitLimits {
        let writers = match self.url {
            // The second would only wait for the first.
            DatabaseUrl::Sqlite(_) => 1,
            DatabaseUrl::Postgres(_) => self.writers.count(),
        };
        GroupCommitLimits {
            writers,
            queue: self.queue_limit.count().div_ceil(writers),
            batch: self.batch_limit.count(),
            max_wait: self.timeout_secs.seconds(),
        }
    }
}
