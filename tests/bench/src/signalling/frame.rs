//! Ethernet frames with IPv4, as they are on the wire.

use std::net::{Ipv4Addr, SocketAddrV4};

use vmcast_wire::ipv4;

const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
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
    /// A frame to the far end, or to a group, that carries an IPv4 datagram.
    pub(super) fn frame(&self, to: [u8; 6], datagram: &[u8]) -> Vec<u8> {
        [&to[..], &self.near, &ETHER_TYPE_IPV4, datagram].concat()
    }

    /// A frame to the far end with UDP, which has no checksum (RFC 768).
    pub(super) fn udp(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(UDP_LEN + payload.len()).expect("a short datagram");
        let mut udp = Vec::with_capacity(usize::from(length));
        for word in [from.port(), to.port(), length, 0] {
            udp.extend(word.to_be_bytes());
        }
        udp.extend_from_slice(payload);
        self.frame(self.far, &ipv4::encapsulate(*from.ip(), *to.ip(), TTL, 0, UDP, false, &udp))
    }
}

/// Where to a frame with UDP goes, and what it carries; `None` if it is another one.
pub(super) fn udp(frame: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    let datagram = frame.get(ETHERNET_LEN..).filter(|_| frame.get(12..14) == Some(&ETHER_TYPE_IPV4))?;
    let header = usize::from(datagram.first()? & 0xf) * 4;
    let destination: [u8; 4] = datagram.get(16..20)?.try_into().ok()?;
    let udp = datagram.get(header..).filter(|_| datagram.get(9) == Some(&UDP))?;
    let port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let length = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
    Some((SocketAddrV4::new(Ipv4Addr::from(destination), port), udp.get(UDP_LEN..length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_a_frame_comes_out_of_it() {
        let cable = Cable { near: [2, 0, 0, 0, 0, 1], far: [2, 0, 0, 0, 0, 2] };
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 7_000);
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 2_268);
        let mut frame = cable.udp(from, to, b"hello");
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        // A short frame is filled up on the wire.
        frame.extend([0; 13]);
        assert_eq!(udp(&frame), Some((to, &b"hello"[..])));
        assert_eq!(udp(&frame[..40]), None);
    }
}
