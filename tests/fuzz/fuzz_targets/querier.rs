//! The IGMP querier fed with a script of messages and time.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::querier(data));
