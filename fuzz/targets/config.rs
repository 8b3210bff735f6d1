//! Any environment and any file of settings.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::config::check(input);
});
