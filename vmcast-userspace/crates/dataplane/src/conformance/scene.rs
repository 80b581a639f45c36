//! Addresses and helpers that the cases share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use etherparse::{EtherType, IpNumber, UdpHeader};
use vmcast_common::{
    fib::{
        EcnMode, FibOp, IfIndex, Input, Link, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel,
        TunnelId, TunnelKind,
    },
    hdr::eth::Mac,
};

use super::{
    device::{Device, Devices},
    packet::{Packet, ethernet, group_frame},
};

/// The source of most packets.
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Another source.
pub(super) const OTHER_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
/// The group of most packets.
pub(super) const GROUP: Ipv4Addr = Ipv4Addr::new(232, 129, 2, 3);
/// Another group.
pub(super) const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 5, 6);
/// Our endpoint.
pub(super) const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 2268);
/// The far end of the upstream tunnel.
pub(super) const UPSTREAM_ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), 2268);
/// The upstream tunnel.
pub(super) const UPSTREAM: TunnelId = TunnelId(1);
/// (SOURCE, GROUP).
pub(super) const STREAM: Stream = stream(SOURCE, GROUP);
/// (*, GROUP).
pub(super) const ANY_SOURCE: Stream = Stream { source: None, group: IpAddr::V4(GROUP) };
/// Link-layer address of whoever sends to device a.
pub(super) const NEIGHBOUR: Mac = [0x02, 0xee, 0, 0, 0, 9];
/// Version 0 and type 6 of a Multicast Data message, and its reserved byte (RFC 7450 §5.1.6).
const AMT_DATA: [u8; 2] = [6, 0];

/// (S,G).
pub(super) const fn stream(source: Ipv4Addr, group: Ipv4Addr) -> Stream {
    Stream { source: Some(IpAddr::V4(source)), group: IpAddr::V4(group) }
}

/// The member tunnel with this number, from 0.
pub(super) const fn member(number: u16) -> TunnelId {
    TunnelId(100 + number as u32)
}

/// The output of a member tunnel.
pub(super) const fn to(number: u16) -> Output {
    Output::Tunnel(member(number))
}

/// What the cases stand on.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    pub(super) devices: Devices,
}

impl Scene {
    /// The three devices, our endpoint, a next hop by each device and the upstream tunnel over a.
    pub(super) fn base(&self) -> Vec<FibOp> {
        let Devices { a, b, c } = self.devices;
        vec![
            FibOp::SetInterface(a.interface(true)),
            FibOp::SetInterface(b.interface(false)),
            FibOp::SetInterface(c.interface(false)),
            FibOp::SetEndpoint(LOCAL.into()),
            self.set_hop(&a),
            self.set_hop(&b),
            self.set_hop(&c),
            FibOp::SetTunnel(UPSTREAM, self.upstream()),
        ]
    }

    /// [`Scene::base`] and more.
    pub(super) fn with(&self, ops: impl IntoIterator<Item = FibOp>) -> Vec<FibOp> {
        self.base().into_iter().chain(ops).collect()
    }

    /// The number of the next hop by a device.
    pub(super) fn hop_id(&self, device: &Device) -> NextHopId {
        NextHopId(device.ifindex.0)
    }

    /// The next hop by a device.
    pub(super) fn hop(&self, device: &Device) -> NextHop {
        NextHop {
            ifindex: device.ifindex,
            link: Link::PLAIN,
            source_mac: device.mac,
            destination_mac: Some([0x02, 0xdd, 0, 0, 0, device.ifindex.0 as u8]),
            mtu: device.mtu,
        }
    }

    pub(super) fn set_hop(&self, device: &Device) -> FibOp {
        FibOp::SetNextHop(self.hop_id(device), self.hop(device))
    }

    pub(super) fn upstream(&self) -> Tunnel {
        Tunnel {
            kind: TunnelKind::Amt,
            local: LOCAL.into(),
            remote: UPSTREAM_ADDRESS.into(),
            ecn: EcnMode::Compatibility,
            accepts_sources: true,
            next_hop: Some(self.hop_id(&self.devices.a)),
        }
    }

    /// A member's tunnel by a device.
    pub(super) fn tunnel(&self, number: u16, device: &Device) -> Tunnel {
        let [high, low] = number.to_be_bytes();
        Tunnel {
            kind: TunnelKind::Amt,
            local: LOCAL.into(),
            remote: SocketAddr::from((Ipv4Addr::new(10, 1, high, low), 40_000 + number)),
            ecn: EcnMode::Compatibility,
            accepts_sources: false,
            next_hop: Some(self.hop_id(device)),
        }
    }

    pub(super) fn set_tunnel(&self, number: u16, device: &Device) -> FibOp {
        FibOp::SetTunnel(member(number), self.tunnel(number, device))
    }

