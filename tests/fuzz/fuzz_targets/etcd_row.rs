//! Keys and values of a registry in etcd.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmcast_fuzz::etcd_row(data));
