//! Files that settings refer to.

use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The size limit of a file. A larger file is probably a mistake, and a device file may be endless.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The character that editors on Windows write at the beginning of a file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a file, without its byte order mark. Fails if the file exceeds 1 MiB, is not UTF-8, or cannot be read.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_FILE_BYTES) {
        Ok(text
            .strip_prefix(BYTE_ORDER_MARK)
            .map(str::to_owned)
            .unwrap_or(text))
    } else {
        Err(Error::new(
            ErrorKind::FileTooLarge,
            format!("the file is larger than {MAX_FILE_BYTES} bytes"),
        ))
    }
}
