//! The worker process: runs the jq programs of one endpoint on the messages from its standard input.
//!
//! The service starts it as the hidden command `jq-worker` and kills it when a message takes too long. It starts no runtime and no
//! log, and opens no database. An overflow of its stack or too much memory ends only this process.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;

use super::limits;
use super::program::{ProgramKey, Programs};
use super::protocol::{Answer, read_frame};

/// The stack of the thread that compiles and runs programs. jaq's functions call themselves once or more for each level of a
/// message.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// The size of the buffer for messages. One read call can get many messages.
const INPUT_BUFFER_BYTES: usize = 64 * 1024;

/// Runs the worker until its standard input ends.
pub fn run_worker() -> ExitCode {
    // A worker without limits must not run a program.
    if limits::limit_process().is_err() {
        return ExitCode::FAILURE;
    }
    let serving = thread::Builder::new().stack_size(STACK_BYTES).spawn(serve);
    match serving.map(thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(_)) | Err(_)) | Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut input = BufReader::with_capacity(INPUT_BUFFER_BYTES, &mut input);
    let mut frame = Vec::new();

    let mut programs = Programs::default();
    for key in [ProgramKey::When, ProgramKey::Transform] {
        let Some(code) = read_frame(&mut input)? else {
            return Ok(());
        };
        let compiled = programs.add(key, &code);
        let answer = compiled.map_or_else(Answer::Invalid, |()| Answer::Compiled);
        write_answer(&answer, &mut frame, &mut output)?;
    }
    while let Some(message) = read_frame(&mut input)? {
        limits::renew_cpu_limit()?;
        let answer = match programs.run(&message) {
            Ok(verdict) => Answer::Ran(verdict),
            Err((key, failure)) => Answer::Failed(key, failure),
        };
        // The answers of several messages are not written together: if a later message kills this process, the service must
        // know which one it was.
        write_answer(&answer, &mut frame, &mut output)?;
    }
    Ok(())
}

fn write_answer(answer: &Answer, frame: &mut Vec<u8>, output: &mut File) -> io::Result<()> {
    frame.clear();
    answer.push(frame);
    output.write_all(frame)
}
