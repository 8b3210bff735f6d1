//! Parses the command line, runs the command, and exits with its code.

use std::process::ExitCode;

use clap::Parser;
use cloudflare_images_webhook::cli::Cli;

/// Requests come and go in many small pieces: with the C library's allocator a recorded webhook costs the service a fifth more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
