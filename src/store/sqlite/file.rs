//! Checks of the database file: its identity and its text encoding.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::error::{DatabaseLabel, StoreError};

/// The identity of the opened file: its device and inode.
///
/// A file stays open after it was moved or deleted. Programs that open its path would not find later writes.
pub(super) struct OpenedFile {
    path: PathBuf,
    file_id: Option<(u64, u64)>,
}

impl OpenedFile {
    /// Returns the identity of the file that is at this path now.
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file_id: device_and_inode(path),
        }
    }

    /// Fails if the path has no file or another file. Takes some microseconds for one `stat` call.
    pub(super) fn check(&self, database: &DatabaseLabel) -> Result<(), StoreError> {
        if device_and_inode(&self.path) == self.file_id {
            Ok(())
        } else {
            Err(StoreError::FileReplaced {
                database: database.clone(),
            })
        }
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

fn device_and_inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
