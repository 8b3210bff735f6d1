//! The connections to the SQLite file: one writer and a few readers. If the write-ahead log (WAL) was deleted, they are all closed
//! and opened again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::checkpoints::{Checkpointer, LONG_WAL_PAGES};
use super::file::OpenedFile;
use super::result_code::is_busy;
use super::saved_wal::{self, WAL_REPLACED};
use super::wal_keeper::{COPY_WAL, OPEN_WAL, WalKeeper};
use crate::store::error::StoreError;
use crate::store::session::OperationError;
use crate::telemetry::chain;

/// The maximum number of connections that read. Only commands, background tasks and health checks read. Readers see the last
/// commit and never wait for the writer.
const MAX_READERS: u32 = 4;

/// The size of each connection's page cache. A negative number means KiB.
const CACHE_KIB: &str = "-8192";

/// The size in bytes to which SQLite truncates the WAL file when the WAL restarts.
pub(super) const MAX_WAL_BYTES: i64 = LONG_WAL_PAGES * 4096;

/// The time between attempts to open a file that another process has locked.
pub(super) const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The time between attempts of a step of the recovery.
const RECOVERY_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The attempts of a step of the recovery for each line in the log.
const ATTEMPTS_PER_LINE: u32 = 20;

/// Opens the connections.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) path: PathBuf,
    /// The longest wait for a connection of a pool.
    pub(super) acquire_timeout: Duration,
    /// The longest wait for the lock of another process.
    pub(super) lock_timeout: Duration,
}

/// Connections that were opened together.
pub(super) struct Connections {
    /// The only connection that writes. SQLite allows one writer at a time, and the pool's queue is fairer than SQLite's lock.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    pub(super) checkpointer: Checkpointer,
    wal_keeper: WalKeeper,
    pub(super) file: Arc<OpenedFile>,
}

/// The current connections. There are none while they are opened again.
pub(super) struct CurrentConnections {
    current: RwLock<Option<Arc<Connections>>>,
    opener: Opener,
    recovery: TaskTracker,
    stop: CancellationToken,
}

impl Opener {
    /// Opens the connections. Creates the file if it is missing.
    pub(super) async fn open(&self) -> Result<Connections, OperationError> {
        let options = options(&self.path, self.lock_timeout);
        let writer = self.open_writer(&options).await?;
        check_journal_mode(&writer).await?;
        sqlx::query(OPEN_WAL).execute(&writer).await?;
        let (file, wal_keeper) = match self.keep_wal_open(&options).await {
            Ok((file, wal_keeper)) => (Arc::new(file), wal_keeper),
            Err(error) => {
                // If the WAL was deleted, it may be the only copy of an earlier run's commits.
                let _copied = sqlx::query(COPY_WAL).execute(&writer).await;
                writer.close().await;
                return Err(error);
            }
        };
        let readers = pool(MAX_READERS, self.acquire_timeout)
            .connect_lazy_with(options.create_if_missing(false));
        Ok(Connections {
            writer,
            checkpointer: Checkpointer::start(readers.clone(), Arc::clone(&file)),
            readers,
            wal_keeper,
            file,
        })
    }

    /// Opens the keeper of the WAL. Fails if the WAL was deleted since the writer opened it: the keeper would have another one.
    async fn keep_wal_open(
        &self,
        options: &SqliteConnectOptions,
    ) -> Result<(OpenedFile, WalKeeper), OperationError> {
        let file = OpenedFile::at(&self.path)?;
        let opened = WalKeeper::open(options).await;
        // Before an error of the keeper: another WAL does not fit the writer's index, and SQLite takes the file for damaged.
        match file.check(&self.path.display().to_string().into()) {
            Ok(()) => Ok((file, opened?)),
            Err(error) => {
                if let Ok(wal_keeper) = opened {
                    wal_keeper.close().await;
                }
                Err(match error {
                    StoreError::WalDeleted { file } | StoreError::WalReplaced { file } => {
                        StoreError::DeletedAtOpening { file }.into()
                    }
                    error => error.into(),
                })
            }
        }
    }

    /// Opens the writer. Retries while another process locks the file: to switch a file to WAL mode, SQLite needs the lock, and
    /// does not wait for the lock.
    async fn open_writer(
        &self,
        options: &SqliteConnectOptions,
    ) -> Result<SqlitePool, OperationError> {
        let give_up_at = Instant::now() + self.lock_timeout;
        loop {
            let pool = pool(1, self.acquire_timeout);
            match pool.connect_with(options.clone()).await {
                Err(error) if is_busy(&error) && Instant::now() < give_up_at => {
                    tokio::time::sleep(OPEN_RETRY_INTERVAL).await;
                }
                opened => return Ok(opened?),
            }
        }
    }
}

