//! The forwarding decision over arbitrary frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::forward(data));
