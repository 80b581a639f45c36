//! The AMT gateway fed with a script of datagrams, joins and time.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::gateway(data));