impl Connections {
    /// Stops the checkpoint task, and closes every connection. Copies the pages of a deleted WAL before that, or saves the WAL.
    async fn close(&self) {
        self.close_pools().await;
        if !self.file.is_present()
            && let Err(reason) = self.wal_keeper.copy_deleted_wal().await
        {
            saved_wal::save(&self.file, &reason).await;
        }
        self.wal_keeper.close().await;
    }

    async fn close_pools(&self) {
        self.checkpointer.stop().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl CurrentConnections {
    pub(super) fn new(connections: Connections, opener: Opener) -> Arc<Self> {
        Arc::new(Self {
            current: RwLock::new(Some(Arc::new(connections))),
            opener,
            recovery: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Returns the connections. Returns `None` while they are opened again, and after they were closed.
    pub(super) fn get(&self) -> Option<Arc<Connections>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Opens the connections again in the background, if this error of a check says that their WAL was deleted.
    pub(super) fn recover(self: &Arc<Self>, broken: &Arc<Connections>, error: &StoreError) {
        if !matches!(error, StoreError::WalDeleted { .. }) || !self.take(broken) {
            return;
        }
        tracing::error!("the write-ahead log was deleted; opening the database again");
        let (current, broken) = (Arc::clone(self), Arc::clone(broken));
        self.recovery
            .spawn(async move { current.reopen(&broken).await });
    }

    /// Closes every connection.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        // From here on, `take` returns false. So no recovery begins.
        let current = self.lock().take();
        self.recovery.close();
        self.recovery.wait().await;
        let reopened = self.lock().take();
        for connections in current.into_iter().chain(reopened) {
            if connections.file.is_wal_replaced() {
                saved_wal::save(&connections.file, WAL_REPLACED).await;
                // SQLite would copy the pages over those of the other program, so the connections stay open until the process ends.
                std::mem::forget(connections);
            } else {
                connections.close().await;
            }
        }
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Option<Arc<Connections>>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes these connections, if they are the current ones.
    fn take(&self, connections: &Arc<Connections>) -> bool {
        self.lock()
            .take_if(|current| Arc::ptr_eq(current, connections))
            .is_some()
    }

    async fn reopen(&self, broken: &Connections) {
        broken.close_pools().await;
        // The deleted file is the only copy of its pages, so it stays open until they are copied.
        let mut attempts = Attempts::default();
        while let Err(reason) = broken.wal_keeper.copy_deleted_wal().await {
            if attempts.log_is_due() {
                tracing::error!(
                    file = %broken.file.wal_path().display(),
                    reason,
                    "the pages of the deleted write-ahead log are not copied yet, retrying; free disk space, or end other programs' transactions"
                );
            }
            if !self.wait_for_retry().await {
                saved_wal::save(&broken.file, &reason).await;
                break;
            }
        }
        broken.wal_keeper.close().await;
        // A new connection beside an old one would share the old one's index, which does not fit the new WAL. SQLite deletes the
        // index when the last program closes the database.
        let mut attempts = Attempts::default();
        while broken.file.is_in_use() {
            if attempts.log_is_due() {
                tracing::error!(
                    "another program has the database open since its write-ahead log was deleted; stop it"
                );
            }
            if !self.wait_for_retry().await {
                return;
            }
        }
        loop {
            match self.opener.open().await {
                Ok(opened) => {
                    *self.lock() = Some(Arc::new(opened));
                    tracing::info!("the database is open again");
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "the database could not be opened again, retrying"
                    );
                }
            }
            if !self.wait_for_retry().await {
                return;
            }
        }
    }

    /// Waits for the next attempt of a step. Returns false if the service stops.
    async fn wait_for_retry(&self) -> bool {
        let waiting = tokio::time::sleep(RECOVERY_RETRY_INTERVAL);
        self.stop.run_until_cancelled(waiting).await.is_some()
    }
}

/// The attempts of a step of the recovery.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Counts a failed attempt, and returns whether the log gets a line. The first attempts may be too early, because SQLite closes
    /// files in the background.
    fn log_is_due(&mut self) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0 % ATTEMPTS_PER_LINE == 2
    }
}

/// Fails if SQLite did not switch the file to WAL mode. It then reports no error, but keeps the previous mode.
pub(super) async fn check_journal_mode(writer: &SqlitePool) -> Result<(), OperationError> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(writer)
        .await?;
    if mode == "wal" {
        Ok(())
    } else {
        Err(StoreError::WalRefused { mode }.into())
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
