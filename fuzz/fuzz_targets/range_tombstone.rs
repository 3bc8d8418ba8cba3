//! Hands libFuzzer's bytes to [`sapwood_fuzz::range_tombstone`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::range_tombstone(bytes));