    /// Tunnels by a device and their membership in a stream.
    pub(super) fn join(
        &self,
        stream: Stream,
        numbers: impl IntoIterator<Item = u16>,
        device: &Device,
    ) -> Vec<FibOp> {
        numbers
            .into_iter()
            .flat_map(|number| [self.set_tunnel(number, device), FibOp::AddMember(stream, to(number))])
            .collect()
    }

    /// A stream that comes natively on device a.
    pub(super) fn native_stream(&self, stream: Stream) -> FibOp {
        FibOp::SetStream(stream, Rpf::Exact(self.on_a()), Members::Own)
    }

    /// A stream that comes out of the upstream tunnel.
    pub(super) fn tunnelled_stream(&self, stream: Stream) -> FibOp {
        FibOp::SetStream(stream, Rpf::Exact(Input::Tunnel(UPSTREAM)), Members::Own)
    }

    pub(super) fn on_a(&self) -> Input {
        Input::Interface(self.devices.a.ifindex)
    }

    /// A packet to a group as it comes in on a device.
    pub(super) fn native(&self, packet: &Packet) -> Vec<u8> {
        group_frame(NEIGHBOUR, packet)
    }

    /// The outer packet of AMT data from the upstream.
    pub(super) fn outer(&self, inner: &[u8]) -> Packet {
        outer(UPSTREAM_ADDRESS, LOCAL, &[&AMT_DATA, inner].concat())
    }

    /// AMT data from the upstream as it comes in on device a.
    pub(super) fn tunnelled(&self, inner: &Packet) -> Vec<u8> {
        self.unicast(&self.outer(&inner.bytes()))
    }

    /// A packet to us as it comes in on device a.
    pub(super) fn unicast(&self, packet: &Packet) -> Vec<u8> {
        ethernet(self.devices.a.mac, NEIGHBOUR, EtherType::IPV4, &packet.bytes())
    }

    /// The native copy of a packet on a device.
    pub(super) fn native_copy(&self, packet: &Packet, device: &Device) -> (IfIndex, Vec<u8>) {
        (device.ifindex, group_frame(device.mac, &packet.forwarded()))
    }

    /// The copy of a packet for a member by a device.
    pub(super) fn copy(&self, packet: &Packet, number: u16, device: &Device) -> (IfIndex, Vec<u8>) {
        amt_copy(packet, &self.tunnel(number, device), &self.hop(device))
    }

    /// The copies for several members by a device.
    pub(super) fn copies(
        &self,
        packet: &Packet,
        numbers: impl IntoIterator<Item = u16>,
        device: &Device,
    ) -> Vec<(IfIndex, Vec<u8>)> {
        numbers.into_iter().map(|number| self.copy(packet, number, device)).collect()
    }
}

/// A UDP datagram without a checksum, as AMT data travels.
pub(super) fn outer(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Packet {
    let header =
        UdpHeader::without_ipv4_checksum(source.port(), destination.port(), payload.len()).expect("it fits");
    Packet {
        identification: 0,
        dont_fragment: true,
        ttl: 64,
        ..Packet::new(
            *source.ip(),
            *destination.ip(),
            IpNumber::UDP,
            [&header.to_bytes()[..], payload].concat(),
        )
    }
}

/// The copy of a packet in an AMT tunnel: outer TTL 64, do not fragment, no identification, no UDP
/// checksum, the inner packet's DSCP.
pub(super) fn amt_copy(packet: &Packet, tunnel: &Tunnel, hop: &NextHop) -> (IfIndex, Vec<u8>) {
    amt_copy_of(&packet.forwarded().bytes(), packet.tos, tunnel, hop)
}

/// The type of service of an outer header (RFC 6040 §4.1, figure 3).
pub(super) const fn outer_tos(inner: u8, mode: EcnMode) -> u8 {
    match mode {
        EcnMode::Normal => inner,
        EcnMode::Compatibility => inner & 0xfc,
    }
}

/// [`amt_copy`] of bytes that are ready to leave.
pub(super) fn amt_copy_of(inner: &[u8], tos: u8, tunnel: &Tunnel, hop: &NextHop) -> (IfIndex, Vec<u8>) {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (tunnel.local, tunnel.remote) else {
        unreachable!("cases speak IPv4");
    };
    let tos = outer_tos(tos, tunnel.ecn);
    let packet = Packet { tos, ..outer(local, remote, &[&AMT_DATA, inner].concat()) };
    let destination = hop.destination_mac.expect("a resolved next hop");
    (hop.ifindex, ethernet(destination, hop.source_mac, EtherType::IPV4, &packet.bytes()))
}
