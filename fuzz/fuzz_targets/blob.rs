//! `cargo +nightly fuzz run blob`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::blob(data));
