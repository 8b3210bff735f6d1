//! The program, run as a process, as an operator or a container engine runs it.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use super::ports::free_port;
use super::{variable, wait};

/// Returns the program's path: `TEST_PROGRAM`, or the build that belongs to the tests.
pub(crate) fn path() -> String {
    variable("TEST_PROGRAM")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_cloudflare-images-webhook").to_owned())
}

/// Returns a command for the program, in this folder and without this process's environment.
pub(crate) fn program(folder: &Path) -> Command {
    let mut command = Command::new(path());
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// A user without privileges on Debian: `nobody`.
pub(crate) const UNPRIVILEGED_USER: u32 = 65534;

/// Makes a command run as a user without privileges. A test that has no privileges itself runs it as its own user.
pub(crate) fn drop_privileges(command: &mut Command) {
    if is_root() {
        command.uid(UNPRIVILEGED_USER).gid(UNPRIVILEGED_USER);
    }
}

/// Returns whether the tests run as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("it exists").uid() == 0
}

/// Runs the program to its end. Kills it after a timeout, for example when it serves instead of
/// refusing to start. The assertions then fail.
pub(crate) fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = program(folder);
    command.args(arguments).envs(variables.iter().copied());
    end_of(command)
}

/// Runs a command of the program to its end. Kills it after a timeout.
pub(crate) fn end_of(mut command: Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let id = child.id().to_string();
    let (end_sender, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(wait::WAIT_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ended_just_now = Command::new("kill").args(["-KILL", &id]).status();
        }
    });
    let output = child.wait_with_output().expect("it ends");
    drop(end_sender);
    output
}

/// Returns the program's standard output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Returns the program's standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Returns the limit of open files of a process (an id or `self`): a number or `unlimited`.
pub(crate) fn open_files_limit(process: &str) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).expect("the limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.expect("a limit").to_owned()
}

/// The file of [`LogOutput::File`].
pub(crate) const LOG_FILE: &str = "service.log";

/// The standard error of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogOutput {
    /// [`Service::log`] returns the lines.
    Captured,
    /// The file [`LOG_FILE`] in the service's folder.
    File,
    /// A full disk: every write fails.
    FullDisk,
    /// A pipe whose reader has closed it: every write fails.
    ClosedPipe,
    /// A pipe that nothing reads: every write blocks once the pipe is full.
    UnreadPipe,
}

impl LogOutput {
    /// The outputs that lose lines.
    pub(crate) const BROKEN: [Self; 3] = [Self::FullDisk, Self::ClosedPipe, Self::UnreadPipe];

    /// Returns the standard error of a new process, and the reader of an unread pipe.
    fn open(self, folder: &Path) -> (Stdio, Option<PipeReader>) {
        match self {
            Self::Captured => (Stdio::piped(), None),
            Self::File => {
                let file = File::create(folder.join(LOG_FILE));
                (file.expect("the file is created").into(), None)
            }
            Self::FullDisk => {
                let full = File::options().write(true).open("/dev/full");
                (full.expect("the device exists").into(), None)
            }
            Self::ClosedPipe => (pipe().expect("a pipe").1.into(), None),
            Self::UnreadPipe => {
                let (reader, writer) = pipe().expect("a pipe");
                (writer.into(), Some(reader))
            }
        }
    }
}

/// A running `serve` process.
pub(crate) struct Service {
    child: Child,
    /// The webhook port.
    pub(crate) port: u16,
    /// The ops port.
    pub(crate) ops_port: u16,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    /// Keeps an unread pipe open.
    _unread_pipe: Option<PipeReader>,
}

