//! Bodies of the fuzz targets: each takes arbitrary bytes and panics only if an invariant breaks.
//!
//! A checksum stops nearly all of what a fuzzer makes up. So every body looks at the bytes as they
//! are and once more with a checksum that fits.

#![forbid(unsafe_code)]

use std::net::Ipv6Addr;

mod amt;
mod amtrelay;
mod config;
mod control;
mod discovery;
mod etcd_row;
mod forward;
mod gateway;
mod host_packet;
mod igmp;
mod ipv4;
mod ipv6;
mod join;
mod line;
mod mld;
mod netlink;
mod prober;
mod querier;
mod registry;
mod relay;
mod script;
pub mod seeds;

pub use amt::amt;
pub use amtrelay::amtrelay;
pub use config::config;
pub use control::control;
pub use discovery::discovery;
pub use etcd_row::etcd_row;
pub use forward::forward;
pub use gateway::gateway;
pub use host_packet::host_packet;
pub use igmp::igmp;
pub use ipv4::ipv4;
pub use ipv6::ipv6;
pub use join::join;
pub use line::line;
pub use mld::mld;
pub use netlink::netlink;
pub use prober::prober;
pub use querier::querier;
pub use registry::registry;
pub use relay::relay;

/// The checksum over bytes whose own checksum field is zero (RFC 1071). The sum holds 128 KiB, far
/// more than an input has.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    vmcast_common::checksum::fold(bytes.chunks(2).map(word).sum()).to_be_bytes()
}

/// Writes a checksum over `bytes` at `at`, if there is room for one.
fn seal(bytes: &mut [u8], at: usize) {
    if bytes.len() >= at + 2 {
        bytes[at..at + 2].fill(0);
        let sum = checksum(bytes);
        bytes[at..at + 2].copy_from_slice(&sum);
    }
}

/// Writes the checksum of an IPv4 header that starts `bytes`, as far as there is one.
fn seal_ipv4(bytes: &mut [u8]) {
    let header_len = usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
    if let Some(header) = bytes.get_mut(..header_len) {
        seal(header, 10);
    }
}

/// Writes the checksum of an ICMPv6 message, over its pseudo-header too (RFC 8200 §8.1).
fn seal_icmpv6(source: Ipv6Addr, destination: Ipv6Addr, message: &mut [u8]) {
    if message.len() < 4 {
        return;
    }
    message[2..4].fill(0);
    let length = (message.len() as u32).to_be_bytes();
    let all = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58], message].concat();
    message[2..4].copy_from_slice(&checksum(&all));
}
