//! Parses the command line, runs the command, and exits with its code.

use std::process::ExitCode;

use clap::Parser;
use cloudflare_images_webhook::cli::Cli;

/// Several times faster than the C library's where small pieces come and go on many threads, as requests do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
