//! Hands libFuzzer's bytes to [`sapwood_fuzz::history`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::history(bytes));
