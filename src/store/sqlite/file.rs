//! Checks of the database file and its write-ahead log: their identities and the text encoding.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::error::{DatabaseLabel, StoreError};

/// The identities of the opened files: the database file, its write-ahead log (WAL) and the index of the WAL.
///
/// A file stays open after it was moved or deleted. Programs that open its path would not find later writes, and SQLite itself
/// would not find them at the next start.
pub(super) struct OpenedFile {
    path: PathBuf,
    file_id: FileId,
    /// Beside the file that a symbolic link leads to, as SQLite does it.
    wal_path: PathBuf,
    /// SQLite keeps the file, even if the WAL restarts, until the last connection closes.
    wal_id: FileId,
    /// The index of the WAL, with its locks. Every process that uses the database shares it.
    shm_path: PathBuf,
    shm_id: FileId,
}

/// A device and an inode.
type FileId = (u64, u64);

impl OpenedFile {
    /// Returns the identities of the files that are at this path now. Fails if one is missing.
    pub(super) fn at(path: &Path) -> std::io::Result<Self> {
        let file = path.canonicalize()?;
        let (wal_path, shm_path) = (with_suffix(&file, "-wal"), with_suffix(&file, "-shm"));
        Ok(Self {
            path: path.to_owned(),
            file_id: id(&path.metadata()?),
            wal_id: id(&wal_path.metadata()?),
            wal_path,
            shm_id: id(&shm_path.metadata()?),
            shm_path,
        })
    }

    /// Fails if a path has no file or another file. Takes some microseconds for three `stat` calls.
    pub(super) fn check(&self, database: &DatabaseLabel) -> Result<(), StoreError> {
        if device_and_inode(&self.path) != Some(self.file_id) {
            let database = database.clone();
            return Err(StoreError::FileReplaced { database });
        }
        for (path, opened) in [(&self.wal_path, self.wal_id), (&self.shm_path, self.shm_id)] {
            match path.metadata() {
                Ok(metadata) if id(&metadata) == opened => {}
                // Another process has created a file, and has written to it.
                Ok(metadata) if metadata.len() > 0 => {
                    let file = path.clone();
                    return Err(StoreError::WalReplaced { file });
                }
                Ok(_) | Err(_) => {
                    let file = path.clone();
                    return Err(StoreError::WalDeleted { file });
                }
            }
        }
        Ok(())
    }

    /// Returns whether all paths still have the opened files.
    pub(super) fn is_present(&self) -> bool {
        device_and_inode(&self.path) == Some(self.file_id)
            && device_and_inode(&self.wal_path) == Some(self.wal_id)
            && device_and_inode(&self.shm_path) == Some(self.shm_id)
    }

    /// Returns whether a process still has the WAL or its index open: this one, or another one that keeps the index.
    pub(super) fn is_in_use(&self) -> bool {
        device_and_inode(&self.shm_path) == Some(self.shm_id) || self.is_open_here()
    }

    /// Returns whether this process still has the WAL open. Only Linux lists the open files of a process. Elsewhere, the index tells
    /// it.
    fn is_open_here(&self) -> bool {
        let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else {
            return false;
        };
        let mut files =
            descriptors.filter_map(|descriptor| device_and_inode(&descriptor.ok()?.path()));
        files.any(|file| file == self.wal_id)
    }
}

/// Returns the path of a file that SQLite keeps beside the database, such as `images.db-wal`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
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
    Some(id(&path.metadata().ok()?))
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}
