//! A stream from the first device of a device under test to AMT members behind the two others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use vmcast_common::{
    fib::{
        EcnMode, FibOp, Link, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId, TunnelKind,
    },
    hdr::eth::multicast_mac,
};
use vmcast_dataplane::conformance::{Device, Devices};

pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 5, 6);
pub(crate) const STREAM: Stream = Stream { source: Some(IpAddr::V4(SOURCE)), group: IpAddr::V4(GROUP) };
/// The port that the source sends from and to.
pub(crate) const UDP_PORT: u16 = 5004;
/// Bytes of UDP payload of each packet.
pub(crate) const PAYLOAD: usize = 188;
/// The port of the first member; the others follow.
pub(crate) const FIRST_PORT: u16 = 40_000;
/// The next hop of the members with an even number; that of the others is the next one.
const FIRST_HOP: NextHopId = NextHopId(1);

/// The stream and so many members, who take turns behind the two devices.
pub(crate) fn ops(devices: &Devices, members: u16) -> Vec<FibOp> {
    let base = [
        FibOp::SetNextHop(FIRST_HOP, hop(&devices.b)),
        FibOp::SetNextHop(NextHopId(FIRST_HOP.0 + 1), hop(&devices.c)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
    ];
    let members =
        (0..members).flat_map(|number| join(number, NextHopId(FIRST_HOP.0 + u32::from(number % 2))));
    interfaces(devices).into_iter().chain(base).chain(members).collect()
}

/// The interfaces on the three devices.
pub(crate) fn interfaces(devices: &Devices) -> [FibOp; 3] {
    [
        FibOp::SetInterface(devices.a.interface(true)),
        FibOp::SetInterface(devices.b.interface(false)),
        FibOp::SetInterface(devices.c.interface(false)),
    ]
}

/// A neighbour behind a device.
pub(crate) fn hop(device: &Device) -> NextHop {
    NextHop {
        ifindex: device.ifindex,
        link: Link::PLAIN,
        source_mac: device.mac,
        destination_mac: Some([0x02, 0xdd, 0, 0, 0, 1]),
        mtu: device.mtu,
    }
}

/// The tunnel of a member by its number.
pub(crate) fn tunnel_id(number: u16) -> TunnelId {
    TunnelId(100 + u32::from(number))
}

/// The tunnel to a member behind a neighbour.
pub(crate) fn tunnel(number: u16, next_hop: NextHopId) -> FibOp {
    let tunnel = Tunnel {
        kind: TunnelKind::Amt,
        local: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 2268)),
        remote: SocketAddr::from((Ipv4Addr::new(10, 1, 0, 1), FIRST_PORT + number)),
        ecn: EcnMode::Compatibility,
        accepts_sources: false,
        next_hop: Some(next_hop),
    };
    FibOp::SetTunnel(tunnel_id(number), tunnel)
}

/// One member more behind a neighbour.
pub(crate) fn join(number: u16, next_hop: NextHopId) -> [FibOp; 2] {
    [tunnel(number, next_hop), FibOp::AddMember(STREAM, Output::Tunnel(tunnel_id(number)))]
}

/// The payload of a packet, with its number at the end.
pub(crate) fn payload(number: u32) -> [u8; PAYLOAD] {
    let mut payload = [0x47; PAYLOAD];
    payload[PAYLOAD - 4..].copy_from_slice(&number.to_be_bytes());
    payload
}

/// A packet of the stream with its number at the end.
pub(crate) fn frame(devices: &Devices, number: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(devices.a.mac, multicast_mac(GROUP))
        .ipv4(SOURCE.octets(), GROUP.octets(), 16)
        .udp(UDP_PORT, UDP_PORT)
        .write(&mut frame, &payload(number))
        .expect("a short datagram");
    frame
}

/// The UDP port that a frame is for; of a member's copy it tells whose it is.
pub(crate) fn port(frame: &[u8]) -> Option<u16> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Udp(udp) => Some(udp.destination_port()),
        _ => None,
    }
}
