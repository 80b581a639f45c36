//! The admin's calls fed with a script of protobuf messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::registry(data));
