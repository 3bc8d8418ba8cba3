//! Hands libFuzzer's bytes to [`sapwood_fuzz::sorted_block`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::sorted_block(bytes));
