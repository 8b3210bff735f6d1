//! The fuzz target for deeply nested JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::nesting::check(input);
});
