//! Datagrams of AMT whose sender is whoever a test says, in frames.

use std::net::{IpAddr, SocketAddr};

use vmcast_wire::{ipv4, ipv6};

use super::untouched::internet_checksum;

const UDP: u8 = 17;

/// A frame with a UDP datagram for the host that has this link-layer address.
///
/// # Panics
/// If both ends are not of one family.
pub(super) fn frame(to_mac: [u8; 6], from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram");
    let mut udp: Vec<u8> =
        [from.port(), to.port(), length, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    udp.extend(payload);
    let (ether_type, datagram) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ([0x08, 0x00], ipv4::encapsulate(from, to, 9, 0, UDP, false, &udp))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            // IPv6 has no checksum of its own (RFC 8200 §8.1).
            let pseudo =
                [&from.octets()[..], &to.octets(), &u32::from(length).to_be_bytes(), &[0, 0, 0, UDP], &udp];
            let checksum = internet_checksum(&pseudo.concat());
            udp[6..8].copy_from_slice(&checksum.to_be_bytes());
            ([0x86, 0xdd], ipv6::encapsulate(from, to, 9, 0, UDP, false, &udp))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("both ends are of one family")
        }
    };
    [&to_mac[..], &[2, 0, 0, 0, 0, 9], &ether_type, &datagram].concat()
}
