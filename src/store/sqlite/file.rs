//! The file that was opened, and whether it is still where it was.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::{Place, StoreError};

/// A file, known again by its place on the disk. One that is moved away or deleted stays open, and what is written to it is lost to
/// everybody who looks where it was.
pub(super) struct OpenedFile {
    path: PathBuf,
    id: Option<(u64, u64)>,
}

impl OpenedFile {
    /// The file that is there now.
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            id: id(path),
        }
    }

    /// Fails when it is not there any more, or another is. Costs a look into the folder, some microseconds.
    pub(super) fn check(&self, place: &Place) -> Result<(), StoreError> {
        if id(&self.path) == self.id {
            Ok(())
        } else {
            Err(StoreError::Moved {
                place: place.clone(),
            })
        }
    }
}

fn id(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
