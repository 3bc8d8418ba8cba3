//! Hands libFuzzer's bytes to [`sapwood_fuzz::changed_file`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::changed_file(bytes));
