//! Completions for shells, and man pages. Both come from the definition of the command line.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};

use super::output::print_line;

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Shell that reads the script
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    /// Prints the script for this command line.
    pub(super) fn print(&self, mut command: Command) -> anyhow::Result<ExitCode> {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        print_line(String::from_utf8(script)?.trim_end());
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub(super) struct ManPages {
    /// Folder for the pages, which is created if it is missing
    folder: PathBuf,
}

impl ManPages {
    /// Writes the pages of this command line.
    pub(super) fn write(&self, command: Command) -> anyhow::Result<ExitCode> {
        let folder = self.folder.display();
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create the folder {folder}"))?;
        clap_mangen::generate_to(command, &self.folder)
            .with_context(|| format!("cannot write the man pages to {folder}"))?;
        print_line(&format!("wrote the man pages to {folder}"));
        Ok(ExitCode::SUCCESS)
    }
}
