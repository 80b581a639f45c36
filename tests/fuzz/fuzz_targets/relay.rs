//! The AMT relay fed with a script of datagrams and time.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::relay(data));
