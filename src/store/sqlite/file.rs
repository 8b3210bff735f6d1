//! Checks of the database file and its write-ahead log: their identities and the text encoding.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::store::error::{DatabaseLabel, StoreError};

/// The identities of the opened files, the database file and its write-ahead log (WAL): their devices and inodes.
///
/// A file stays open after it was moved or deleted. Programs that open its path would not find later writes, and SQLite itself
/// would not find them at the next start.
pub(super) struct OpenedFile {
    path: PathBuf,
    file_id: Option<FileId>,
    wal_path: PathBuf,
    /// Set after the first commit, because SQLite creates the file late. SQLite keeps the file, even if the WAL restarts, until
    /// the last connection closes.
    wal_id: OnceLock<FileId>,
}

/// A device and an inode.
type FileId = (u64, u64);

impl OpenedFile {
    /// Returns the identity of the file that is at this path now.
    pub(super) fn at(path: &Path) -> Self {
        let mut wal_path = path.as_os_str().to_owned();
        wal_path.push("-wal");
        let wal_path = PathBuf::from(wal_path);
        Self {
            path: path.to_owned(),
            file_id: device_and_inode(path),
            wal_id: OnceLock::new(),
            wal_path,
        }
    }

    /// Fails if a path has no file or another file. Takes some microseconds for two `stat` calls.
    pub(super) fn check(&self, database: &DatabaseLabel) -> Result<(), StoreError> {
        let database = database.clone();
        if device_and_inode(&self.path) != self.file_id {
            return Err(StoreError::FileReplaced { database });
        }
        match self.wal_id.get() {
            Some(wal_id) if device_and_inode(&self.wal_path) != Some(*wal_id) => {
                Err(StoreError::WalReplaced { database })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Checks the files after a commit. Remembers the WAL of the first commit.
    pub(super) fn check_committed(&self, database: &DatabaseLabel) -> Result<(), StoreError> {
        if self.wal_id.get().is_none()
            && let Some(wal_id) = device_and_inode(&self.wal_path)
        {
            // Another task may have set the same identity.
            let _is_set = self.wal_id.set(wal_id);
        }
        self.check(database)
    }
}

/// Returns the text encoding of this file, if it is not UTF-8. Returns `None` for a missing file, which is created as UTF-8.
///
/// Reads only the file's header (SQLite documentation, "Database File Format", 1.3.13). Opening the database could change the
/// file.
pub(super) fn non_utf8_encoding(path: &Path) -> Option<&'static str> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut head = [0; 60];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    match head[56..] {
        _ if !head.starts_with(MAGIC) => None,
        [0, 0, 0, 2] => Some("UTF-16le"),
        [0, 0, 0, 3] => Some("UTF-16be"),
        _ => None,
    }
}

fn device_and_inode(path: &Path) -> Option<FileId> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
