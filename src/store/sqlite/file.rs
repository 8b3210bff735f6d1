//! Checks of the database file and its write-ahead log: their identities and the text encoding.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::error::{DatabaseLabel, StoreError};
use crate::store::session::OperationError;

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
    /// Returns the identities of the files that are at this path now. Fails if this process has others open, because they were
    /// deleted or replaced since.
    pub(super) fn at(path: &Path) -> Result<Self, OperationError> {
        let file = path.canonicalize().map_err(sqlx::Error::Io)?;
        let [wal, shm] = ["-wal", "-shm"].map(|suffix| with_suffix(&file, suffix));
        Ok(Self {
            path: path.to_owned(),
            file_id: id(&path.metadata().map_err(sqlx::Error::Io)?),
            wal_id: opened_id(&wal)?,
            wal_path: wal,
            shm_id: opened_id(&shm)?,
            shm_path: shm,
        })
    }

    /// Fails if a path has no file or another file. Takes some microseconds for three `stat` calls.
    pub(super) fn check(&self, database: &DatabaseLabel) -> Result<(), StoreError> {
        if device_and_inode(&self.path) != Some(self.file_id) {
            let database = database.clone();
            return Err(StoreError::FileReplaced { database });
        }
        for (path, opened) in self.files_beside() {
            let file = || path.to_owned();
            match path.metadata() {
                Ok(metadata) if id(&metadata) == opened => {}
                Ok(metadata) if is_written(&metadata) => {
                    return Err(StoreError::WalReplaced { file: file() });
                }
                Ok(_) | Err(_) => return Err(StoreError::WalDeleted { file: file() }),
            }
        }
        Ok(())
    }

    /// The paths and the identities of the WAL and its index.
    fn files_beside(&self) -> [(&Path, FileId); 2] {
        [(&self.wal_path, self.wal_id), (&self.shm_path, self.shm_id)]
    }

    /// Returns whether all paths still have the opened files.
    pub(super) fn is_present(&self) -> bool {
        device_and_inode(&self.path) == Some(self.file_id)
            && device_and_inode(&self.wal_path) == Some(self.wal_id)
            && device_and_inode(&self.shm_path) == Some(self.shm_id)
    }

    /// Returns whether another program has written to another WAL or index at its path.
    pub(super) fn is_wal_replaced(&self) -> bool {
        let mut files = self.files_beside().into_iter();
        files.any(|(path, opened)| {
            let metadata = path.metadata();
            metadata.is_ok_and(|metadata| id(&metadata) != opened && is_written(&metadata))
        })
    }

    pub(super) fn wal_path(&self) -> &Path {
        &self.wal_path
    }

    /// Copies the opened WAL, which may have no path any more, to this path. Fails where the system does not list the open files of
    /// a process: only Linux does.
    pub(super) fn copy_wal(&self, to: &Path) -> io::Result<()> {
        let is_wal = |path: &PathBuf| device_and_inode(path) == Some(self.wal_id);
        let wal = descriptors()?.find(is_wal).ok_or(io::ErrorKind::NotFound)?;
        std::fs::copy(wal, to)?;
        File::open(to)?.sync_all()
    }

    /// Returns whether a process still has the WAL or its index open: this one, or another one that keeps the index.
    pub(super) fn is_in_use(&self) -> bool {
        device_and_inode(&self.shm_path) == Some(self.shm_id) || self.is_open_here()
    }

    /// Returns whether this process still has the WAL open. Only Linux lists the open files of a process. On other systems,
    /// the answer is always no, and the index decides.
    fn is_open_here(&self) -> bool {
        is_open_here(self.wal_id).unwrap_or(false)
    }
}

/// Returns the identity of a file that SQLite has opened at this path. Fails if the path has no file any more, or another one.
fn opened_id(path: &Path) -> Result<FileId, StoreError> {
    let opened = device_and_inode(path).filter(|id| is_open_here(*id).unwrap_or(true));
    opened.ok_or_else(|| StoreError::DeletedAtOpening {
        file: path.to_owned(),
    })
}

/// Returns whether this process has a file open. Fails where the system does not list the open files.
fn is_open_here(file: FileId) -> io::Result<bool> {
    let mut paths = descriptors()?;
    Ok(paths.any(|path| device_and_inode(&path) == Some(file)))
}

/// Returns the paths of this process's descriptors. A path leads to an open file, even if the file was deleted (proc(5)).
fn descriptors() -> io::Result<impl Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())))
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

/// Returns whether another process has written to a file that it created.
fn is_written(metadata: &Metadata) -> bool {
    metadata.len() > 0
}

fn device_and_inode(path: &Path) -> Option<FileId> {
    Some(id(&path.metadata().ok()?))
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}