impl Service {
    /// Starts it on free ports and waits until it answers.
    pub(crate) fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        Self::start_on(folder, variables, free_port(), free_port())
    }

    /// Starts it on these ports and waits until it answers.
    pub(crate) fn start_on(
        folder: &Path,
        variables: &[(&str, &str)],
        port: u16,
        ops_port: u16,
    ) -> Self {
        let mut service = Self::launch(folder, variables, port, ops_port);
        service.wait_until_ready();
        service
    }

    /// Starts it on these ports, with this log output, and waits until it answers.
    pub(crate) fn start_logging_to(
        output: LogOutput,
        folder: &Path,
        variables: &[(&str, &str)],
        (port, ops_port): (u16, u16),
    ) -> Self {
        let mut service = Self::launch_logging_to(output, folder, variables, (port, ops_port));
        service.wait_until_ready();
        service
    }

    /// Starts it on these ports without waiting.
    pub(crate) fn launch(
        folder: &Path,
        variables: &[(&str, &str)],
        port: u16,
        ops_port: u16,
    ) -> Self {
        Self::launch_logging_to(LogOutput::Captured, folder, variables, (port, ops_port))
    }

    fn launch_logging_to(
        output: LogOutput,
        folder: &Path,
        variables: &[(&str, &str)],
        (port, ops_port): (u16, u16),
    ) -> Self {
        let command = Command::new("sh");
        Self::spawn(command, output, folder, variables, (port, ops_port))
    }

    /// Starts it on free ports as a user without privileges, and waits until it answers.
    pub(crate) fn start_unprivileged(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        drop_privileges(&mut command);
        let ports = (free_port(), free_port());
        let mut service = Self::spawn(command, LogOutput::Captured, folder, variables, ports);
        service.wait_until_ready();
        service
    }

    fn spawn(
        mut command: Command,
        output: LogOutput,
        folder: &Path,
        variables: &[(&str, &str)],
        (port, ops_port): (u16, u16),
    ) -> Self {
        let (listen, ops) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{ops_port}"));
        // A write beyond the limit of the file size must fail, as on a full disk. Without the trap
        // the signal would end the process.
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\""])
            .arg(path())
            .current_dir(folder)
            .env_clear()
            .stdin(Stdio::null())
            .env("APP__SERVER__LISTEN", listen)
            .env("APP__OPS__LISTEN", ops)
            .envs(variables.iter().copied());
        let (stderr, unread_pipe) = output.open(folder);
        let mut child = command.stderr(stderr).spawn().expect("the program runs");

        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take();
        let reader = stderr.map(|stderr| read_lines(stderr, Arc::clone(&log)));
        Self {
            child,
            port,
            ops_port,
            log,
            reader,
            _unread_pipe: unread_pipe,
        }
    }

    /// Returns the webhook's URL.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, super::app::PATH)
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Waits until the process ends.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait::until("the service ends", || {
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
        let status = self.child.wait().expect("it has ended");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log is read");
        }
        status
    }

    /// Sets a limit of the process, in `prlimit`'s syntax: `--nofile=20:`.
    pub(crate) fn set_limit(&self, limit: &str) {
        let set = Command::new("prlimit")
            .args(["--pid", &self.id().to_string(), limit])
            .status()
            .expect("prlimit runs");
        assert!(set.success(), "{limit} is set");
    }

    /// Returns the number of open files and sockets.
    pub(crate) fn open_files(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        files.expect("it runs").count()
    }

    /// Returns the peak memory, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Returns a URL of the ops listener.
    pub(crate) fn ops_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ops_port)
    }

    /// Returns the lines that it has logged.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    /// Waits until it answers. Panics if it ends.
    pub(crate) fn wait_until_ready(&mut self) {
        wait::until("the service answers", || {
            let is_serving = self.is_serving();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!(
                    "the service ended with {status} before it answered: {:?}",
                    self.log()
                );
            }
            is_serving
        });
    }

    fn is_serving(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        stream
            .set_read_timeout(Some(wait::WAIT_TIMEOUT))
            .expect("the timeout is not zero");
        let mut answer = String::new();
        let sent =
            stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        sent.is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 404")
    }
}

/// Appends the lines of a pipe to the log until the pipe is closed.
fn read_lines(pipe: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            log.lock().expect("no panic").push(line);
        }
    })
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
