//! The fuzz target for secrets.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::secrets::check(input);
});
