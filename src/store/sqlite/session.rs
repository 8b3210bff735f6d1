//! The SQLite session: one writer, a few readers, and the methods `read`, `write` and `transaction`.

use std::path::Path;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteError, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Executor, SqliteConnection, SqlitePool};
use tokio::time::Instant;

use super::checkpoints::{Checkpointer, LONG_WAL_PAGES};
use super::file::{self, OpenedFile};
use crate::store::error::{DatabaseLabel, ErrorClass, StoreError};
use crate::store::inbox::record::RecordPolicy;
use crate::store::outbox::router::Wakeups;
use crate::store::session::{GuardedConnection, OperationError, OperationRunner, TransactionMode};
use crate::store::settings::Settings;

/// The maximum number of connections that read. Only commands, background tasks and health checks read. Readers see the last
/// commit and never wait for the writer.
const MAX_READERS: u32 = 4;

/// The size of each connection's page cache. A negative number means KiB.
const CACHE_KIB: &str = "-8192";

/// The size in bytes to which SQLite truncates the WAL file when the WAL restarts.
pub(super) const MAX_WAL_BYTES: i64 = LONG_WAL_PAGES * 4096;

/// The time between attempts to open a file that another process has locked.
pub(super) const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The statement that begins a transaction and takes the write lock. So rows that the transaction reads cannot change before its
/// commit.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
const BEGIN_WITHOUT_FSYNC: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE";

/// The statement that restores durable commits for the next use of the writer.
const RESTORE_FSYNC: &str = "PRAGMA synchronous = FULL";

/// A SQLite database.
pub(in crate::store) struct Sqlite {
    /// The only connection that writes. SQLite allows one writer at a time, and the pool's queue is fairer than SQLite's lock.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    checkpointer: Checkpointer,
    file: OpenedFile,
    pub(super) runner: OperationRunner,
    pub(super) policy: RecordPolicy,
}

impl Sqlite {
    /// Opens the file. Creates the file and its folder if they are missing.
    pub(in crate::store) async fn open(
        path: &Path,
        settings: &Settings,
        policy: RecordPolicy,
    ) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::CreateFolder {
                folder: folder.to_owned(),
                source,
            })?;
        }
        let database: DatabaseLabel = path.display().to_string().into();
        if let Some(encoding) = file::non_utf8_encoding(path) {
            return Err(StoreError::UnsupportedEncoding { database, encoding });
        }
        let runner = OperationRunner {
            database,
            deadline: settings.timeout_secs.seconds(),
            classify,
        };
        let acquire_timeout = settings.acquire_timeout_secs.seconds();
        // Another process may hold the write lock. The wait for it is shorter than the deadline, so the error says that the
        // database is locked.
        let lock_timeout = runner.deadline.mul_f64(0.9);
        let options = options(path, lock_timeout);

        let opening = open_writer(&options, acquire_timeout, lock_timeout);
        let writer = runner.run("opening the file", opening).await?;
        let readers =
            pool(MAX_READERS, acquire_timeout).connect_lazy_with(options.create_if_missing(false));
        Ok(Self {
            writer,
            checkpointer: Checkpointer::start(readers.clone()),
            readers,
            file: OpenedFile::at(path),
            runner,
            policy,
        })
    }

    /// Runs an operation that only reads.
    pub(super) async fn read<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, OperationError>,
    ) -> Result<T, StoreError> {
        let reading = async {
            let mut guard = GuardedConnection::acquire(&self.readers).await?;
            let value = work(&mut guard.connection).await?;
            guard.release();
            Ok(value)
        };
        self.runner.run(action, reading).await
    }

    /// Runs an operation without a transaction: each statement commits itself.
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, OperationError>,
    ) -> Result<T, StoreError> {
        let writing = async {
            let mut guard = self.acquire_writer().await?;
            let value = work(&mut guard.connection).await?;
            self.file.check_committed(&self.runner.database)?;
            guard.release();
            Ok(value)
        };
        self.runner.run(action, writing).await
    }

    /// Runs an operation in a transaction, commits, and wakes the workers.
    pub(super) async fn transaction<T>(
        &self,
        action: &'static str,
        mode: TransactionMode,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(T, Wakeups), OperationError>,
    ) -> Result<T, StoreError> {
        let begin = match mode {
            TransactionMode::Recording | TransactionMode::Durable => BEGIN,
            TransactionMode::WithoutFsync => BEGIN_WITHOUT_FSYNC,
        };
        let transaction = async {
            let mut guard = self.acquire_writer().await?;
            let mut tx = guard.connection.begin_with(begin).await?;
            let (value, wakeups) = work(&mut tx).await?;
            tx.commit().await?;
            // If the WAL was deleted before the commit, the commit is lost at the next start.
            self.file.check_committed(&self.runner.database)?;
            wakeups.notify();
            match mode {
                TransactionMode::Recording | TransactionMode::Durable => {}
                TransactionMode::WithoutFsync => {
                    guard.connection.execute(RESTORE_FSYNC).await?;
                }
            }
            guard.release();
            Ok(value)
        };
        self.runner.run(action, transaction).await
    }

    /// Reports committed notifications or settlements to the checkpoint task.
    pub(super) fn count_committed(&self, writes: usize) {
        self.checkpointer.count(writes);
    }

    /// Stops the checkpoint task, and closes every connection.
    pub(in crate::store) async fn close(&self) {
        self.checkpointer.stop().await;
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Waits for the writer. Fails if a file was moved or deleted, because programs that open its path would not find the write.
    async fn acquire_writer(&self) -> Result<GuardedConnection<sqlx::Sqlite>, OperationError> {
        self.file.check(&self.runner.database)?;
        Ok(GuardedConnection::acquire(&self.writer).await?)
    }
}

