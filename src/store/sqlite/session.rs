//! The SQLite session: the methods `read`, `write` and `transaction`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::{Connection, Executor, SqliteConnection};

use super::connections::{Connections, CurrentConnections, Opener};
use super::result_code::classify;
use super::{access, file, mounts};
use crate::store::error::{DatabaseLabel, StoreError};
use crate::store::inbox::record::RecordPolicy;
use crate::store::outbox::router::Wakeups;
use crate::store::session::{GuardedConnection, OperationError, OperationRunner, TransactionMode};
use crate::store::settings::Settings;

/// The statement that begins a transaction and takes the write lock. So rows that the transaction reads cannot change before its
/// commit.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
const BEGIN_WITHOUT_FSYNC: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE";

/// The statement that restores durable commits for the next use of the writer.
const RESTORE_FSYNC: &str = "PRAGMA synchronous = FULL";

/// A SQLite database.
pub(in crate::store) struct Sqlite {
    path: PathBuf,
    connections: Arc<CurrentConnections>,
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
        let database: DatabaseLabel = path.display().to_string().into();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::CreateFolder {
                folder: folder.to_owned(),
                advice: access::folder_advice(folder),
                source,
            })?;
        }
        if let Some(encoding) = file::non_utf8_encoding(path) {
            return Err(StoreError::UnsupportedEncoding { database, encoding });
        }
        if let Some(file) = mounts::mounted_alone(path) {
            return Err(StoreError::FileMountedAlone { file });
        }
        mounts::warn_of_network(path);
        let runner = OperationRunner {
            database,
            deadline: settings.timeout_secs.seconds(),
            classify,
        };
        let opener = Opener {
            path: path.to_owned(),
            acquire_timeout: settings.acquire_timeout_secs.seconds(),
            // Another process may hold the write lock. The wait for it is shorter than the deadline, so the error says that the
            // database is locked.
            lock_timeout: runner.deadline.mul_f64(0.9),
        };
        let opening = runner.run(access::OPENING, opener.open()).await;
        let connections = opening.map_err(|error| access::explain(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            connections: CurrentConnections::new(connections, opener),
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
            let connections = self.connections()?;
            let mut guard = GuardedConnection::acquire(&connections.readers).await?;
            self.check(&connections)?;
            let value = work(&mut guard.connection).await?;
            guard.release();
            Ok(value)
        };
        self.run(action, reading).await
    }

    /// Runs an operation without a transaction: each statement commits itself.
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, OperationError>,
    ) -> Result<T, StoreError> {
        let writing = async {
            let connections = self.connections()?;
            let mut guard = self.acquire_writer(&connections).await?;
            let value = work(&mut guard.connection).await?;
            self.check(&connections)?;
            guard.release();
            Ok(value)
        };
        self.run(action, writing).await
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
            let connections = self.connections()?;
            let mut guard = self.acquire_writer(&connections).await?;
            let mut tx = guard.connection.begin_with(begin).await?;
            let (value, wakeups) = work(&mut tx).await?;
            tx.commit().await?;
            // If the WAL was deleted before the commit, the commit may be lost at the next start.
            self.check(&connections)?;
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
        self.run(action, transaction).await
    }

    /// Returns the connections. Fails while they are opened again.
    pub(super) fn connections(&self) -> Result<Arc<Connections>, StoreError> {
        self.connections.get().ok_or_else(|| StoreError::Reopening {
            database: self.runner.database.clone(),
        })
    }

    /// Reports committed notifications or settlements to the checkpoint task.
    pub(super) fn count_committed(&self, writes: usize) {
        if let Some(connections) = self.connections.get() {
            connections.checkpointer.count(writes);
        }
    }

    /// Closes every connection.
    pub(in crate::store) async fn close(&self) {
        self.connections.close().await;
    }

    /// Runs an operation under the deadline. If the file could not be used, the error says why, and what to do.
    async fn run<T>(
        &self,
        action: &'static str,
        operation: impl Future<Output = Result<T, OperationError>>,
    ) -> Result<T, StoreError> {
        let result = self.runner.run(action, operation).await;
        result.map_err(|error| access::explain(&self.path, error))
    }

    /// Waits for the writer. Fails if a file was moved or deleted, because programs that open its path would not find the write.
    async fn acquire_writer(
        &self,
        connections: &Arc<Connections>,
    ) -> Result<GuardedConnection<sqlx::Sqlite>, OperationError> {
        // The pool creates a missing file, if it has no connection.
        self.check(connections)?;
        let guard = GuardedConnection::acquire(&connections.writer).await?;
        // A connection that was opened after the WAL was deleted has another WAL. It would write where the old one continues.
        self.check(connections)?;
        Ok(guard)
    }

    fn check(&self, connections: &Arc<Connections>) -> Result<(), StoreError> {
        let checked = connections.file.check(&self.runner.database);
        checked.inspect_err(|error| self.connections.recover(connections, error))
    }
}
