//! Ports for the programs that tests start.

use std::env;
use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The ports for tests. They are below the system's ephemeral ports.
const PORTS: Range<u16> = 12_000..32_000;

/// The number of ports that a process of the tests reserves at once.
const BLOCK: u16 = 100;

/// The ports that this process reserved.
#[derive(Default)]
struct Reserved {
    next: Range<u16>,
    /// The locked files of the blocks. The system frees the locks at the end of this process.
    locks: Vec<File>,
}

/// Returns a port that no other caller gets, in this process or in another one that runs tests on this machine.
pub(crate) fn free_port() -> u16 {
    static RESERVED: Mutex<Option<Reserved>> = Mutex::new(None);

    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let reserved = reserved.get_or_insert_default();
    loop {
        let Some(port) = reserved.next.next() else {
            let (block, lock) = reserve_block();
            reserved.next = block;
            reserved.locks.push(lock);
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Reserves a block of ports: the first one whose file no other process has locked.
fn reserve_block() -> (Range<u16>, File) {
    let folder = env::temp_dir().join("images-webhook-ports");
    fs::create_dir_all(&folder).expect("a folder");
    // Other users may run tests too. Only the folder's owner can and must do this.
    let _owner_did_this = fs::set_permissions(&folder, Permissions::from_mode(0o1777));
    PORTS
        .step_by(usize::from(BLOCK))
        .find_map(|first| {
            let file = open(&folder.join(first.to_string()))?;
            file.try_lock().ok()?;
            Some((first..first + BLOCK, file))
        })
        .expect("a block of ports is free")
}

/// Opens the file, or creates it. Another user's file can only be read, which is enough for its lock.
fn open(path: &Path) -> Option<File> {
    let created = File::options().append(true).create(true).open(path);
    created.or_else(|_| File::open(path)).ok()
}
