//! Map keys.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::fib::{IfIndex, Input, Stream, TunnelId};

/// An address as 16 bytes in network order, IPv4 mapped into IPv6.
#[must_use]
pub const fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_bytes(v4),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Reads [`address_bytes`] back.
#[must_use]
pub fn address_from_bytes(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// [`address_bytes`] of an IPv4 address.
#[inline(always)]
#[must_use]
pub const fn v4_bytes(address: Ipv4Addr) -> [u8; 16] {
    let [a, b, c, d] = address.octets();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// A stream: (S,G), or (*,G) with a source of all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct StreamKey {
    /// Source address, all zeros for (*,G).
    pub source: [u8; 16],
    /// Group address.
    pub group: [u8; 16],
}
const _: () = assert!(size_of::<StreamKey>() == 32);

impl StreamKey {
    /// No stream at all.
    pub const NONE: Self = Self { source: [0; 16], group: [0; 16] };

    /// The (S,G) of a packet.
    #[inline(always)]
    #[must_use]
    pub const fn v4(source: Ipv4Addr, group: Ipv4Addr) -> Self {
        Self { source: v4_bytes(source), group: v4_bytes(group) }
    }

    /// The (*,G) of the same group.
    #[inline(always)]
    #[must_use]
    pub const fn any_source(&self) -> Self {
        Self { source: [0; 16], group: self.group }
    }
}

impl From<Stream> for StreamKey {
    fn from(stream: Stream) -> Self {
        Self { source: stream.source.map_or([0; 16], address_bytes), group: address_bytes(stream.group) }
    }
}

impl From<StreamKey> for Stream {
    fn from(key: StreamKey) -> Self {
        let source = (key.source != [0; 16]).then(|| address_from_bytes(key.source));
        Self { source, group: address_from_bytes(key.group) }
    }
}

/// A tunnel by its outer addresses, as the packets that come out of it carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TunnelKey {
    /// Our address: the outer destination.
    pub local: [u8; 16],
    /// The far end's address: the outer source.
    pub remote: [u8; 16],
    /// Our port, network order.
    pub local_port: [u8; 2],
    /// The far end's port, network order.
    pub remote_port: [u8; 2],
}
const _: () = assert!(size_of::<TunnelKey>() == 36);

impl TunnelKey {
    /// The key of a tunnel between two endpoints.
    #[must_use]
    pub const fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local: address_bytes(local.ip()),
            remote: address_bytes(remote.ip()),
            local_port: local.port().to_be_bytes(),
            remote_port: remote.port().to_be_bytes(),
        }
    }
}

/// One of our tunnel endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// Our address.
    pub address: [u8; 16],
    /// Our port, network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
}
const _: () = assert!(size_of::<EndpointKey>() == 20);

impl EndpointKey {
    /// The key of an address and port.
    #[must_use]
    pub const fn new(endpoint: SocketAddr) -> Self {
        Self { address: address_bytes(endpoint.ip()), port: endpoint.port().to_be_bytes(), reserved: [0; 2] }
    }
}

/// The first member of a table on one egress device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HeadKey {
    /// Member table.
    pub table: u32,
    /// Egress device.
    pub ifindex: u32,
}
const _: () = assert!(size_of::<HeadKey>() == 8);

/// An [`Input`] as a number: an interface as its ifindex, a tunnel with the top bit set, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct InputId(pub u32);

impl InputId {
    /// No input: in a stream's entry, the rule [`crate::fib::Rpf::AnyUpstream`].
    pub const NONE: Self = Self(0);
    const TUNNEL: u32 = 1 << 31;

    /// The number of an interface.
    #[inline(always)]
    #[must_use]
    pub const fn interface(ifindex: u32) -> Self {
        Self(ifindex)
    }

    /// The number of a tunnel.
    #[inline(always)]
    #[must_use]
    pub const fn tunnel(id: u32) -> Self {
        Self(id | Self::TUNNEL)
    }

    /// Reads the number back, `None` for [`InputId::NONE`].
    #[must_use]
    pub const fn input(self) -> Option<Input> {
        if self.0 == 0 {
            None
        } else if self.0 & Self::TUNNEL != 0 {
            Some(Input::Tunnel(TunnelId(self.0 & !Self::TUNNEL)))
        } else {
            Some(Input::Interface(IfIndex(self.0)))
        }
    }
}

impl From<Input> for InputId {
    fn from(input: Input) -> Self {
        match input {
            Input::Interface(ifindex) => Self::interface(ifindex.0),
            Input::Tunnel(id) => Self::tunnel(id.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fib::IfIndex;

    proptest! {
        #[test]
        fn streams_are_read_back_from_their_keys(source: Option<u32>, group in 0xe000_0000u32..0xf000_0000) {
            let address = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
            let stream = Stream { source: source.map(address), group: address(group) };
            prop_assert_eq!(Stream::from(StreamKey::from(stream)), stream);
        }

        #[test]
        fn inputs_are_read_back_from_their_numbers(number in 1u32..1 << 31, tunnel: bool) {
            let input =
                if tunnel { Input::Tunnel(TunnelId(number)) } else { Input::Interface(IfIndex(number)) };
            prop_assert_eq!(InputId::from(input).input(), Some(input));
        }
    }

    #[test]
    fn a_source_of_all_zeros_is_not_any_source() {
        let group = Ipv4Addr::new(232, 1, 1, 1);
        let key = StreamKey::v4(Ipv4Addr::UNSPECIFIED, group);
        assert_ne!(key, key.any_source());
        assert_eq!(Stream::from(key.any_source()).source, None);
        assert_eq!(InputId::NONE.input(), None);
    }

    #[test]
    fn tunnel_0_is_an_input_and_differs_from_every_interface() {
        assert_eq!(InputId::tunnel(0).input(), Some(Input::Tunnel(TunnelId(0))));
        assert_ne!(InputId::tunnel(0), InputId::NONE);
    }
}
