//! The errors of the store. Callers decide by the class of an error whether to retry.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The location of a database, as messages show it: host and port, or a file path. Never a password.
pub type DatabaseLabel = Arc<str>;

/// The error of a failed operation. Nothing was written, unless the connection broke or the deadline ended during the commit.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database reported an error, or could not be reached.
    #[error("database {database}: {action} failed")]
    Database {
        /// The database.
        database: DatabaseLabel,
        /// The action, as a gerund phrase.
        action: &'static str,
        /// The transactions that the error affects.
        class: ErrorClass,
        /// The database's own error.
        #[source]
        source: sqlx::Error,
    },
    /// The operation took longer than its deadline.
    #[error("database {database}: {action} took longer than {} s (database.timeout_secs)", deadline.as_secs())]
    OperationTimeout {
        /// The database.
        database: DatabaseLabel,
        /// The action, as a gerund phrase.
        action: &'static str,
        /// The deadline.
        deadline: Duration,
    },
    /// The migrations took longer than their deadline.
    #[error("database {database}: the migrations took longer than {} s, including the wait for other processes", deadline.as_secs())]
    MigrationTimeout {
        /// The database.
        database: DatabaseLabel,
        /// The deadline.
        deadline: Duration,
    },
    /// A row has a value that its column does not allow.
    #[error("{table}.{column} of row {id} cannot be decoded: the value {reason}")]
    Undecodable {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's primary key.
        id: String,
        /// The rule that the value breaks, as a predicate.
        reason: String,
    },
    /// A statement changed fewer rows than it was given.
    #[error(
        "the database wrote fewer rows of {table} than it was given; check the table's triggers and row-level security policies"
    )]
    RowsSuppressed {
        /// The table.
        table: &'static str,
    },
    /// The database is read-only.
    #[error(
        "database {database} is read-only; if it is a standby, set database.url to the primary"
    )]
    ReadOnly {
        /// The database.
        database: DatabaseLabel,
    },
    /// A connection pooler shares server sessions between transactions, against the configuration.
    #[error(
        "the connection pooler of database {database} shares server sessions between transactions; set database.pooler to transaction or auto"
    )]
    SessionsAreShared {
        /// The database.
        database: DatabaseLabel,
    },
    /// A connection pooler gives its clients a session for each statement only.
    #[error(
        "the connection pooler of database {database} is in statement mode, which allows no transactions; set its pool mode to transaction or session"
    )]
    StatementPooling {
        /// The database.
        database: DatabaseLabel,
    },
    /// The user can use no schema of the search path.
    #[error(
        "user {user} of database {database} can use no schema of its search path ({search_path}); run CREATE SCHEMA, or GRANT USAGE, CREATE ON SCHEMA … TO {user}"
    )]
    NoSchema {
        /// The database.
        database: DatabaseLabel,
        /// The user.
        user: String,
        /// The search path.
        search_path: String,
    },
    /// The user of the database lacks a privilege.
    #[error(
        "user {user} of database {database} lacks a privilege; run GRANT {privilege} TO {user}"
    )]
    MissingPrivilege {
        /// The database.
        database: DatabaseLabel,
        /// The user.
        user: String,
        /// The privilege and its table or sequence, as in a GRANT statement.
        privilege: String,
    },
    /// A table exists that the migrations cannot adopt.
    #[error(
        "database {database}: the table {table} exists already and cannot be adopted, because {obstacle}; rename it, or set database.url to another database"
    )]
    NotAdoptable {
        /// The database.
        database: DatabaseLabel,
        /// The table.
        table: &'static str,
        /// The reason, as a clause.
        obstacle: String,
    },
    /// A migration failed, or the applied migrations differ from this release's.
    #[error("the migrations failed")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The folder of the SQLite file could not be created.
    #[error("cannot create the database folder {} (database.url); {advice}", folder.display())]
    CreateFolder {
        /// The folder.
        folder: PathBuf,
        /// The reason, and what to do.
        advice: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The SQLite file could not be opened, read or written.
    #[error("database {database}: {action} failed; {advice}")]
    FileUnusable {
        /// The file.
        database: DatabaseLabel,
        /// The action, as a gerund phrase.
        action: &'static str,
        /// The reason, and what to do.
        advice: String,
        /// The database's own error.
        #[source]
        source: sqlx::Error,
    },
    /// The SQLite file, or a file that SQLite keeps beside it, is mounted without its folder.
    #[error(
        "{} is mounted without its folder; mount the whole folder, because SQLite keeps the last writes in other files there (database.url)",
        file.display()
    )]
    FileMountedAlone {
        /// The file.
        file: PathBuf,
    },
    /// SQLite did not switch the file to WAL mode.
    #[error(
        "SQLite keeps the journal mode {mode} instead of WAL; move the database to a local disk that supports file locks and shared memory (database.url)"
    )]
    WalRefused {
        /// The journal mode.
        mode: String,
    },
    /// The SQLite file was moved, deleted or replaced while it was open.
    #[error(
        "the file {database} was moved, deleted or replaced while it was open; put it back, or restart the service to open or create the file at this path"
    )]
    FileReplaced {
        /// The file.
        database: DatabaseLabel,
    },
    /// A file that SQLite keeps beside the database was deleted while it was open.
    #[error(
        "the file {} was deleted while it was open; the service copies its pages and opens the database again",
        file.display()
    )]
    WalDeleted {
        /// The write-ahead log or its index.
        file: PathBuf,
    },
    /// A file that SQLite keeps beside the database was deleted or replaced while it was being opened.
    #[error(
        "the file {} was deleted or replaced by another program while it was being opened; find out which program does that",
        file.display()
    )]
    DeletedAtOpening {
        /// The write-ahead log or its index.
        file: PathBuf,
    },
    /// The database is closed, because a file that SQLite keeps beside it was deleted. It is being opened again.
    #[error(
        "database {database} is being opened again after a file beside it was deleted; the log says what it waits for"
    )]
    Reopening {
        /// The database file.
        database: DatabaseLabel,
    },
    /// Another program has written to another file of this name while the service had its own open.
    #[error(
        "the file {} was replaced by another program while it was open; restart the service, which saves its own pages in a file",
        file.display()
    )]
    WalReplaced {
        /// The write-ahead log or its index.
        file: PathBuf,
    },
    /// The text encoding of the SQLite file is not UTF-8.
    #[error(
        "the file {database} stores text as {encoding} (PRAGMA encoding), but this service needs UTF-8; set database.url to another file"
    )]
    UnsupportedEncoding {
        /// The file.
        database: DatabaseLabel,
        /// The encoding, as SQLite names it.
        encoding: &'static str,
    },
    /// The queue of notifications is full.
    #[error("the queue of notifications is full (database.queue_limit)")]
    QueueFull,
    /// A notification waited too long in the queue.
    #[error("a notification waited in the queue for more than {} s (database.timeout_secs)", max_wait.as_secs())]
    QueueTimeout {
        /// The longest wait.
        max_wait: Duration,
    },
    /// The service is shutting down, and accepts no more notifications.
    #[error("the service is shutting down")]
    Stopped,
    /// A bug in the service: recording panicked. The panic message is in the log.
    #[error("recording notifications panicked; the panic message is in the log")]
    Panicked,
    /// The error of a batch, shared by all of its calls.
    #[error(transparent)]
    Shared(Arc<Self>),
}

