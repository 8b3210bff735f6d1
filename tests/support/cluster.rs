//! A private Postgres cluster with a temporary folder and a port of its own. It runs as an
//! unprivileged user when the tests run as root.
//!
//! A test fails if Postgres is not installed. `TEST_DATABASE_URL` names a server to use instead.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::ports::free_port;
use super::{variable, wait};

/// Whether commits survive a power failure. Tests that kill processes use the production setting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Fsync,
    NoFsync,
}

/// A cluster that a test can stop, kill and restart.
pub(crate) struct Cluster {
    folder: PathBuf,
    port: u16,
    /// Stops the server and removes the folder. It waits for the end of its input, so it also works
    /// after this process was killed.
    watchdog: Child,
}

/// Returns the URL of the server that all tests of this process share.
pub(crate) fn shared_server() -> String {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();

    if let Some(url) = variable("TEST_DATABASE_URL") {
        return url;
    }
    let cluster = SHARED.get_or_init(|| Some(Cluster::start(Durability::NoFsync)));
    cluster.as_ref().expect("it was just made").url("postgres")
}

impl Cluster {
    /// Creates and starts a cluster.
    pub(crate) fn start(durability: Durability) -> Self {
        let folder = TempDir::with_prefix("images-webhook-postgres-")
            .expect("a temporary folder")
            .keep();
        let (uid, gid) = unprivileged_user();
        chown(&folder, Some(uid), Some(gid)).expect("chown to the server's user succeeds");

        run(postgres_program("initdb")
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg("-D")
            .arg(data_folder(&folder)));
        let port = free_port();
        let fsync = if durability == Durability::Fsync {
            "on"
        } else {
            "off"
        };
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1, ::1'\nunix_socket_directories = '{}'\nfsync = {fsync}\nmax_connections = 500\n",
            folder.display()
        );
        fs::write(data_folder(&folder).join("postgresql.auto.conf"), settings)
            .expect("the configuration is written");

        let script = format!(
            "cat >/dev/null; '{}' -D '{}' -m immediate stop >/dev/null 2>&1; rm -rf '{}'",
            binary("pg_ctl").display(),
            data_folder(&folder).display(),
            folder.display()
        );
        let mut watchdog = Command::new("sh");
        watchdog
            .arg("-c")
            .arg(script)
            .stdin(Stdio::piped())
            .uid(uid)
            .gid(gid)
            .current_dir("/");
        // A process group of its own. Ctrl-C on the tests must not end the watchdog.
        let watchdog = watchdog.process_group(0).spawn().expect("sh runs");

