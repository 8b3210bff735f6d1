//! A private Postgres cluster: a temporary folder, a port of its own, an unprivileged user when the tests run as root.
//!
//! A missing Postgres is a loud failure. `TEST_DATABASE_URL` names a server to be used instead.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::{variable, wait};

/// Whether the cluster's commits survive a power cut. Tests that kill processes want what production has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    LikeProduction,
    OnlyInMemory,
}

/// A cluster that can be stopped, killed and started again.
pub(crate) struct Cluster {
    folder: PathBuf,
    port: u16,
    /// Stops the server and removes the folder when this process ends, however it ends: it waits for the end of its input.
    watchdog: Child,
}

/// The URL of a server that all tests of this process share.
pub(crate) fn shared_server() -> String {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();

    if let Some(url) = variable("TEST_DATABASE_URL") {
        return url;
    }
    let cluster = SHARED.get_or_init(|| Some(Cluster::start(Durability::OnlyInMemory)));
    cluster.as_ref().expect("it was just made").url("postgres")
}

impl Cluster {
    /// Makes and starts a cluster.
    pub(crate) fn start(durability: Durability) -> Self {
        let folder = TempDir::with_prefix("images-webhook-postgres-")
            .expect("a temporary folder")
            .keep();
        let (uid, gid) = unprivileged_user();
        chown(&folder, Some(uid), Some(gid)).expect("the folder can be given to the server's user");

        run(program("initdb")
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg("-D")
            .arg(data(&folder)));
        let port = free_port();
        let fsync = if durability == Durability::LikeProduction {
            "on"
        } else {
            "off"
        };
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = {fsync}\nmax_connections = 200\n",
            folder.display()
        );
        fs::write(data(&folder).join("postgresql.auto.conf"), settings)
            .expect("the cluster can be configured");

        let script = format!(
            "cat >/dev/null; '{}' -D '{}' -m immediate stop >/dev/null 2>&1; rm -rf '{}'",
            binary("pg_ctl").display(),
            data(&folder).display(),
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
        // A group of its own, so that Ctrl-C on the tests does not take it along.
        let watchdog = watchdog.process_group(0).spawn().expect("sh runs");

        let cluster = Self {
            folder,
            port,
            watchdog,
        };
        cluster.restart();
        cluster
    }

    /// The URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Starts the server, after it was stopped or killed, and waits until it answers.
    pub(crate) fn restart(&self) {
        // After a kill a process that was born in that moment may live on for as long as it takes to notice, and Postgres
        // does not start beside it.
        wait::until("the server starts", || {
            let mut start = program("pg_ctl");
            start
                .arg("-D")
                .arg(data(&self.folder))
                .arg("-l")
                .arg(self.folder.join("log"))
                .args(["-w", "-t", "60", "start"]);
            start
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        });
    }

    /// Stops the server as an administrator does who cannot wait.
    pub(crate) fn stop(&self) {
        run(program("pg_ctl")
            .arg("-D")
            .arg(data(&self.folder))
            .args(["-m", "fast", "-w", "stop"]));
    }

    /// Kills the server and every process of it, at once.
    pub(crate) fn kill(&self) {
        let processes = self.process_ids();
        Self::signal("-KILL", &processes);
        // The next start must not meet the old server's last process.
        wait::until("the server is gone", || {
            !processes.iter().any(|id| is_running(id))
        });
    }

    /// Stops every process of the server in its tracks, so that connections stay open and nothing answers.
    pub(crate) fn freeze(&self) {
        // Again until there are no more: one may have been born between the listing and its parent's stop.
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

    /// Lets a frozen server go on.
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

    /// The postmaster and its children.
    fn process_ids(&self) -> Vec<String> {
        let file =
            fs::read_to_string(data(&self.folder).join("postmaster.pid")).unwrap_or_default();
        let Some(postmaster) = file.lines().next().map(str::to_owned) else {
            return Vec::new();
        };
        let children = Command::new("ps")
            .args(["-o", "pid=", "--ppid", &postmaster])
            .output()
            .expect("ps runs");
        let children = String::from_utf8(children.stdout).expect("numbers");
        // The postmaster first: it would replace a child that was killed before it.
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

/// A port that nobody in these tests is given twice, and below those that the system gives out by itself.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);

    let first = u16::try_from(std::process::id() % 10_000).expect("it is below 10000");
    loop {
        let port = 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether a process is there, and not only waiting for its parent to hear of its end.
fn is_running(id: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Postgres refuses to run as root.
fn unprivileged_user() -> (u32, u32) {
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

pub(crate) fn program(name: &str) -> Command {
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

/// The newest installed version of one of Postgres's programs, which Debian keeps off the path.
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
