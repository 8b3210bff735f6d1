//! The documentation: its commands and programs run, and its reference pages say what the code
//! says.

#[expect(dead_code, reason = "only some of it is needed here")]
#[path = "../support/mod.rs"]
mod support;

mod command_line;
mod configuration;
mod configuration_files;
mod generated;
mod guides;
mod message_length;
mod metrics;
mod names;
mod pages;
mod problems_and_logs;
mod shell_blocks;
mod supply_chain;
