//! Parses the command line, runs the command, and exits with its code.

use std::process::ExitCode;

use clap::Parser;
use cloudflare_images_webhook::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
