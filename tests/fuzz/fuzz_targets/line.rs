//! What is said on the line between a VMR and the admin.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::line(data));
