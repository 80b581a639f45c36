//! Packets that a host sends on its agent's interface.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::host_packet(data));