/// The transactions that an error affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Every transaction: the database is unreachable, full, read-only or does not answer.
    Systemic,
    /// This transaction only, for a short time: a lock, a deadlock, a conflict or a cancelled statement.
    Transient,
    /// This transaction only, because of its rows: a value, a constraint or a trigger.
    Statement,
}

impl ErrorClass {
    /// Returns the class of an error. `classify` classifies the errors that the database itself reports.
    pub(super) fn of(
        error: &sqlx::Error,
        classify: impl FnOnce(&(dyn sqlx::error::DatabaseError + 'static)) -> Self,
    ) -> Self {
        match error {
            sqlx::Error::Database(error) => classify(&**error),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            // A server or a proxy that stops can break off its answer.
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Systemic,
            _ => Self::Statement,
        }
    }
}

impl StoreError {
    /// Returns whether the queue is full. The same call may succeed a second later.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        matches!(self, Self::QueueFull)
    }

    /// Returns whether the operation took too long. A retry with the same number of rows would probably take as long.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::OperationTimeout { .. })
    }

    /// Returns whether a retry may succeed soon, for example after an app releases a row's lock.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.class() == ErrorClass::Transient
    }

    /// Returns whether a trigger or a policy of the database kept rows from being written.
    #[must_use]
    pub fn is_suppression(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_suppression(),
            error => matches!(error, Self::RowsSuppressed { .. }),
        }
    }

    /// Returns whether the session was read-only, as on a standby.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        /// The code `read_only_sql_transaction`.
        const READ_ONLY: &str = "25006";
        match self {
            Self::ReadOnly { .. } => true,
            Self::Database { source, .. } => {
                let code = source
                    .as_database_error()
                    .and_then(sqlx::error::DatabaseError::code);
                code.as_deref() == Some(READ_ONLY)
            }
            Self::Shared(error) => error.is_read_only(),
            _ => false,
        }
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
            | Self::MigrationTimeout { .. }
            | Self::ReadOnly { .. }
            | Self::MissingPrivilege { .. }
            | Self::SessionsAreShared { .. }
            | Self::StatementPooling { .. }
            | Self::NoSchema { .. }
            | Self::FileUnusable { .. }
            | Self::FileMountedAlone { .. }
            | Self::WalRefused { .. }
            | Self::FileReplaced { .. }
            | Self::WalDeleted { .. }
            | Self::Reopening { .. }
            | Self::DeletedAtOpening { .. }
            | Self::WalReplaced { .. }
            | Self::UnsupportedEncoding { .. }
            | Self::NotAdoptable { .. }
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
            sqlx::Error::Protocol("unexpected response from SSLRequest: 0x00".to_owned()),
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::WorkerCrashed,
        ] {
            assert_eq!(class(error), ErrorClass::Systemic);
        }
        assert_eq!(class(sqlx::Error::RowNotFound), ErrorClass::Statement);
    }
}
