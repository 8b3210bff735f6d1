//! The errors of the store, told apart by what their caller does about them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a database is, for people: a host and a port, or a file. Never a password.
pub type DatabaseLabel = Arc<str>;

/// Why an operation failed. Nothing was changed, unless only the answer to the commit was lost.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused a statement, or could not be reached.
    #[error("the database at {database} failed at {action}")]
    Database {
        /// Where it is.
        database: DatabaseLabel,
        /// What was being done.
        action: &'static str,
        /// Whom the error affects, as the backend classified it.
        class: ErrorClass,
        /// The database's own error.
        #[source]
        source: sqlx::Error,
    },
    /// The operation took longer than its deadline.
    #[error("the database at {database} did not manage {action} within {} s (database.timeout_secs)", deadline.as_secs())]
    OperationTimeout {
        /// Where it is.
        database: DatabaseLabel,
        /// What was being done.
        action: &'static str,
        /// The deadline.
        deadline: Duration,
    },
    /// A row holds a value that its column's meaning does not allow.
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
    /// A statement changed fewer rows than it was given.
    #[error(
        "the database did not take every row of {table} that it was given: a trigger or a policy of that table keeps them back"
    )]
    RowsSuppressed {
        /// The table.
        table: &'static str,
    },
    /// The database can be read, but not written.
    #[error("the database at {database} is read-only, as a standby is")]
    ReadOnly {
        /// Where it is.
        database: DatabaseLabel,
    },
    /// A migration failed, or another program has migrated the database.
    #[error("the migrations could not be run")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The folder of the SQLite file could not be made.
    #[error("the folder {} for the database could not be made", folder.display())]
    CreateFolder {
        /// The folder.
        folder: PathBuf,
        /// The system's own error.
        #[source]
        source: std::io::Error,
    },
    /// The SQLite file is not the one that was opened.
    #[error(
        "the file {database} was moved, deleted or replaced after it was opened; put it back, or start anew"
    )]
    FileReplaced {
        /// The file.
        database: DatabaseLabel,
    },
    /// The SQLite file does not keep its text in UTF-8.
    #[error(
        "the file {database} keeps its text as {encoding} (PRAGMA encoding), and this service needs UTF-8: give it a file of its own (database.url)"
    )]
    UnsupportedEncoding {
        /// The file.
        database: DatabaseLabel,
        /// The encoding, as SQLite names it.
        encoding: &'static str,
    },
    /// The queue of notifications is full.
    #[error("too many notifications wait to be recorded already (database.queue_limit)")]
    QueueFull,
    /// A notification waited in the queue for longer than its limit.
    #[error("a notification waited for more than {} s to be recorded (database.timeout_secs)", max_wait.as_secs())]
    QueueTimeout {
        /// The limit.
        max_wait: Duration,
    },
    /// The service is stopping, and records nothing more.
    #[error("the service is stopping")]
    Stopped,
    /// A bug in the service. The panic itself is in the log.
    #[error("recording notifications panicked")]
    Panicked,
    /// The error of a batch, and so of each call in it.
    #[error(transparent)]
    Shared(Arc<Self>),
}

/// Whom an error of a database affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Every transaction: the database is away, full, read-only, or does not answer.
    Systemic,
    /// This transaction only, and not for long: a lock, a deadlock, a conflict, a cancelled statement.
    Transient,
    /// This transaction only: a row or a value, a constraint, a trigger.
    Statement,
}

impl ErrorClass {
    /// Classifies the errors that both databases share. `of_database` classifies what the database itself reports.
    pub(super) fn of(
        error: &sqlx::Error,
        of_database: impl FnOnce(&(dyn sqlx::error::DatabaseError + 'static)) -> Self,
    ) -> Self {
        match error {
            sqlx::Error::Database(error) => of_database(&**error),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Systemic,
            _ => Self::Statement,
        }
    }
}

impl StoreError {
    /// Returns whether the service has more to do than it accepts. The same call may succeed a second later.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        matches!(self, Self::QueueFull)
    }

    /// Returns whether an operation of the same size would take as long again.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::OperationTimeout { .. })
    }

    /// Returns whether the same operation may succeed a little later, as when an app holds a row's lock.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.class() == ErrorClass::Transient
    }

    /// Returns whether the error affects every transaction, not just this one.
    #[must_use]
    pub fn is_systemic(&self) -> bool {
        self.class() == ErrorClass::Systemic
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Database { class, .. } => *class,
            Self::Undecodable { .. } | Self::RowsSuppressed { .. } | Self::Panicked => {
                ErrorClass::Statement
            }
            Self::OperationTimeout { .. }
            | Self::ReadOnly { .. }
            | Self::FileReplaced { .. }
            | Self::UnsupportedEncoding { .. }
            | Self::Migration(_)
            | Self::CreateFolder { .. }
            | Self::QueueFull
            | Self::QueueTimeout { .. }
            | Self::Stopped => ErrorClass::Systemic,
            Self::Shared(error) => error.class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_errors_are_systemic() {
        let class = |error| ErrorClass::of(&error, |_| ErrorClass::Transient);
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);

        for error in [
            sqlx::Error::Io(reset),
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::WorkerCrashed,
        ] {
            assert_eq!(class(error), ErrorClass::Systemic);
        }
        assert_eq!(class(sqlx::Error::RowNotFound), ErrorClass::Statement);
    }
}
