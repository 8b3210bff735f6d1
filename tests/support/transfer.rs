//! `images import` and `images export`, run as programs.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use tempfile::TempDir;

use super::database::Database;
use super::program::{program, run, stderr, stdout};

/// A database, and a folder for files.
pub(crate) struct Transfer {
    pub(crate) database: Database,
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// The end of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: stdout(&output),
            stderr: stderr(&output),
        }
    }
}

impl Transfer {
    pub(crate) fn new(database: Database) -> Self {
        Self::with(database, &[])
    }

    /// Uses additional environment variables.
    pub(crate) fn with(database: Database, variables: &[(&str, &str)]) -> Self {
        let variables = [("DATABASE_URL", database.url.as_str())]
            .iter()
            .chain(variables)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            folder: TempDir::new().expect("a folder"),
            variables,
            database,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `images` with these arguments.
    pub(crate) fn images(&self, arguments: &[&str]) -> Ended {
        let arguments = [&["images"], arguments].concat();
        run(self.folder(), &arguments, &self.variables()).into()
    }

    pub(crate) fn variables(&self) -> Vec<(&str, &str)> {
        let variables = self.variables.iter();
        variables
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    /// Starts `images import -`, whose input the caller writes.
    pub(crate) fn start_import(&self) -> Child {
        let mut command = program(self.folder());
        command
            .args(["images", "import", "-"])
            .envs(self.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("the program runs")
    }

    /// Imports a file with this content.
    pub(crate) fn import(&self, content: impl AsRef<[u8]>) -> Ended {
        std::fs::write(self.folder().join("images"), content).expect("the file is written");
        self.images(&["import", "images"])
    }

    /// Imports this content from the standard input.
    pub(crate) fn import_from_stdin(&self, content: impl AsRef<[u8]>) -> Ended {
        let mut child = self.start_import();
        let mut stdin = child.stdin.take().expect("it is piped");
        // The program may end before it has read everything.
        let _is_closed = stdin.write_all(content.as_ref());
        drop(stdin);
        child.wait_with_output().expect("it ends").into()
    }

    /// Returns an export in this format.
    pub(crate) fn export(&self, format: &str) -> String {
        let ended = self.images(&["export", "--format", format]);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended:?}");
        ended.stdout
    }
}

/// Returns the end of an import that imported everything.
pub(crate) fn imported(inserted: u64, updated: u64, unchanged: u64) -> Ended {
    Ended {
        code: Some(0),
        stdout: format!(
            "{inserted} inserted, {updated} updated, {unchanged} unchanged, 0 not imported\n"
        ),
        stderr: String::new(),
    }
}
