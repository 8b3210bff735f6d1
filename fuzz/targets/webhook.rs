//! Any request to the webhook.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    harness::webhook::check(input);
});
