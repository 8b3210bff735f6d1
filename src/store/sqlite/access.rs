//! Why a database file cannot be used, and what to do: the permissions of the file and its folder, and locks.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::file::with_suffix;
use super::result_code::{
    CANTOPEN, NOTADB, PERM, READONLY, is_busy, is_damage, is_failure_of_locks, primary_code_of,
};
use crate::store::error::StoreError;

/// The action of opening, as errors name it.
pub(super) const OPENING: &str = "opening the file";

const NO_LOCKS: &str =
    "its file system has no working locks or no shared memory; move the folder to a local disk";

const DAMAGED: &str = "the file is damaged; stop the service, and restore a backup";

/// Adds to an error why the file could not be used, and what to do. Returns other errors unchanged.
pub(super) fn explain(path: &Path, error: StoreError) -> StoreError {
    let StoreError::Database {
        database,
        action,
        class,
        source,
    } = error
    else {
        return error;
    };
    let advice = match primary_code_of(&source) {
        Some(PERM | READONLY | CANTOPEN) => Some(advice(path)),
        Some(NOTADB) => {
            Some("it is no SQLite database; set database.url to another file".to_owned())
        }
        _ if action == OPENING && is_locked(&source) => Some(if has_locks(path) {
            "another process has locked it; end its transaction or stop it".to_owned()
        } else {
            NO_LOCKS.to_owned()
        }),
        _ if is_failure_of_locks(&source) => Some(NO_LOCKS.to_owned()),
        _ if is_damage(&source) => Some(DAMAGED.to_owned()),
        _ => None,
    };
    match advice {
        Some(advice) => StoreError::FileUnusable {
            database,
            action,
            advice,
            source,
        },
        None => StoreError::Database {
            database,
            action,
            class,
            source,
        },
    }
}

/// Returns why this folder cannot be created, and what to do.
pub(super) fn folder_advice(folder: &Path) -> String {
    let existing = folder.ancestors().find(|path| path.exists());
    match existing.filter(|path| path.is_file()) {
        Some(file) => format!(
            "{} is a file; set database.url to a file in another folder",
            file.display()
        ),
        None => advice(folder),
    }
}

/// Returns why this path cannot be created, read or written, and what to do. Of its folder, the file and SQLite's other files, the
/// text names the first one that this process may not use.
pub(super) fn advice(path: &Path) -> String {
    let user = geteuid().as_raw();
    let mut folders = path.ancestors().skip(1).map(|folder| {
        if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        }
    });
    let folder = folders.find(|folder| folder.exists());
    let all = Access::READ_OK | Access::WRITE_OK;
    let needs = folder
        .map(|folder| (folder.to_owned(), all | Access::EXEC_OK))
        .into_iter()
        .chain(["", "-wal", "-shm"].map(|suffix| (with_suffix(path, suffix), all)));
    for (file, access) in needs {
        let Ok(metadata) = file.metadata() else {
            continue;
        };
        let (name, owner, mode) = (file.display(), metadata.uid(), metadata.mode() & 0o7777);
        if file == path && metadata.is_dir() {
            return format!("{name} is a folder; set database.url to a file in it");
        }
        match rustix::fs::access(&file, access) {
            Ok(()) => {}
            Err(Errno::ROFS) => {
                return format!(
                    "{name} (owner {owner}, mode {mode:o}) is on a read-only file system for user {user}; mount it writable"
                );
            }
            Err(_) => {
                return format!(
                    "user {user} may not write {name} (owner {owner}, mode {mode:o}); run `chown {user} '{name}' && chmod u+rwX '{name}'`"
                );
            }
        }
    }
    let owner = match folder.and_then(|folder| folder.metadata().ok()) {
        Some(metadata) => format!(
            "owner {}, mode {:o}",
            metadata.uid(),
            metadata.mode() & 0o7777
        ),
        None => "not found".to_owned(),
    };
    format!(
        "user {user} may write {} and its folder ({owner}); check the disk, its mount options and security policies",
        path.display()
    )
}

/// Returns whether the file was locked during the wait for a connection. The pool itself also retries while the file is locked.
fn is_locked(error: &sqlx::Error) -> bool {
    is_busy(error) || matches!(error, sqlx::Error::PoolTimedOut)
}

/// Returns false if the file system of this file refuses every lock, as NFS does without its lock service. SQLite reports that as
/// a lock of another process.
fn has_locks(path: &Path) -> bool {
    // A file of its own. Closing another descriptor of the database would release this process's locks (fcntl(2)).
    let path = with_suffix(path, "-lock-test");
    let Ok(file) = File::create(&path) else {
        return true;
    };
    let locked = file.try_lock();
    // A file that stays is empty, and the next test uses it again.
    let _removed = std::fs::remove_file(&path);
    !matches!(locked, Err(TryLockError::Error(_)))
}
