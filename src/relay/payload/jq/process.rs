//! A worker process, as the service sees it.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::program::ProgramKey;
use super::protocol::{Answer, InvalidAnswer, push_frame, take_answer};

/// The hidden command that [`run_worker`](super::run_worker) implements.
const COMMAND: &str = "jq-worker";

/// The address space that the allocator reserves at once. By default it reserves more than the worker may use.
const ALLOCATOR_SETTING: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "64MiB");

/// The limit of waiting for a killed process. It usually ends within a millisecond.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The capacity that the buffer for messages keeps.
const OUTPUT_BUFFER_BYTES: usize = 1024 * 1024;

/// The capacity of the buffer for answers.
const INPUT_BUFFER_BYTES: usize = 64 * 1024;

/// The command that starts workers, and the programs that they run.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    /// The path of this service's own program.
    pub(super) executable: Arc<Path>,
    pub(super) when: String,
    pub(super) transform: String,
}

/// A running worker. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// The frames that are not written yet.
    output: Vec<u8>,
    /// The number of bytes of `output` that are written.
    written: usize,
    /// The bytes that were read and are no complete answer yet.
    input: BytesMut,
}

/// The result of [`Process::exchange`].
pub(super) enum Exchanged {
    /// Bytes were read or written.
    Progress,
    /// The worker ended.
    Ended,
}

impl Launcher {
    /// Starts a worker and prepares the frames with its programs.
    pub(super) fn start(&self) -> io::Result<Process> {
        let mut command = Command::new(&*self.executable);
        command
            .arg0(env!("CARGO_PKG_NAME"))
            .arg(COMMAND)
            .env_clear()
            .env(ALLOCATOR_SETTING.0, ALLOCATOR_SETTING.1)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal reaches the whole process group. The deliveries in progress still need the worker.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).ok_or_else(|| {
            io::Error::other("the standard streams of the new process are missing")
        })?;
        let mut process = Process {
            child,
            stdin,
            stdout,
            output: Vec::new(),
            written: 0,
            input: BytesMut::with_capacity(INPUT_BUFFER_BYTES),
        };
        process.push(&self.when);
        process.push(&self.transform);
        Ok(process)
    }
}

impl Process {
    /// Adds a frame to the bytes that [`exchange`](Self::exchange) writes.
    pub(super) fn push(&mut self, content: &str) {
        push_frame(&mut self.output, content.as_bytes());
    }

    /// Returns the number of bytes that are not written yet.
    pub(super) fn unwritten(&self) -> usize {
        self.output.len() - self.written
    }

    /// Waits until bytes can be read or written, and reads or writes them. Cancelling it loses no bytes, because one call to
    /// `read_buf` or `write` that is cancelled has transferred nothing.
    pub(super) async fn exchange(&mut self) -> Exchanged {
        let transferred = tokio::select! {
            read = self.stdout.read_buf(&mut self.input) => read,
            written = self.stdin.write(&self.output[self.written..]), if self.written < self.output.len() => {
                written.inspect(|written| self.written += written)
            }
        };
        if self.written == self.output.len() {
            self.output.clear();
            // One large message should not keep its memory.
            self.output.shrink_to(OUTPUT_BUFFER_BYTES);
            self.written = 0;
        }
        match transferred {
            Ok(0) | Err(_) => Exchanged::Ended,
            Ok(_) => Exchanged::Progress,
        }
    }

    /// Returns the next answer that was read.
    pub(super) fn next_answer(&mut self) -> Result<Option<Answer>, InvalidAnswer> {
        take_answer(&mut self.input)
    }

    /// Waits for the end of a process whose streams have ended, and kills it if it does not end. Returns its status.
    ///
    /// A process closes its streams before its status is known. Killing it in between would hide the status.
    pub(super) async fn wait_or_kill(mut self) -> Option<ExitStatus> {
        match tokio::time::timeout(KILL_TIMEOUT, self.child.wait()).await {
            Ok(ended) => ended.ok(),
            Err(_elapsed) => self.kill().await,
        }
    }

    /// Kills the process and waits for its end. Returns its status, if it ended in time.
    pub(super) async fn kill(mut self) -> Option<ExitStatus> {
        // A process that has ended already keeps its status.
        let _ended_already = self.child.start_kill();
        let ended = tokio::time::timeout(KILL_TIMEOUT, self.child.wait()).await;
        ended.ok()?.ok()
    }
}

/// Returns the programs in the order in which a worker gets them and answers for them.
pub(super) const PROGRAM_KEYS: [ProgramKey; 2] = [ProgramKey::When, ProgramKey::Transform];
