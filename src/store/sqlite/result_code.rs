//! The result codes of SQLite (SQLite documentation, "Result and Error Codes").

use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

use crate::store::error::ErrorClass;

/// The access permission was denied.
pub(super) const PERM: u32 = 3;
/// Another process has locked the file.
pub(super) const BUSY: u32 = 5;
/// The file cannot be written.
pub(super) const READONLY: u32 = 8;
/// The operating system reported an error.
const IOERR: u32 = 10;
/// The content of the file is damaged.
const CORRUPT: u32 = 11;
/// The file, its write-ahead log or its shared memory could not be opened.
pub(super) const CANTOPEN: u32 = 14;
/// The locks of the file do not work as they must.
pub(super) const PROTOCOL: u32 = 15;
/// The file is no SQLite database.
pub(super) const NOTADB: u32 = 26;

/// The extended code of `IOERR` for a file that ends too early.
const SHORT_READ: u32 = IOERR | (2 << 8);

/// The extended codes of `IOERR` for locks (LOCK, UNLOCK, RDLOCK, CHECKRESERVEDLOCK) and shared memory (SHMOPEN, SHMSIZE, SHMLOCK,
/// SHMMAP).
const LOCKS_AND_SHARED_MEMORY: [u32; 8] = [
    IOERR | (15 << 8),
    IOERR | (8 << 8),
    IOERR | (9 << 8),
    IOERR | (14 << 8),
    IOERR | (18 << 8),
    IOERR | (19 << 8),
    IOERR | (20 << 8),
    IOERR | (21 << 8),
];

/// Classifies an error by its code. Any other code may concern a single row: a constraint, an app's trigger, or a BLOB in a row
/// that is converted to JSON.
pub(super) fn classify(error: &(dyn DatabaseError + 'static)) -> ErrorClass {
    const SYSTEMIC: [u32; 10] = [
        PERM, BUSY, 6, // LOCKED
        7, // NOMEM
        READONLY, IOERR, 13, // FULL
        CANTOPEN, PROTOCOL, NOTADB,
    ];
    if primary_code(error).is_some_and(|code| SYSTEMIC.contains(&code)) {
        ErrorClass::Systemic
    } else {
        ErrorClass::Statement
    }
}

/// Returns whether another process has locked the file.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    primary_code_of(error) == Some(BUSY)
}

/// Returns whether a lock or the shared memory failed, for another reason than a lock of another process.
pub(super) fn is_failure_of_locks(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => extended_code(&**error)
            .is_some_and(|code| code == PROTOCOL || LOCKS_AND_SHARED_MEMORY.contains(&code)),
        _ => false,
    }
}

/// Returns whether the file is damaged.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            extended_code(&**error).is_some_and(|code| code == SHORT_READ || code & 0xff == CORRUPT)
        }
        _ => false,
    }
}

/// Returns the primary code of an error, if SQLite reported it.
pub(super) fn primary_code_of(error: &sqlx::Error) -> Option<u32> {
    match error {
        sqlx::Error::Database(error) => primary_code(&**error),
        _ => None,
    }
}

fn primary_code(error: &(dyn DatabaseError + 'static)) -> Option<u32> {
    // The lowest byte of an extended result code is its primary code.
    Some(extended_code(error)? & 0xff)
}

fn extended_code(error: &(dyn DatabaseError + 'static)) -> Option<u32> {
    error
        .try_downcast_ref::<SqliteError>()?
        .code()?
        .parse()
        .ok()
}