        let cluster = Self {
            folder,
            port,
            watchdog,
        };
        cluster.restart();
        cluster
    }

    /// Returns the URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the port, which is also the port of the socket.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of the socket.
    pub(crate) fn socket_folder(&self) -> &Path {
        &self.folder
    }

    /// Restarts the server, so that it offers TLS with this certificate.
    pub(crate) fn serve_tls(&self, certificate: &Path, key: &Path) {
        let (uid, gid) = unprivileged_user();
        let mut settings = File::options()
            .append(true)
            .open(data_folder(&self.folder).join("postgresql.auto.conf"))
            .expect("the configuration exists");
        writeln!(settings, "ssl = on").expect("it is written");
        for (name, file) in [("cert", certificate), ("key", key)] {
            let copy = self.folder.join(format!("server-{name}.pem"));
            fs::copy(file, &copy).expect("the file is copied");
            fs::set_permissions(&copy, Permissions::from_mode(0o600)).expect("chmod succeeds");
            chown(&copy, Some(uid), Some(gid)).expect("chown succeeds");
            let copy = copy.display();
            writeln!(settings, "ssl_{name}_file = '{copy}'").expect("it is written");
        }
        self.stop();
        self.restart();
    }

    /// Starts the stopped or killed server and waits until it answers.
    pub(crate) fn restart(&self) {
        // After a kill, a newly forked process may run until it notices. Postgres does not start
        // while it runs.
        wait::until("the server starts", || {
            let mut start = postgres_program("pg_ctl");
            start
                .arg("-D")
                .arg(data_folder(&self.folder))
                .arg("-l")
                .arg(self.folder.join("log"))
                .args(["-w", "-t", "60", "start"]);
            start
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        });
    }

    /// Stops the server in Postgres's `fast` mode.
    pub(crate) fn stop(&self) {
        run(postgres_program("pg_ctl")
            .arg("-D")
            .arg(data_folder(&self.folder))
            .args(["-m", "fast", "-w", "stop"]));
    }

    /// Kills all processes of the server.
    pub(crate) fn kill(&self) {
        let processes = self.process_ids();
        Self::signal("-KILL", &processes);
        // The next start must not find a process of the old server.
        wait::until("the server's processes have ended", || {
            !processes.iter().any(|id| is_running(id))
        });
    }

    /// Suspends all processes of the server: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        // Repeats until the list is stable. The postmaster may fork between the listing and its
        // suspension.
        let mut stopped = Vec::new();
        loop {
            let processes = self.process_ids();
            if processes == stopped {
                return;
            }
            Self::signal("-STOP", &processes);
            stopped = processes;
        }
    }

    /// Resumes a frozen server.
    pub(crate) fn thaw(&self) {
        Self::signal("-CONT", &self.process_ids());
    }

    fn signal(signal: &str, processes: &[String]) {
        for id in processes {
            let _gone_already = Command::new("kill")
                .args([signal, id])
                .stderr(Stdio::null())
                .status();
        }
    }

    /// Returns the process ids of the postmaster and its children.
    fn process_ids(&self) -> Vec<String> {
        let file = fs::read_to_string(data_folder(&self.folder).join("postmaster.pid"))
            .unwrap_or_default();
        let Some(postmaster) = file.lines().next().map(str::to_owned) else {
            return Vec::new();
        };
        let children = Command::new("ps")
            .args(["-o", "pid=", "--ppid", &postmaster])
            .output()
            .expect("ps runs");
        let children = String::from_utf8(children.stdout).expect("numbers");
        // The postmaster comes first. It would replace a child that was killed before it.
        std::iter::once(postmaster)
            .chain(children.split_whitespace().map(str::to_owned))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ended = self.watchdog.wait();
    }
}

/// Returns whether a process exists and is not a zombie.
fn is_running(id: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn data_folder(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Returns the user and group for the server, because Postgres refuses to run as root.
pub(crate) fn unprivileged_user() -> (u32, u32) {
    let me = fs::metadata("/proc/self").expect("this process");
    if me.uid() != 0 {
        return (me.uid(), me.gid());
    }
    let users = fs::read_to_string("/etc/passwd").expect("the users");
    let user = ["postgres", "nobody"].into_iter().find_map(|name| {
        users
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))
    });
    let fields: Vec<&str> = user
        .expect("a user postgres or nobody")
        .split(':')
        .collect();
    (
        fields[2].parse().expect("a number"),
        fields[3].parse().expect("a number"),
    )
}

pub(crate) fn postgres_program(name: &str) -> Command {
    let (uid, gid) = unprivileged_user();
    let mut command = Command::new(binary(name));
    command
        .uid(uid)
        .gid(gid)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Returns the path of a Postgres program. Debian installs each version outside `PATH`; the newest
/// one is used.
fn binary(name: &str) -> PathBuf {
    let on_path = variable("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    let mut installed: Vec<PathBuf> = installed.collect();
    installed.sort_by_key(|folder| {
        folder
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse::<u32>()
            .unwrap_or(0)
    });

    installed.into_iter().rev().chain(on_path).map(|folder| folder.join(name)).find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("{name} is not installed. The tests need a real Postgres: apt-get install postgresql, or set TEST_DATABASE_URL.")
    })
}

fn run(command: &mut Command) {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
