//! What a stranger sends to become a node.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::join(data));
