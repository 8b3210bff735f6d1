//! Invariants of any input. The fuzzer checks them, and so does `tests/spec/fuzz_corpus.rs`.

pub mod config;
pub mod database_url;
pub mod headers;
pub mod message;
pub mod nesting;
pub mod secrets;
pub mod webhook;

#[expect(dead_code, reason = "tests/spec uses all of it")]
#[path = "../../tests/support/signing.rs"]
mod signing;
