//! The mounts below a database file. SQLite keeps the last writes in `-wal`, beside the file, and locks both.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::with_suffix;

/// The mounts that this process sees (Linux, proc(5)).
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The names of file systems on another machine. SQLite's write-ahead log needs memory that all its processes share, so
/// they must run on one machine (SQLite documentation, "Write-Ahead Logging", section 1).
const NETWORK_FILE_SYSTEMS: [&str; 12] = [
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fakeowner",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "virtiofs",
];

/// Returns the database file, its `-wal` or its `-shm`, if that file is mounted without its folder. For a missing file, returns
/// `None`.
///
/// The new `-wal` would be in another file system than the database. A container that is replaced then loses its last writes.
pub(super) fn mounted_alone(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let Some(mountinfo) = read_mounts() else {
        // On systems other than Linux, a mounted file has another device than its folder. On Linux, so may any file of an
        // overlay file system.
        return is_on_other_device(&path).then_some(path);
    };
    ["", "-wal", "-shm"]
        .into_iter()
        .map(|suffix| with_suffix(&path, suffix))
        .find(|file| Mount::all(&mountinfo).any(|mount| mount.point == *file))
}

/// Logs a warning if the file is on a network file system.
pub(super) fn warn_of_network(path: &Path) {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let (Some(folder), Some(mountinfo)) = (folder, read_mounts()) else {
        return;
    };
    if let Some(file_system) = network_file_system(&folder, &mountinfo) {
        let path = path.display();
        tracing::warn!(%path, file_system, "the SQLite file is on a network file system");
    }
}

/// Returns the mounts. A path that is not UTF-8 cannot be the configured one.
fn read_mounts() -> Option<String> {
    let mounts = std::fs::read(MOUNTINFO).ok()?;
    Some(String::from_utf8_lossy(&mounts).into_owned())
}

fn is_on_other_device(path: &Path) -> bool {
    let device = |path: &Path| path.metadata().ok().map(|metadata| metadata.dev());
    path.parent()
        .is_some_and(|folder| device(folder) != device(path))
}

fn network_file_system<'a>(folder: &Path, mountinfo: &'a str) -> Option<&'a str> {
    // A later mount covers an earlier one at the same place.
    let mount = Mount::all(mountinfo)
        .filter(|mount| folder.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())?;
    let is_network =
        NETWORK_FILE_SYSTEMS.contains(&mount.file_system) || mount.file_system.starts_with("fuse.");
    is_network.then_some(mount.file_system)
}

/// A mount, as a line of mountinfo describes it.
struct Mount<'a> {
    point: PathBuf,
    file_system: &'a str,
}

impl<'a> Mount<'a> {
    fn all(mountinfo: &'a str) -> impl Iterator<Item = Self> {
        mountinfo.lines().filter_map(Self::parse)
    }

    /// Reads a line such as `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda1 rw`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, device) = line.split_once(" - ")?;
        Some(Self {
            point: unescape(mount.split(' ').nth(4)?).into(),
            file_system: device.split(' ').next()?,
        })
    }
}

/// Replaces the escapes of mountinfo: a backslash and three octal digits, for spaces and other separators.
fn unescape(escaped: &str) -> String {
    let mut parts = escaped.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..3);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                text.push(char::from(byte));
                text.push_str(&part[3..]);
            }
            _ => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_network_file_systems() {
        let mountinfo = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
            40 22 0:50 / /data rw,relatime - nfs4 server:/export rw\n\
            41 40 0:51 / /data/my\\040files rw - fuse.sshfs me@server:/ rw\n\
            42 40 8:2 / /data/local rw - ext4 /dev/sdb1 rw\n";
        for (folder, expected) in [
            ("/", None),
            ("/srv", None),
            ("/database", None),
            ("/data", Some("nfs4")),
            ("/data/images", Some("nfs4")),
            ("/data/my files", Some("fuse.sshfs")),
            ("/data/local", None),
        ] {
            assert_eq!(
                network_file_system(Path::new(folder), mountinfo),
                expected,
                "{folder}"
            );
        }
    }
}
