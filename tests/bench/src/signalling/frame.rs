//! Ethernet frames with IPv4 or IPv6, as they are on the wire.

use std::net::{IpAddr, SocketAddr};

use vmcast_wire::{ipv4, ipv6};

use super::family::Family;

const ETHERNET_LEN: usize = 14;
const UDP: u8 = 17;
const UDP_LEN: usize = 8;
const TTL: u8 = 64;

/// The two ends of a cable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cable {
    pub(super) near: [u8; 6],
    pub(super) far: [u8; 6],
}

impl Cable {
    /// A frame to the far end, or to a group, that carries a datagram.
    pub(super) fn frame(&self, to: [u8; 6], family: Family, datagram: &[u8]) -> Vec<u8> {
        [&to[..], &self.near, &family.ether_type().to_be_bytes(), datagram].concat()
    }

    /// A frame to the far end with UDP, which has no checksum: relays take that over IPv6, too (RFC 6935 §5).
    pub(super) fn udp(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(UDP_LEN + payload.len()).expect("a short datagram");
        let mut udp = Vec::with_capacity(usize::from(length));
        for word in [from.port(), to.port(), length, 0] {
            udp.extend(word.to_be_bytes());
        }
        udp.extend_from_slice(payload);
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.frame(self.far, Family::V4, &ipv4::encapsulate(from, to, TTL, 0, UDP, false, &udp))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.frame(self.far, Family::V6, &ipv6::encapsulate(from, to, TTL, 0, UDP, false, &udp))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("both ends of one family")
            }
        }
    }
}

/// Where to a frame with UDP goes, and what it carries; `None` if it is another one.
pub(super) fn udp(frame: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let datagram = frame.get(ETHERNET_LEN..)?;
    let (destination, udp): (IpAddr, _) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(datagram.first()? & 0xf) * 4;
            let to: [u8; 4] = datagram.get(16..20)?.try_into().ok()?;
            (to.into(), datagram.get(header..).filter(|_| datagram.get(9) == Some(&UDP))?)
        }
        [0x86, 0xdd] => {
            let to: [u8; 16] = datagram.get(24..40)?.try_into().ok()?;
            (to.into(), datagram.get(40..).filter(|_| datagram.get(6) == Some(&UDP))?)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let length = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
    Some((SocketAddr::new(destination, port), udp.get(UDP_LEN..length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_a_frame_comes_out_of_it() {
        let cable = Cable { near: [2, 0, 0, 0, 0, 1], far: [2, 0, 0, 0, 0, 2] };
        for (from, to) in [("192.0.2.1:7000", "192.0.2.2:2268"), ("[2001:db8::1]:7000", "[2001:db8::2]:2268")]
        {
            let [from, to] = [from, to].map(|end| end.parse().expect("an address and a port"));
            let mut frame = cable.udp(from, to, b"hello");
            assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
            let whole = frame.len();
            // A short frame is filled up on the wire.
            frame.extend([0; 13]);
            assert_eq!(udp(&frame), Some((to, &b"hello"[..])));
            assert_eq!(udp(&frame[..whole - 1]), None);
        }
    }
}
