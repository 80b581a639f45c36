//! The discovery of relays by DNS fed with a script of answers, datagrams and time.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::discovery(data));
