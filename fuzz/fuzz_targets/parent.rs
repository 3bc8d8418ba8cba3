//! Hands libFuzzer's bytes to [`sapwood_fuzz::parent`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::parent(bytes));
