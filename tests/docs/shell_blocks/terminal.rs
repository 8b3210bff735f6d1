//! The reader's terminal: one shell. Variables and folders stay from block to block.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::checkout::Checkout;
use crate::support::wait;

/// A shell that waits for commands.
pub(super) struct Terminal {
    shell: Child,
    input: ChildStdin,
    scratch: PathBuf,
    step: usize,
}

impl Terminal {
    /// Opens it in the folder of the checkout. A command that fails ends the shell.
    pub(super) fn open(checkout: &Checkout) -> Self {
        let errors = File::create(checkout.scratch().join("shell.err")).expect("a file");
        let mut shell = Command::new("sh")
            .current_dir(checkout.folder())
            .env_clear()
            .envs(checkout.environment())
            .stdin(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let mut input = shell.stdin.take().expect("it is piped");
        writeln!(input, "set -e").expect("the shell reads");
        Self {
            shell,
            input,
            scratch: checkout.scratch().to_owned(),
            step: 0,
        }
    }

    /// Runs commands, and returns their output, or an error with the output if one of them fails.
    pub(super) fn run(&mut self, commands: &str) -> Result<String, String> {
        self.run_step(commands, ["", ""])
    }

    /// Runs commands that may fail, and returns their output.
    pub(super) fn run_with_any_exit_code(&mut self, commands: &str) -> Result<String, String> {
        self.run_step(commands, ["set +e;", "set -e;"])
    }

    /// Writes a script that runs these commands in the environment and the folder of the terminal.
    /// Returns the script, and a file for its output.
    pub(super) fn write_background_script(&mut self, commands: &str) -> (PathBuf, PathBuf) {
        let environment = self.file("environment");
        let folder = self.file("folder");
        let save = format!(
            "export -p >'{}'\npwd >'{}'\n",
            environment.display(),
            folder.display()
        );
        self.run(&save).expect("the environment can be saved");
        let script = self.file("background.sh");
        let text = format!(
            ". '{}'\ncd \"$(cat '{}')\"\nset -e\n{commands}\n",
            environment.display(),
            folder.display()
        );
        fs::write(&script, text).expect("a file");
        (script, self.file("background.out"))
    }

    fn run_step(&mut self, commands: &str, around: [&str; 2]) -> Result<String, String> {
        self.step += 1;
        let [script, output, done] = ["sh", "out", "done"].map(|kind| self.file(kind));
        fs::write(&script, commands).expect("a file");
        let [before, after] = around;
        let line = format!(
            "{before} . '{}' </dev/null >'{}' 2>&1; {after} : >'{}'",
            script.display(),
            output.display(),
            done.display()
        );
        writeln!(self.input, "{line}").expect("the shell reads");
        wait::until(&format!("these end:\n{commands}"), || {
            done.exists() || matches!(self.shell.try_wait(), Ok(Some(_)))
        });
        let text = read(&output);
        if done.exists() {
            Ok(text)
        } else {
            let errors = read(&self.scratch.join("shell.err"));
            Err(format!("{text}{errors}"))
        }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.scratch.join(format!("{}.{kind}", self.step))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        kill_group(&mut self.shell);
    }
}

/// Returns the contents of a file so far.
pub(super) fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Kills a process and its children.
pub(super) fn kill_group(leader: &mut Child) {
    signal_group(leader, "-KILL");
    let _reaped = leader.wait();
}

/// Sends a signal to a process and its children, as a terminal does on Ctrl-C.
pub(super) fn signal_group(leader: &Child, signal: &str) {
    let group = format!("-{}", leader.id());
    let _gone_already = Command::new("kill")
        .args([signal, "--", &group])
        .stderr(Stdio::null())
        .status();
}
