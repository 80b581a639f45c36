//! The AMTRELAY codec over arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::amtrelay(data));
