//! Background checkpoints. A task copies committed pages from the write-ahead log (WAL) into the database file, while the writer
//! writes the next batches. Otherwise the writer would wait for the disk during each checkpoint.
//!
//! Only the writer can restart the WAL, and only if all pages were copied and no reader or checkpoint uses the WAL. So when the
//! WAL is long, the task pauses and the writer runs checkpoints itself. On a slow disk the writer then waits, and the WAL stays
//! bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::file::OpenedFile;
use crate::store::session::GuardedConnection;
use crate::telemetry::chain;

/// The number of committed notifications and settlements between two checkpoints: some megabytes, which a disk writes in some
/// milliseconds.
pub(super) const WRITES_PER_CHECKPOINT: usize = 2000;

/// The number of WAL pages (of 4 KiB) from which the writer runs a checkpoint after each commit, until the WAL restarts. The task
/// has copied most of the pages by then.
pub(super) const LONG_WAL_PAGES: i64 = 16_000;

/// The handle of the checkpoint task. The task stops when the handle is dropped.
pub(super) struct Checkpointer {
    /// The request for a checkpoint.
    due: Arc<Notify>,
    /// The number of notifications and settlements committed since the last request for a checkpoint.
    committed: AtomicUsize,
    task: TaskTracker,
    stop: DropGuard,
}

impl Checkpointer {
    /// Starts the task. It uses a connection of this pool for each checkpoint. It runs none if the files were moved or deleted.
    pub(super) fn start(pool: SqlitePool, file: Arc<OpenedFile>) -> Self {
        let due = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let task = TaskTracker::new();
        task.spawn(run(pool, file, Arc::clone(&due), stop.clone()));
        task.close();
        Self {
            due,
            committed: AtomicUsize::new(0),
            task,
            stop: stop.drop_guard(),
        }
    }

    /// Adds committed notifications or settlements. Requests a checkpoint if there are enough.
    pub(super) fn count(&self, writes: usize) {
        let committed = writes + self.committed.fetch_add(writes, Ordering::Relaxed);
        if committed >= WRITES_PER_CHECKPOINT {
            self.committed.store(0, Ordering::Relaxed);
            self.due.notify_one();
        }
    }

    /// Stops the task, and waits until a running checkpoint is complete.
    pub(super) async fn stop(&self) {
        self.stop.token().cancel();
        self.task.wait().await;
    }
}

async fn run(pool: SqlitePool, file: Arc<OpenedFile>, due: Arc<Notify>, stop: CancellationToken) {
    while stop.run_until_cancelled(due.notified()).await.is_some() {
        match checkpoint(&pool, &file).await {
            Ok(pages) if pages >= LONG_WAL_PAGES => {
                // Discard an earlier request. The next one shows that the writer has committed since.
                let _earlier_request = due.notified().now_or_never();
                stop.run_until_cancelled(due.notified()).await;
            }
            Ok(_) => {}
            // No data is lost: the writer runs a checkpoint itself when the WAL is long.
            Err(error) => {
                tracing::warn!(error = chain(&error), "SQLite checkpoint failed");
            }
        }
    }
}

/// Copies pages into the file without waiting for readers or the writer (PASSIVE). Returns the number of pages in the WAL.
async fn checkpoint(pool: &SqlitePool, file: &OpenedFile) -> Result<i64, sqlx::Error> {
    let mut guard = GuardedConnection::<Sqlite>::acquire(pool).await?;
    // A connection that was opened after the WAL was deleted would copy pages of another WAL.
    if !file.is_present() {
        return Ok(0);
    }
    let (_busy, pages, _copied): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
        .fetch_one(&mut *guard.connection)
        .await?;
    guard.release();
    Ok(pages)
}
