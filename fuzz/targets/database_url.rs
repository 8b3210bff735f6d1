//! The fuzz target for database URLs and passwords.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::database_url::check(input);
});
