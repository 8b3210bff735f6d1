//! The fuzz target for the environment and the settings file.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::config::check(input);
});
