//! What the kernel program and the host share: header views, map layouts, the forwarding decision
//! and the rewrite of each copy. `no_std`, no allocation, no I/O.
//!
//! Numbers in map types are native-endian unless a field says network order; addresses are 16 bytes
//! in network order, IPv4 as an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

pub mod checksum;
pub mod fib;
pub mod forward;
pub mod hdr;
pub mod maps;
pub mod packet;
pub mod rate;
pub mod rewrite;
pub mod shares;
pub mod verdict;

/// UDP port of AMT relays and, in vmcast, of gateways too (RFC 7450 §7.2).
pub const AMT_PORT: u16 = 2268;
