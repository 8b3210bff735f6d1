//! The task that passes messages to the worker of an endpoint, and its answers back.
//!
//! It sends messages without waiting for the answers to earlier ones. The worker answers in order. If it ends, the oldest message
//! without an answer has ended it. That message fails, and a new worker gets the others. So each start of a worker costs one
//! message, and a program that ends every worker cannot start them faster than messages arrive.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::{JqError, RUN_LIMIT, TOTAL_LIMIT};
use super::process::{Exchanged, Launcher, PROGRAM_KEYS, Process};
use super::program::Verdict;
use super::protocol::Answer;

/// The limit of messages that wait for an answer of the worker.
const MAX_PENDING: usize = 64;

/// The number of unwritten bytes from which on no further message is added to them.
const MAX_UNWRITTEN_BYTES: usize = 256 * 1024;

/// A message for the programs.
pub(super) struct Job {
    pub(super) message: String,
    pub(super) since: Instant,
    pub(super) answer: oneshot::Sender<Result<(Verdict, String), JqError>>,
}

pub(super) struct Driver {
    launcher: Launcher,
    process: Option<Process>,
    /// The number of programs that the process has not answered for.
    uncompiled: usize,
    /// The messages without an answer, the oldest first.
    pending: VecDeque<Job>,
    /// The number of pending messages that were passed to the process.
    passed: usize,
    /// The time from which the oldest message has its time limit.
    oldest_since: Instant,
}

enum Step {
    Job(Option<Job>),
    Exchanged(Exchanged),
    TimeIsUp,
}

impl Driver {
    pub(super) fn new(launcher: Launcher) -> Self {
        Self {
            launcher,
            process: None,
            uncompiled: 0,
            pending: VecDeque::with_capacity(MAX_PENDING),
            passed: 0,
            oldest_since: Instant::now(),
        }
    }

    /// Runs until the senders of jobs are dropped and every message has its answer.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut is_open = true;
        while is_open || !self.pending.is_empty() {
            self.pass_messages();
            match self.next_step(&mut jobs, is_open).await {
                Step::Job(None) => is_open = false,
                Step::Job(Some(job)) => {
                    self.add(job);
                    // One write can pass many messages.
                    while self.pending.len() < MAX_PENDING
                        && let Ok(job) = jobs.try_recv()
                    {
                        self.add(job);
                    }
                }
                Step::Exchanged(Exchanged::Progress) => self.take_answers().await,
                Step::Exchanged(Exchanged::Ended) => self.restart(JqError::Ended).await,
                Step::TimeIsUp => self.give_up_oldest().await,
            }
        }
    }

    /// Waits for a job, for the process or for the deadline of the oldest message.
    async fn next_step(&mut self, jobs: &mut mpsc::Receiver<Job>, is_open: bool) -> Step {
        let accepts_jobs = is_open && self.pending.len() < MAX_PENDING;
        let deadline = self.pending.front().map(|oldest| self.deadline(oldest));
        let process = self.process.as_mut();
        // Every branch can be cancelled without loss; `exchange` says why.
        tokio::select! {
            job = jobs.recv(), if accepts_jobs => Step::Job(job),
            exchanged = async { process.expect("checked below").exchange().await }, if process.is_some() => Step::Exchanged(exchanged),
            () = tokio::time::sleep_until(deadline.unwrap_or(self.oldest_since)), if deadline.is_some() => Step::TimeIsUp,
        }
    }

    fn deadline(&self, oldest: &Job) -> Instant {
        (self.oldest_since + RUN_LIMIT).min(oldest.since + TOTAL_LIMIT)
    }

    fn add(&mut self, job: Job) {
        // The caller may have stopped waiting while the job was in the queue.
        if job.answer.is_closed() {
            return;
        }
        if self.pending.is_empty() {
            self.oldest_since = Instant::now();
        }
        self.pending.push_back(job);
    }

    /// Passes pending messages to the process, and starts it if there is none.
    fn pass_messages(&mut self) {
        while self.process.is_none() && !self.pending.is_empty() {
            match self.launcher.start() {
                Ok(process) => {
                    self.process = Some(process);
                    self.uncompiled = PROGRAM_KEYS.len();
                    self.passed = 0;
                }
                Err(error) => self.fail_oldest(JqError::NotStarted(error.to_string())),
            }
        }
        let Some(process) = &mut self.process else {
            return;
        };
        for job in self.pending.range(self.passed..) {
            if process.unwritten() > MAX_UNWRITTEN_BYTES {
                break;
            }
            process.push(&job.message);
            self.passed += 1;
        }
    }

    /// Takes the answers that the process has sent.
    async fn take_answers(&mut self) {
        while let Some(process) = &mut self.process {
            let result = match (process.next_answer(), self.uncompiled) {
                (Ok(None), _) => return,
                (Ok(Some(Answer::Compiled)), 1..) => {
                    self.uncompiled -= 1;
                    continue;
                }
                (Ok(Some(Answer::Ran(verdict))), 0) if self.passed > 0 => Ok(verdict),
                (Ok(Some(Answer::Failed(key, failure))), 0) if self.passed > 0 => {
                    Err(JqError::of_failure(key, failure))
                }
                // The programs were checked at the start, so this is a worker that does not work as it should.
                (Ok(Some(_)) | Err(_), _) => return self.restart(JqError::Ended).await,
            };
            self.answer_oldest(result);
        }
    }

    /// Gives up the oldest message after its time limit, because only the end of the process interrupts a program.
    async fn give_up_oldest(&mut self) {
        let took_too_long = self.oldest_since + RUN_LIMIT <= Instant::now();
        self.restart(if took_too_long {
            JqError::TooLong
        } else {
            JqError::WaitedTooLong
        })
        .await;
    }

    /// Ends the process and fails the oldest message. The next worker gets the other messages.
    async fn restart(&mut self, error: JqError) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
        self.passed = 0;
        self.fail_oldest(error);
    }

    fn fail_oldest(&mut self, error: JqError) {
        self.answer_oldest(Err(error));
    }

    fn answer_oldest(&mut self, result: Result<Verdict, JqError>) {
        let Some(job) = self.pending.pop_front() else {
            return;
        };
        self.passed = self.passed.saturating_sub(1);
        self.oldest_since = Instant::now();
        // The caller may have stopped waiting.
        let _caller_is_gone = job
            .answer
            .send(result.map(|verdict| (verdict, job.message)));
    }
}
