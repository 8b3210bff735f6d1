//! The jq programs of an endpoint, run in a worker process with limits for time, memory and output.
//!
//! A program can overflow the stack, use up the memory or run for ever. None of this can be stopped from within a process. So each
//! endpoint with programs has a child process of the same executable. It starts with the first message and is replaced when it
//! ends or is killed.
//!
//! ```text
//! MessageBuilder ──► JqPrograms ──job──► Driver ──frames──► worker process
//!                        ▲                 │                   (limits, program)
//!                        └────answer───────┘
//! ```

mod driver;
mod error;
mod limits;
mod process;
mod program;
mod protocol;
mod worker;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use driver::{Driver, Job};
use error::{RUN_LIMIT, TOTAL_LIMIT};
use process::{Exchanged, Launcher, PROGRAM_KEYS, Process};
use protocol::{Answer, MAX_MESSAGE_BYTES};

pub(super) use error::JqError;
pub use program::{Failure, ProgramKey, Programs, Verdict};
pub use worker::run_worker;

/// The limit of a program's length.
const MAX_PROGRAM_BYTES: usize = 64 * 1024;

/// The limit of messages that wait for the driver.
const MAX_QUEUED: usize = 64;

/// The programs of one endpoint.
pub(super) struct JqPrograms {
    launcher: Launcher,
    /// The queue of the driver. `None` before the first message.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

impl JqPrograms {
    /// Returns the programs. `None` if both are empty. The error is a clause that names the setting. [`check`](Self::check)
    /// finds other errors.
    pub(super) fn new(
        executable: &Arc<Path>,
        when: &str,
        transform: &str,
    ) -> Result<Option<Self>, String> {
        for (key, code) in PROGRAM_KEYS.into_iter().zip([when, transform]) {
            if code.len() > MAX_PROGRAM_BYTES {
                let name = key.name();
                return Err(format!("`{name}` is longer than {MAX_PROGRAM_BYTES} bytes"));
            }
        }
        let has_program = [when, transform].iter().any(|code| !code.trim().is_empty());
        Ok(has_program.then(|| Self {
            launcher: Launcher {
                executable: Arc::clone(executable),
                when: when.to_owned(),
                transform: transform.to_owned(),
            },
            jobs: Mutex::default(),
        }))
    }

    /// Runs the programs on a message. Returns the message too, because the caller may still need it.
    pub(super) async fn run(&self, message: String) -> Result<(Verdict, String), JqError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(JqError::MessageTooLarge);
        }
        let since = Instant::now();
        let (sender, answer) = oneshot::channel();
        let job = Job {
            message,
            since,
            answer: sender,
        };
        let jobs = self.driver();
        let answered = async {
            // Both fail only after a panic of the driver. The next message starts a new one.
            jobs.send(job).await.map_err(|_| JqError::Ended)?;
            answer.await.map_err(|_| JqError::Ended)?
        };
        let answered = timeout_at(since + TOTAL_LIMIT, answered).await;
        answered.unwrap_or(Err(JqError::WaitedTooLong))
    }

    /// Returns the queue of the driver. Starts the driver if it does not run.
    fn driver(&self) -> mpsc::Sender<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = jobs.as_ref().filter(|jobs| !jobs.is_closed()) {
            return running.clone();
        }
        let (sender, receiver) = mpsc::channel(MAX_QUEUED);
        // The task ends when the endpoint is dropped, or with the runtime. Then its worker is killed.
        tokio::spawn(Driver::new(self.launcher.clone()).run(receiver));
        *jobs = Some(sender.clone());
        sender
    }

    /// Compiles the programs in a worker of its own. The error is a clause that names the setting.
    pub(in crate::relay) async fn check(&self) -> Result<(), String> {
        let process = self.launcher.start();
        let mut process = process.map_err(|error| {
            format!("the process for its jq programs cannot be started: {error}")
        })?;
        let deadline = Instant::now() + RUN_LIMIT;
        for key in PROGRAM_KEYS {
            let name = key.name();
            let problem = match timeout_at(deadline, next_answer(&mut process)).await {
                Ok(Some(Answer::Compiled)) => continue,
                Ok(Some(Answer::Invalid(problem))) => problem,
                Ok(Some(Answer::Ran(_) | Answer::Failed(..)) | None) => {
                    let status = process.wait_or_kill().await;
                    match status.filter(|status| status.signal().is_none()) {
                        Some(status) => {
                            return Err(format!(
                                "the process for its jq programs does not work: it ended with {status}"
                            ));
                        }
                        None => "it is nested too deeply or too large".to_owned(),
                    }
                }
                Err(_elapsed) => "compiling it takes too long".to_owned(),
            };
            return Err(format!("`{name}` is not a valid jq program: {problem}"));
        }
        process.kill().await;
        Ok(())
    }
}

/// Waits for the next answer. Returns `None` if the process ended or sent something else.
async fn next_answer(process: &mut Process) -> Option<Answer> {
    loop {
        if let Some(answer) = process.next_answer().ok()? {
            return Some(answer);
        }
        match process.exchange().await {
            Exchanged::Progress => {}
            Exchanged::Ended => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of running a program with this executable instead of the service's own, and of checking it.
    async fn run_with(executable: &str) -> (JqError, String) {
        let executable = Arc::from(Path::new(executable));
        let programs = JqPrograms::new(&executable, ".", "").expect("a short program");
        let programs = programs.expect("a program");
        let first = programs.run("{}".to_owned()).await;
        let second = programs.run("{}".to_owned()).await;
        assert_eq!(first, second);
        let problem = programs.check().await.expect_err("a problem");
        (first.expect_err("an error"), problem)
    }

    #[tokio::test]
    async fn says_that_no_process_can_be_started() {
        let (error, problem) = run_with("/nonexistent/program").await;

        assert_eq!(
            error.to_string(),
            "the process for the jq program cannot be started: No such file or directory (os error 2)"
        );
        assert_eq!(
            problem,
            "the process for its jq programs cannot be started: No such file or directory (os error 2)"
        );
    }

    #[tokio::test]
    async fn distrusts_the_process() {
        let (error, problem) = run_with("false").await;
        assert_eq!(error, JqError::Ended);
        assert_eq!(
            problem,
            "the process for its jq programs does not work: it ended with exit status: 1"
        );

        // It prints its argument without end.
        let (error, _) = run_with("yes").await;
        assert_eq!(error, JqError::Ended);
    }

    #[tokio::test]
    async fn refuses_large_programs_and_messages() {
        let executable = Arc::from(Path::new("false"));
        let long = "1".repeat(MAX_PROGRAM_BYTES);
        assert!(JqPrograms::new(&executable, &long, "").is_ok());
        assert_eq!(
            JqPrograms::new(&executable, ".", &format!("{long}1")).err(),
            Some("`transform` is longer than 65536 bytes".to_owned())
        );

        let programs = JqPrograms::new(&executable, ".", "").expect("a short program");
        let large = " ".repeat(MAX_MESSAGE_BYTES + 1);
        assert_eq!(
            programs.expect("a program").run(large).await,
            Err(JqError::MessageTooLarge)
        );
    }
}
