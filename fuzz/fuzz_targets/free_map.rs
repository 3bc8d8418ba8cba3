//! Hands libFuzzer's bytes to [`sapwood_fuzz::free_map`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::free_map(bytes));
