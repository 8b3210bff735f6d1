//! Checkpoints beside the writer: what is committed moves from the log ahead of the file (WAL) into the file, while the next
//! batches are written. The writer itself would stand still for as long as the disk takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::SqlitePool;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::telemetry::chain;

/// After so many notifications there is a checkpoint: some megabytes, which a disk takes in some milliseconds.
pub(super) const NOTIFICATIONS: usize = 2000;

/// The task that makes them. It ends with this.
pub(super) struct Checkpoints {
    due: Arc<Notify>,
    /// How many notifications were recorded since one was due.
    recorded: AtomicUsize,
    task: TaskTracker,
    stop: DropGuard,
}

impl Checkpoints {
    /// Makes them over one of these connections.
    pub(super) fn start(pool: SqlitePool) -> Self {
        let due = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let task = TaskTracker::new();
        task.spawn(run(pool, Arc::clone(&due), stop.clone()));
        task.close();
        Self {
            due,
            recorded: AtomicUsize::new(0),
            task,
            stop: stop.drop_guard(),
        }
    }

    /// So many notifications more are committed.
    pub(super) fn count(&self, notifications: usize) {
        let recorded = notifications + self.recorded.fetch_add(notifications, Ordering::Relaxed);
        if recorded >= NOTIFICATIONS {
            self.recorded.store(0, Ordering::Relaxed);
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
        // PASSIVE waits for nobody, and nobody waits for it.
        let made = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&pool);
        if let Err(error) = made.await {
            // Nothing is lost: the writer makes one itself when there was none for long.
            tracing::warn!(error = chain(&error), "a checkpoint of SQLite failed");
        }
    }
}
