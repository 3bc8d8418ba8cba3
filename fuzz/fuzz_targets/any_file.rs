//! Hands libFuzzer's bytes to [`sapwood_fuzz::any_file`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::any_file(bytes));
