//! The location of a server, as messages show it.

use sqlx::postgres::PgConnectOptions;

/// Returns the location of a server as messages show it: `host:port`, `[address]:port` or `socket path`.
pub(in crate::store) fn label(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    match socket_folder(options) {
        Some(folder) => format!("socket {folder}/.s.PGSQL.{port}"),
        None if host.contains(':') => format!("[{host}]:{port}"),
        None => format!("{host}:{port}"),
    }
}

/// Returns the folder of the socket. Without a host, sqlx looks for a socket in the usual folders.
pub(super) fn socket_folder(options: &PgConnectOptions) -> Option<String> {
    let host = options.get_host();
    match options.get_socket() {
        Some(folder) => Some(folder.display().to_string()),
        None => host.starts_with('/').then(|| host.to_owned()),
    }
}