fn options(path: &Path, lock_timeout: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // In WAL mode, any level below FULL can lose the last commits in a power failure.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("cache_size", CACHE_KIB)
        // The undo data of a statement is stored in memory, not in a file.
        .pragma("temp_store", "MEMORY")
        .pragma("wal_autocheckpoint", LONG_WAL_PAGES.to_string())
        .pragma("journal_size_limit", MAX_WAL_BYTES.to_string())
        .busy_timeout(lock_timeout)
}

fn pool(connections: u32, acquire_timeout: Duration) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

/// Opens the writer. Retries while another process locks the file: to switch a file to WAL mode, SQLite needs the lock, and does
/// not wait for the lock.
async fn open_writer(
    options: &SqliteConnectOptions,
    acquire_timeout: Duration,
    lock_timeout: Duration,
) -> Result<SqlitePool, OperationError> {
    let give_up_at = Instant::now() + lock_timeout;
    loop {
        match pool(1, acquire_timeout).connect_with(options.clone()).await {
            Err(error) if is_busy(&error) && Instant::now() < give_up_at => {
                tokio::time::sleep(OPEN_RETRY_INTERVAL).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// The result code `SQLITE_BUSY`: another process has locked the file.
const BUSY: u32 = 5;

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if primary_code(&**error) == Some(BUSY))
}

/// Classifies an error by its code (SQLite documentation, "Result and Error Codes"). Any other code may concern a single row: a
/// constraint, an app's trigger, or a BLOB in a row that is converted to JSON.
fn classify(error: &(dyn DatabaseError + 'static)) -> ErrorClass {
    const SYSTEMIC: [u32; 9] = [
        BUSY, // another process has the lock
        6,    // LOCKED
        7,    // NOMEM
        8,    // READONLY
        10,   // IOERR
        13,   // FULL
        14,   // CANTOPEN
        15,   // PROTOCOL: a locking error
        26,   // NOTADB
    ];
    if primary_code(error).is_some_and(|code| SYSTEMIC.contains(&code)) {
        ErrorClass::Systemic
    } else {
        ErrorClass::Statement
    }
}

fn primary_code(error: &(dyn DatabaseError + 'static)) -> Option<u32> {
    let code = error.try_downcast_ref::<SqliteError>()?.code()?;
    // The lowest byte of an extended result code is its primary code.
    Some(code.parse::<u32>().ok()? & 0xff)
}
