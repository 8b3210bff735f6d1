//! The copy of a write-ahead log (WAL) that the service saves at its stop, if its pages cannot be copied into the database file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::file::{OpenedFile, with_suffix};
use crate::telemetry::chain;

/// The reason to save a WAL beside the WAL of another program.
pub(super) const WAL_REPLACED: &str = "another program replaced the write-ahead log";

/// The time between attempts to save the WAL.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The maximum number of attempts. They take 5 s of the default `shutdown.deadline_secs`.
const MAX_ATTEMPTS: u32 = 10;

/// Saves the WAL in a file beside the database, and logs its path and this reason. The open WAL is the only copy of its pages, so
/// the stop waits some seconds until the file can be written.
pub(super) async fn save(file: &OpenedFile, reason: &str) {
    let path = match path_beside(file.wal_path()) {
        Ok(path) => path,
        Err(error) => return log_lost(file.wal_path(), &error),
    };
    for attempt in 1..=MAX_ATTEMPTS {
        let Err(error) = file.copy_wal(&path) else {
            tracing::error!(
                file = %path.display(),
                reason,
                "the service's last writes are not in the database; this file has them"
            );
            return;
        };
        if attempt == MAX_ATTEMPTS {
            return log_lost(&path, &error);
        }
        if attempt == 1 {
            tracing::error!(
                file = %path.display(),
                reason,
                error = chain(&error),
                "the write-ahead log cannot be saved in this file, retrying for some seconds; free space on its disk"
            );
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// An incomplete file stays, because SQLite can read the commits at its start.
fn log_lost(path: &Path, error: &io::Error) {
    tracing::error!(
        file = %path.display(),
        error = chain(error),
        "the write-ahead log was not saved in this file; the last webhooks may be missing, so compare the images with Cloudflare"
    );
}

fn path_beside(wal: &Path) -> io::Result<PathBuf> {
    let since_1970 = UNIX_EPOCH.elapsed().map_err(io::Error::other)?;
    let suffix = format!("-saved-{}", since_1970.as_secs());
    Ok(with_suffix(wal, &suffix))
}
