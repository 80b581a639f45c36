//! Map keys.

use core::net::{Ipv4Addr, SocketAddr};

use super::Address;
use crate::{
    fib::{IfIndex, Input, Interface, Stream, Tunnel, TunnelId, TunnelKind},
    hdr::link::LinkId,
};

/// A stream: (S,G), or (*,G) with a source of all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct StreamKey {
    /// Source address, all zeros for (*,G).
    pub source: Address,
    /// Group address.
    pub group: Address,
}
const _: () = assert!(size_of::<StreamKey>() == 32);

impl StreamKey {
    /// No stream at all.
    pub const NONE: Self = Self { source: Address::NONE, group: Address::NONE };

    /// The (S,G) of a packet.
    #[inline(always)]
    #[must_use]
    pub const fn v4(source: Ipv4Addr, group: Ipv4Addr) -> Self {
        Self { source: Address::v4(source), group: Address::v4(group) }
    }

    /// The (*,G) of the same group.
    #[inline(always)]
    #[must_use]
    pub const fn any_source(&self) -> Self {
        Self { source: Address::NONE, group: self.group }
    }
}

impl From<Stream> for StreamKey {
    fn from(stream: Stream) -> Self {
        Self { source: stream.source.map_or(Address::NONE, Address::new), group: Address::new(stream.group) }
    }
}

impl From<StreamKey> for Stream {
    fn from(key: StreamKey) -> Self {
        let source = (key.source != Address::NONE).then(|| key.source.ip());
        Self { source, group: key.group.ip() }
    }
}

/// A tunnel by its outer addresses, as the packets that come out of it carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TunnelKey {
    /// Our address: the outer destination.
    pub local: Address,
    /// The far end's address: the outer source.
    pub remote: Address,
    /// Our port, network order.
    pub local_port: [u8; 2],
    /// The far end's port, network order.
    pub remote_port: [u8; 2],
    /// The encapsulation, one of the `KIND_` constants.
    pub kind: u32,
}
const _: () = assert!(size_of::<TunnelKey>() == 40);

impl TunnelKey {
    /// No tunnel: a datagram that is no AMT data.
    pub const KIND_DATAGRAM: u32 = 0;
    /// AMT.
    pub const KIND_AMT: u32 = 1;
    /// GRE without a key.
    pub const KIND_GRE: u32 = 2;
    /// GRE with a key, which stands in the place of the ports.
    pub const KIND_GRE_KEY: u32 = 3;
    /// IP in IP.
    pub const KIND_IPIP: u32 = 4;

    /// The key of a tunnel.
    #[must_use]
    pub const fn new(tunnel: &Tunnel) -> Self {
        let (kind, [a, b, c, d]) = match tunnel.kind {
            TunnelKind::Amt => {
                let ([a, b], [c, d]) =
                    (tunnel.local.port().to_be_bytes(), tunnel.remote.port().to_be_bytes());
                (Self::KIND_AMT, [a, b, c, d])
            }
            TunnelKind::Gre(None) => (Self::KIND_GRE, [0; 4]),
            TunnelKind::Gre(Some(key)) => (Self::KIND_GRE_KEY, key.to_be_bytes()),
            TunnelKind::Ipip => (Self::KIND_IPIP, [0; 4]),
        };
        Self {
            local: Address::new(tunnel.local.ip()),
            remote: Address::new(tunnel.remote.ip()),
            local_port: [a, b],
            remote_port: [c, d],
            kind,
        }
    }

    /// The encapsulation and both ends, ours first; `None` if the kind is unknown.
    #[must_use]
    pub fn ends(&self) -> Option<(TunnelKind, SocketAddr, SocketAddr)> {
        let [a, b] = self.local_port;
        let [c, d] = self.remote_port;
        let (kind, local_port, remote_port) = match self.kind {
            Self::KIND_AMT => (TunnelKind::Amt, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            Self::KIND_GRE => (TunnelKind::Gre(None), 0, 0),
            Self::KIND_GRE_KEY => (TunnelKind::Gre(Some(u32::from_be_bytes([a, b, c, d]))), 0, 0),
            Self::KIND_IPIP => (TunnelKind::Ipip, 0, 0),
            _ => return None,
        };
        let local = SocketAddr::new(self.local.ip(), local_port);
        Some((kind, local, SocketAddr::new(self.remote.ip(), remote_port)))
    }
}

/// An interface as its frames show it on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct InterfaceKey {
    /// The device.
    pub device: u32,
    /// See [`LinkId::tags`].
    pub tags: [u16; 2],
    /// See [`LinkId::session`].
    pub session: u16,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<InterfaceKey>() == 12);

impl InterfaceKey {
    /// The key of one of a device's links.
    #[inline(always)]
    #[must_use]
    pub const fn new(device: u32, link: LinkId) -> Self {
        Self { device, tags: link.tags, session: link.session, reserved: 0 }
    }

    /// The key of an interface.
    #[must_use]
    pub const fn of(interface: &Interface) -> Self {
        Self::new(interface.device.0, interface.link.id())
    }
}

/// One of our own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// Our address.
    pub address: Address,
    /// Our port, network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<EndpointKey>() == 24);

impl EndpointKey {
    /// The key of an address and port.
    #[must_use]
    pub const fn new(endpoint: SocketAddr) -> Self {
        Self::at(Address::new(endpoint.ip()), endpoint.port().to_be_bytes())
    }

    /// The key of an address and a port in network order.
    #[inline(always)]
    #[must_use]
    pub const fn at(address: Address, port: [u8; 2]) -> Self {
        Self { address, port, reserved: [0; 6] }
    }
}

/// A group on an interface where somebody else on this host listens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SharedKey {
    /// The group.
    pub group: Address,
    /// The interface.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<SharedKey>() == 24);

impl SharedKey {
    /// The key of a group on an interface.
    #[inline(always)]
    #[must_use]
    pub const fn new(ifindex: u32, group: Address) -> Self {
        Self { group, ifindex, reserved: 0 }
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
    use core::net::IpAddr;

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
