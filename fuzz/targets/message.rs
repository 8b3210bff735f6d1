//! The fuzz target for events on their way through field filters and jq programs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::message::check(input);
});
