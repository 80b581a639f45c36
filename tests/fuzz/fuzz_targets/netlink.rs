//! The readers of rtnetlink over arbitrary messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::netlink(data));
