//! A private `PgBouncer` in front of a Postgres server. A test fails if it is not installed.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use super::cluster::{shared_server, unprivileged_user};
use super::database::Database;
use super::ports::free_port;
use super::wait;

/// A pooler. It ends with this process, because its input ends.
pub(crate) struct Pooler {
    port: u16,
    process: Child,
}

impl Pooler {
    /// Starts a pooler in front of the shared server, with this pool mode and with these other settings.
    pub(crate) fn start(mode: &str, settings: &str) -> Self {
        Self::start_for(&shared_server(), mode, settings)
    }

    /// Starts a pooler in front of the server with this URL.
    pub(crate) fn start_for(server: &str, mode: &str, settings: &str) -> Self {
        let port = free_port();
        let process = launch(server, port, mode, settings);
        Self { port, process }
    }

    /// Restarts the pooler in front of the shared server on the same port, with another pool mode.
    pub(crate) fn restart(&mut self, mode: &str, settings: &str) {
        drop(self.process.stdin.take());
        self.process.wait().expect("it ends");
        wait::until("the port is free", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
        self.process = launch(&shared_server(), self.port, mode, settings);
    }

    /// Returns the pooler in transaction mode that all tests of this process share.
    pub(crate) fn in_transaction_mode() -> &'static Self {
        static SHARED: OnceLock<Pooler> = OnceLock::new();
        SHARED.get_or_init(|| Self::start("transaction", ""))
    }

    /// Returns the URL of this database behind the pooler.
    pub(crate) fn url(&self, database: &Database) -> String {
        let (_, name) = database.url.rsplit_once('/').expect("a name");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

/// Starts a pooler on this port, and waits until it listens.
fn launch(server: &str, port: u16, mode: &str, settings: &str) -> Child {
    let server: PgConnectOptions = server.parse().expect("a URL");
    let folder = TempDir::with_prefix("images-webhook-pgbouncer-")
        .expect("a temporary folder")
        .keep();
    let (uid, gid) = unprivileged_user();
    chown(&folder, Some(uid), Some(gid)).expect("chown to the pooler's user succeeds");
    let configuration = format!(
        "[databases]
             * = host={host} port={server_port} user={user}
             [pgbouncer]
             listen_addr = 127.0.0.1
             listen_port = {port}
             unix_socket_dir =
             auth_type = any
             pool_mode = {mode}
             max_client_conn = 1000
             default_pool_size = 8
             server_idle_timeout = 1
             {settings}\n",
        host = server.get_host(),
        server_port = server.get_port(),
        user = server.get_username(),
    );
    // Its parser accepts no blanks at the beginning of a line.
    let lines: Vec<_> = configuration.lines().map(str::trim).collect();
    let file = folder.join("pgbouncer.ini");
    fs::write(&file, lines.join("\n")).expect("a file");
    let script = format!(
        "pgbouncer --quiet '{}' & pooler=$!; cat >/dev/null; kill $pooler; rm -rf '{}'",
        file.display(),
        folder.display()
    );
    let mut process = Command::new("sh");
    process
        .args(["-c", &script])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .uid(uid)
        .gid(gid)
        .current_dir("/");
    // A process group of its own, so Ctrl-C on the tests does not end the shell first.
    let process = process.process_group(0).spawn().expect("sh runs");
    wait::until("the pooler listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    process
}
