//! The configuration files over arbitrary text.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::config(data));
