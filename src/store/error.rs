//! How the store fails, and what that means for whoever asked.

use std::sync::Arc;
use std::time::Duration;

use super::{Place, postgres, sqlite};

/// Why the store did not do what it was asked to. Nothing was changed, unless the commit's own answer was lost.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused, or could not be reached.
    #[error("the database at {place} failed at {action}")]
    Database {
        /// Where it is: a host and a port, or a file.
        place: Place,
        /// What was being done.
        action: &'static str,
        /// The database's own words.
        #[source]
        source: sqlx::Error,
    },
    /// It took longer than the deadline, and was given up.
    #[error("the database at {place} did not manage {action} within {} s (database.timeout_secs)", deadline.as_secs())]
    TookTooLong {
        /// Where it is: a host and a port, or a file.
        place: Place,
        /// What was being done.
        action: &'static str,
        /// The time it had.
        deadline: Duration,
    },
    /// A row holds something that its column's meaning does not allow.
    #[error("{table}.{column} of row {id} cannot be understood: it {reason}")]
    Undecodable {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's primary key.
        id: String,
        /// What the value ought to be.
        reason: String,
    },
    /// A statement came to fewer rows than it was about.
    #[error(
        "the database did not take every row of {table} that it was given: a trigger or a policy of that table keeps them back"
    )]
    KeptBack {
        /// The table.
        table: &'static str,
    },
    /// The database lets itself be read, and not be written.
    #[error("the database at {place} is read-only, as a standby is")]
    ReadOnly {
        /// Where it is.
        place: Place,
    },
    /// A migration failed, or the database was migrated by something that is not this program.
    #[error("the migrations could not be run")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The folder of the SQLite file could not be made.
    #[error("the folder {} for the database could not be made", folder.display())]
    Folder {
        /// The folder.
        folder: std::path::PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// SQLite's file is not the one that was opened.
    #[error(
        "the file {place} was moved, deleted or replaced after it was opened; put it back, or start anew"
    )]
    Moved {
        /// The file.
        place: Place,
    },
    /// SQLite's file is not written as ours is.
    #[error(
        "the file {place} keeps its text as {encoding} (PRAGMA encoding), and this service needs UTF-8: give it a file of its own (database.url)"
    )]
    Encoding {
        /// The file.
        place: Place,
        /// As SQLite names it.
        encoding: &'static str,
    },
    /// More webhooks wait for their commit than may.
    #[error("too many notifications wait to be recorded already (database.queue_limit)")]
    TooBusy,
    /// It waited for the transactions before its own until there was no sense in beginning it.
    #[error("a notification waited for more than {} s to be recorded (database.timeout_secs)", patience.as_secs())]
    WaitedTooLong {
        /// How long it may wait.
        patience: Duration,
    },
    /// The service is stopping, and records nothing more.
    #[error("the service is stopping")]
    Stopped,
    /// A fault of ours. The panic itself is in the log.
    #[error("recording notifications panicked")]
    Panicked,
    /// What befell a batch, and so everything in it.
    #[error(transparent)]
    Shared(Arc<Self>),
}

impl StoreError {
    /// Returns whether the service has more to do than it accepts. The same call may succeed a second later.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        matches!(self, Self::TooBusy)
    }

    /// Whether the same might succeed a little later, as when an app has locked a row.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Database {
                source: sqlx::Error::Database(error),
                ..
            } => postgres::is_passing(&**error),
            Self::Shared(error) => error.is_passing(),
            _ => false,
        }
    }

    /// Whether this would have befallen anything else at that moment too: the database is away, full, or does not answer.
    #[must_use]
    pub fn is_everybodys(&self) -> bool {
        match self {
            Self::Database { source, .. } => match source {
                sqlx::Error::Database(error) => {
                    postgres::is_everybodys(&**error) || sqlite::is_everybodys(&**error)
                }
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => true,
                _ => false,
            },
            Self::Undecodable { .. } | Self::KeptBack { .. } | Self::Panicked => false,
            Self::TookTooLong { .. }
            | Self::ReadOnly { .. }
            | Self::Moved { .. }
            | Self::Encoding { .. }
            | Self::Migration(_)
            | Self::Folder { .. }
            | Self::TooBusy
            | Self::WaitedTooLong { .. }
            | Self::Stopped => true,
            Self::Shared(error) => error.is_everybodys(),
        }
    }
}
