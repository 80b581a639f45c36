//! The control socket over arbitrary lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::control(data));
