//! The limit of open files. Each connection needs a file descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The descriptors for everything but connections of clients and of the database pool: files, sockets of endpoints and the runtime.
const OTHER_DESCRIPTORS: usize = 128;

/// Raises the soft limit of the process to its hard limit. Logs a warning if the limit is too low for this number of connections.
pub(super) fn raise(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            limit.current
        }
    };
    let needed = u64::try_from(connections + OTHER_DESCRIPTORS).unwrap_or(u64::MAX);
    if let Some(limit) = current.filter(|current| *current < needed) {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files is too low for server.max_connections"
        );
    }
}
