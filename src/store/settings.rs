//! The `database` section of the configuration.

use serde::Deserialize;

use super::inbox::group_commit::GroupCommitLimits;
use super::url::DatabaseUrl;
use crate::config_types::{Bounded, InvalidSetting, Seconds, parse_word, strict_bool};

/// The database, and the limits on its use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The URL of the database.
    pub url: DatabaseUrl,
    /// The connection pooler in front of Postgres.
    pub pooler: Pooler,
    /// The maximum number of connections in the pool. Postgres only: SQLite has one writer and a few readers.
    pub max_connections: Bounded<1, 1000>,
    /// The number of transactions that record webhooks at the same time. Postgres only.
    pub writers: Bounded<1, 64>,
    /// The maximum number of webhooks in one transaction.
    pub batch_limit: Bounded<1, 10_000>,
    /// The maximum number of webhooks that wait to be recorded. The writers share it equally.
    pub queue_limit: Bounded<1, 1_000_000>,
    /// The longest wait for a free or new connection, in seconds. A shorter outage only delays operations.
    pub acquire_timeout_secs: Seconds<1, 300>,
    /// The longest time of one operation: the waits for a connection and for locks, and its statements. Also the longest time
    /// that a webhook waits in the queue. In seconds.
    pub timeout_secs: Seconds<1, 300>,
    /// True to make `serve` run the migrations before it listens.
    #[serde(deserialize_with = "strict_bool")]
    pub migrate_on_start: bool,
}

/// A connection pooler, by the time for which it gives a server session to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Pooler {
    /// Detected at the first use of the database.
    Auto,
    /// There is no pooler.
    None,
    /// Until the client closes its connection.
    Session,
    /// Until the end of a transaction.
    Transaction,
}

impl TryFrom<String> for Pooler {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        let words = [
            ("auto", Self::Auto),
            ("none", Self::None),
            ("session", Self::Session),
            ("transaction", Self::Transaction),
        ];
        parse_word(&word, &words)
    }
}

impl Settings {
    /// Checks the file of SQLite, or the files that a Postgres URL names.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        match &self.url {
            DatabaseUrl::Sqlite(url) => url.check_file(),
            DatabaseUrl::Postgres(url) => url.check_files(),
        }
    }

    /// Returns the limits of the group commit.
    #[must_use]
    pub fn limits(&self) -> GroupCommitLimits {
        let writers = match self.url {
            // SQLite has one writer at a time. A second writer would only wait for the first.
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
