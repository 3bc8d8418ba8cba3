//! Hands libFuzzer's bytes to [`sapwood_fuzz::state`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::state(bytes));
