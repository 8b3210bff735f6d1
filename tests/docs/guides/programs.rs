//! A program of a guide: its files, and the interpreter or compiler that runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::pages::{blocks, repository};
use crate::support::variable;

/// The files of a program in a folder of their own.
pub(super) struct Program {
    name: String,
    folder: TempDir,
}

impl Program {
    /// Writes the blocks of the page with this name, and the main program for them.
    pub(super) fn of_page(page: &str, name: &str) -> Self {
        let folder = TempDir::with_prefix("images-webhook-docs-").expect("a temporary folder");
        let mut files: Vec<(PathBuf, String)> = Vec::new();
        for block in blocks(page) {
            if block.value("run") != Some(name) {
                continue;
            }
            let file = block.value("file");
            let file = file.unwrap_or_else(|| panic!("{}: the block has no file=", block.place));
            let path = folder.path().join(file);
            match files.iter_mut().find(|(other, _)| *other == path) {
                Some((_, text)) => *text = format!("{text}\n{}", block.text),
                None => files.push((path, block.text)),
            }
        }
        assert!(!files.is_empty(), "{page} has blocks with run={name}");
        for (path, text) in files {
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        let main = repository().join("tests/docs/programs").join(name);
        if main.is_dir() {
            copy_files(&main, folder.path());
        }
        Self {
            name: name.to_owned(),
            folder,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the program with these arguments, and returns what it prints.
    pub(super) async fn run(&self, arguments: &[&str], database_url: &str) -> String {
        let mut command = self.command();
        command.args(arguments).env("DATABASE_URL", database_url);
        let name = self.name.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let output = command.output();
            output.unwrap_or_else(|error| {
                panic!("{name}: {command:?}: {error}; install it with: make prepare")
            })
        });
        let output = ended.await.expect("no panic");
        assert!(
            output.status.success(),
            "{} {arguments:?}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Returns the command that starts it, in its folder. Only Debian's interpreters find
    /// Debian's modules.
    pub(super) fn command(&self) -> Command {
        let (program, arguments): (&str, &[&str]) = match self.name.as_str() {
            "register-django" | "upload-python" => ("/usr/bin/python3", &["main.py"]),
            "register-rails" => ("/usr/bin/ruby", &["main.rb"]),
            "register-node" => ("node", &["main.js"]),
            "register-go" => ("go", &["run", "main.go", "uploads.go"]),
            "receive-python" => ("/usr/bin/python3", &["subscriber.py"]),
            "receive-node" => ("node", &["subscriber.js"]),
            name => panic!("no interpreter is known for {name}"),
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NODE_PATH", node_path())
            // Debian's Go packages are in a GOPATH, and nothing is downloaded.
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOFLAGS", "")
            .env("GOTOOLCHAIN", "local");
        command
    }
}

/// Returns the folders in which tests/prepare.sh installs Node.js packages.
fn node_path() -> String {
    let npm = Command::new("npm").args(["root", "--global"]).output();
    let global = npm.map(|output| output.stdout).unwrap_or_default();
    let global = String::from_utf8(global).expect("a path");
    let inherited = variable("NODE_PATH").unwrap_or_default();
    format!("/usr/share/nodejs:{}:{inherited}", global.trim())
}

fn copy_files(folder: &Path, copy: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
}
