//! The fuzz target for the headers of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::headers::check(input);
});
