//! What must hold of any input. The fuzzer calls it, and so does the specification (`tests/spec/fuzz_corpus.rs`).

pub mod config;
pub mod webhook;

#[expect(dead_code, reason = "the specification uses more of it")]
#[path = "../../tests/support/signing.rs"]
mod signing;
