//! The fuzz target for webhook requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::webhook::check(input);
});
