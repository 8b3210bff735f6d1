//! A fresh checkout for one page. It has a built program, free ports and stand-ins for some tools.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use url::Url;

use crate::pages::repository;
use crate::support::cloudflare::{Cloudflare, TOKEN};
use crate::support::cluster::{Cluster, Durability};
use crate::support::ports::free_port;
use crate::support::variable;

/// The program of the checkouts, which was built with the tests.
pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_cloudflare-images-webhook");

/// A stand-in that builds nothing. `make run` would compile an optimized program for minutes. The
/// checkout already has the built program. `cargo test` does nothing, because the page itself runs
/// in a test.
const CARGO_STAND_IN: &str = r#"#!/bin/sh
case "$1" in
run) exec target/release/cloudflare-images-webhook ;;
build | test) ;;
install) cp target/release/cloudflare-images-webhook "$HOME/.cargo/bin/" ;;
*)
    echo "the tests' stand-in for cargo does not know: $*" >&2
    exit 1
    ;;
esac
"#;

/// A stand-in that runs the command as the same user. The tests' Postgres needs no other user.
const SUDO_STAND_IN: &str = r#"#!/bin/sh
[ "$1" = -u ] && shift 2
exec "$@"
"#;

/// The ports that the documentation names, and the ones that a test uses instead.
struct Ports([(&'static str, u16); 3]);

impl Ports {
    fn of(&self, documented: &str) -> u16 {
        let mut ports = self.0.iter();
        let found = ports.find(|(name, _)| *name == documented);
        found.expect("a documented port").1
    }
}

/// A folder that looks like a fresh checkout after a build.
pub(super) struct Checkout {
    root: TempDir,
    ports: Ports,
    cloudflare: Cloudflare,
    /// Runs the tasks of `cloudflare`.
    _runtime: Runtime,
    postgres: Option<Cluster>,
}

impl Checkout {
    pub(super) fn new(has_postgres: bool) -> Self {
        let root = TempDir::with_prefix("images-webhook-docs-").expect("a temporary folder");
        let runtime = Runtime::new().expect("a runtime");
        let checkout = Self {
            root,
            cloudflare: runtime.block_on(Cloudflare::start()),
            _runtime: runtime,
            ports: Ports(["8080", "9090", "9000"].map(|name| (name, free_port()))),
            postgres: has_postgres.then(|| Cluster::start(Durability::NoFsync)),
        };
        fs::create_dir_all(checkout.folder().join("target/release")).expect("a folder");
        fs::create_dir_all(checkout.home().join(".cargo/bin")).expect("a folder");
        fs::create_dir_all(checkout.stand_ins()).expect("a folder");
        checkout.copy_repository();
        // The reader writes the token into this file.
        fs::create_dir_all(checkout.folder().join("data")).expect("a folder");
        fs::write(checkout.folder().join("data/api-token"), TOKEN).expect("a file");
        let program = "target/release/cloudflare-images-webhook";
        symlink(PROGRAM, checkout.folder().join(program)).expect("a link");
        checkout.add_stand_in("cargo", CARGO_STAND_IN);
        checkout.add_stand_in("sudo", SUDO_STAND_IN);
        checkout
    }

    /// The folder of the checkout, in which the reader's terminal opens.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.path().join("checkout")
    }

    /// The folder for the scripts and outputs of the tests.
    pub(super) fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// The port for webhooks.
    pub(super) fn port(&self) -> u16 {
        self.ports.of("8080")
    }

    /// The environment of the reader's terminal.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let path = variable("PATH").unwrap_or_default();
        let (home, stand_ins) = (self.home(), self.stand_ins());
        let (home, stand_ins) = (home.display(), stand_ins.display());
        let mut variables = vec![
            ("PATH", format!("{stand_ins}:{home}/.cargo/bin:{path}")),
            ("HOME", home.to_string()),
            ("USER", "postgres".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("APP__CLOUDFLARE__BASE_URL", self.cloudflare.url()),
            ("PORT", self.port().to_string()),
            (
                "APP__OPS__LISTEN",
                format!("127.0.0.1:{}", self.ports.of("9090")),
            ),
        ];
        if let Some(port) = self.postgres_port() {
            variables.push(("PGHOST", "127.0.0.1".to_owned()));
            variables.push(("PGPORT", port.to_string()));
            variables.push(("PGUSER", "postgres".to_owned()));
        }
        let owned = variables.into_iter();
        owned
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Replaces the documented ports, because other programs on this machine may use them. Replaces the public URL, which leads to
    /// the service through a proxy.
    pub(super) fn with_free_ports(&self, text: &str) -> String {
        let service = format!("http://127.0.0.1:{}/cloudflare-images", self.port());
        let mut text = text.replace("https://example.com/cloudflare-images", &service);
        if let Some(port) = self.postgres_port() {
            text = text.replace("localhost:5432", &format!("127.0.0.1:{port}"));
        }
        for (documented, port) in &self.ports.0 {
            text = replace_number(&text, documented, &port.to_string());
        }
        text
    }

    fn postgres_port(&self) -> Option<u16> {
        let url = self.postgres.as_ref()?.url("postgres");
        Url::parse(&url).expect("a URL").port()
    }

    fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    fn stand_ins(&self) -> PathBuf {
        self.root.path().join("stand-ins")
    }

    fn add_stand_in(&self, name: &str, script: &str) {
        let path = self.stand_ins().join(name);
        fs::write(&path, script).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// Copies what a page may change, and links the rest.
    fn copy_repository(&self) {
        for entry in fs::read_dir(repository()).expect("a folder") {
            let entry = entry.expect("an entry");
            let copy = self.folder().join(entry.file_name());
            match entry.file_name().to_str() {
                Some(".git" | "target" | "data") => {}
                Some("config") => copy_files(&entry.path(), &copy),
                _ if entry.path().is_dir() => symlink(entry.path(), copy).expect("a link"),
                _ => drop(fs::copy(entry.path(), copy).expect("a copy")),
            }
        }
    }
}

fn copy_files(folder: &Path, copy: &Path) {
    fs::create_dir(copy).expect("a folder");
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
}

/// Replaces a number where it is not a part of a longer one.
fn replace_number(text: &str, number: &str, replacement: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(number) {
        let is_longer = before.ends_with(|next: char| next.is_ascii_digit())
            || after.starts_with(|next: char| next.is_ascii_digit());
        replaced.push_str(before);
        replaced.push_str(if is_longer { number } else { replacement });
        rest = after;
    }
    replaced + rest
}

#[test]
fn replaces_whole_numbers() {
    assert_eq!(
        replace_number("9000 90001 :9000/", "9000", "7"),
        "7 90001 :7/"
    );
}
