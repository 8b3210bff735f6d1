//! A program that runs in another terminal of the reader.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::checkout::{Checkout, PROGRAM};
use super::terminal::{Terminal, kill_group, read, signal_group};
use crate::support::wait;

pub(super) struct Background {
    shell: Child,
    output: PathBuf,
}

impl Background {
    /// Starts these commands with the environment and in the folder of the terminal.
    pub(super) fn start(terminal: &mut Terminal, commands: &str) -> Self {
        let (script, output) = terminal.write_background_script(commands);
        let file = File::create(&output).expect("a file");
        let shell = Command::new("sh")
            .arg(script)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .expect("sh runs");
        Self { shell, output }
    }

    /// Waits until the service is ready, as its own command `healthcheck` says.
    pub(super) fn wait_until_ready(&mut self, place: &str, checkout: &Checkout) {
        let mut healthcheck = Command::new(PROGRAM);
        healthcheck
            .arg("healthcheck")
            .current_dir(checkout.scratch())
            .env_clear()
            .envs(checkout.environment())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.wait(place, || {
            healthcheck.status().expect("the program runs").success()
        });
    }

    /// Waits until the program accepts connections.
    pub(super) fn wait_for_port(&mut self, place: &str, port: u16) {
        self.wait(place, || is_open(port));
    }

    /// Stops the service as Ctrl-C does, and waits until it has stopped.
    pub(super) fn interrupt(self, checkout: &Checkout) {
        signal_group(&self.shell, "-INT");
        wait::until("the service stops", || !is_open(checkout.port()));
    }

    fn wait(&mut self, place: &str, mut is_ready: impl FnMut() -> bool) {
        wait::until(&format!("the program of {place} is ready"), || {
            let is_ready = is_ready();
            assert!(
                is_ready || matches!(self.shell.try_wait(), Ok(None)),
                "{place}: the program ended:\n{}",
                read(&self.output)
            );
            is_ready
        });
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        kill_group(&mut self.shell);
    }
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}
