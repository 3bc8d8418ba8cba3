//! Hands libFuzzer's bytes to [`sapwood_fuzz::header_slot`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz::header_slot(bytes));
