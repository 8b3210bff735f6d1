//! Checkpointer beside the writer: what is committed moves from the log ahead of the file (WAL) into the file, while the next
//! batches are written. The writer itself would stand still for as long as the disk takes.
//!
//! Only the writer can begin the log anew: it must have found all of it moved, and nobody else at it. So once the log is long, this
//! stands back until the writer has made a checkpoint of its own. Where the disk is too slow, that keeps the log from growing
//! without end, and the writer waits for the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::store::session::GuardedConnection;
use crate::telemetry::chain;

/// After so many notifications there is a checkpoint: some megabytes, which a disk takes in some milliseconds.
pub(super) const ROWS_PER_CHECKPOINT: usize = 2000;

/// From so many pages of 4 KiB on, the writer makes a checkpoint itself after each commit, until one has moved all of them and the
/// log begins anew. Most will have been moved beside it by then.
pub(super) const LONG_WAL_PAGES: i64 = 16_000;

/// The task that makes them. It ends with this.
pub(super) struct Checkpointer {
    due: Arc<Notify>,
    /// How many notifications were recorded since one was due.
    committed: AtomicUsize,
    task: TaskTracker,
    stop: DropGuard,
}

impl Checkpointer {
    /// Makes them over one of these connections.
    pub(super) fn start(pool: SqlitePool) -> Self {
        let due = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let task = TaskTracker::new();
        task.spawn(run(pool, Arc::clone(&due), stop.clone()));
        task.close();
        Self {
            due,
            committed: AtomicUsize::new(0),
            task,
            stop: stop.drop_guard(),
        }
    }

    /// So many notifications more are committed.
    pub(super) fn count(&self, rows: usize) {
        let committed = rows + self.committed.fetch_add(rows, Ordering::Relaxed);
        if committed >= ROWS_PER_CHECKPOINT {
            self.committed.store(0, Ordering::Relaxed);
            self.due.notify_one();
        }
    }

    /// Ends the task, after the checkpoint that it is at.
    pub(super) async fn stop(&self) {
        self.stop.token().cancel();
        self.task.wait().await;
    }
}

async fn run(pool: SqlitePool, due: Arc<Notify>, stop: CancellationToken) {
    while stop.run_until_cancelled(due.notified()).await.is_some() {
        match checkpoint(&pool).await {
            Ok(pages) if pages >= LONG_WAL_PAGES => {
                // What came due meanwhile says nothing about a commit that is still to come.
                let _earlier_wakeup = due.notified().now_or_never();
                stop.run_until_cancelled(due.notified()).await;
            }
            Ok(_) => {}
            // Nothing is lost: the writer makes one itself when the log is long.
            Err(error) => {
                tracing::warn!(error = chain(&error), "a checkpoint of SQLite failed");
            }
        }
    }
}

/// Moves what can be moved without waiting for anybody (PASSIVE). How many pages the log has.
async fn checkpoint(pool: &SqlitePool) -> Result<i64, sqlx::Error> {
    let mut guard = GuardedConnection::<Sqlite>::acquire(pool).await?;
    let (_busy, pages, _moved): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
        .fetch_one(&mut *guard.connection)
        .await?;
    guard.release();
    Ok(pages)
}
