//! Files that settings name.

use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The largest file that is read. One that is larger is not what was meant: a device, say, has no end.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads a file of at most 1 MiB. Fails on what is larger, is no UTF-8, or cannot be read.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_FILE_BYTES) {
        Ok(text)
    } else {
        Err(Error::new(
            ErrorKind::FileTooLarge,
            format!("it has more than {MAX_FILE_BYTES} bytes"),
        ))
    }
}
