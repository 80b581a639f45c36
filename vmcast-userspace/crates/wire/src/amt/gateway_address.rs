//! The gateway address fields of Membership Query and Teardown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::field;

/// The address and port a gateway's Request came from, as the relay saw it (RFC 7450 §5.1.4.9).
///
/// The 16 bytes of the address are kept as they arrived: a relay may compute its Response MAC over
/// them, so a gateway must give back the very same.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///                                 +-------------------------------+
///                                 |      Gateway Port Number      |
/// +-------------------------------+-------------------------------+
/// |                                                               |
/// |      Gateway IP Address (IPv6, or IPv4-compatible IPv6)       |
/// |                                                               |
/// |                                                               |
/// +---------------------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    port: u16,
    address: [u8; 16],
}

impl GatewayAddress {
    /// Reads the fields from the bytes that hold them.
    pub(super) fn from_bytes(bytes: &[u8; field::GATEWAY_LEN]) -> Self {
        let [high, low, address @ ..] = bytes;
        Self { port: u16::from_be_bytes([*high, *low]), address: *address }
    }

    /// Appends the fields.
    pub(super) fn emit(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.port.to_be_bytes());
        buffer.extend_from_slice(&self.address);
    }

    /// The address and port these fields speak of. Twelve zero bytes in front mean IPv4
    /// (IPv4-compatible, RFC 7450 §5.1.4.9.2), and an IPv4-mapped address is taken as IPv4 too.
    #[must_use]
    pub fn socket_addr(&self) -> SocketAddr {
        let v6 = Ipv6Addr::from(self.address);
        let ip = match (self.address, v6.to_ipv4_mapped()) {
            (_, Some(v4)) => IpAddr::V4(v4),
            ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d], None) if !v6.is_loopback() => {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            (_, None) => IpAddr::V6(v6),
        };
        SocketAddr::new(ip, self.port)
    }
}

impl From<SocketAddr> for GatewayAddress {
    fn from(address: SocketAddr) -> Self {
        let bytes = match address.ip() {
            IpAddr::V4(v4) => {
                let mut bytes = [0; 16];
                bytes[12..].copy_from_slice(&v4.octets());
                bytes
            }
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { port: address.port(), address: bytes }
    }
}
