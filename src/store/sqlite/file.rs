//! The file that was opened, and whether it is still where it was.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::error::{DatabaseLabel, StoreError};

/// A file, known again by its place on the disk. One that is moved away or deleted stays open, and what is written to it is lost to
/// everybody who looks where it was.
pub(super) struct OpenedFile {
    path: PathBuf,
    file_id: Option<(u64, u64)>,
}

impl OpenedFile {
    /// The file that is there now.
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file_id: device_and_inode(path),
        }
    }

    /// Fails when it is not there any more, or another is. Costs a look into the folder, some microseconds.
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

/// How this file keeps its text, if it is not UTF-8: as the file's head says (SQLite's documentation, "Database File Format", 1.3.13). Nothing
/// is changed by looking, as it would be by opening a database. One that is yet to be made keeps it as we do.
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
