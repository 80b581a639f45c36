//! Packets beyond what the kernel hands over, and beyond what it makes copies of.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header};
use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{
        EcnMode, FibOp, IfIndex, Link, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId,
        TunnelKind,
    },
    hdr::eth::multicast_mac,
    verdict::DropReason,
};
use vmcast_dataplane::conformance::{Devices, PlaneUnderTest as _};

use crate::dut::{At, Dut, KernelUnderTest};

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 5, 6);
pub(crate) const STREAM: Stream = Stream { source: Some(IpAddr::V4(SOURCE)), group: IpAddr::V4(GROUP) };
/// More than the ring has room for while nobody reads it, fewer than the ring of a veth device takes.
const PACKETS: u16 = 200;
/// Bytes of the header of IPv4.
const HEADER: usize = 20;
/// Offset of the identification of a native copy, and of one in AMT over IPv4.
const IDENTIFICATION: usize = 14 + 4;
const INNER_IDENTIFICATION: usize = IDENTIFICATION + 30;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |at: At| {
        let name =
            format!("{}: packets that are too large beyond what is handed over are counted", at.label());
        Trial::test(name, move || flood(&mut KernelUnderTest::new(Dut::enter("oversized", at)?)))
    };
    let larger = |at: At| {
        let name = format!("{}: packets larger than a relay device takes reach every member", at.label());
        Trial::test(name, move || larger(at))
    };
    let whole = |at: At| {
        let name =
            format!("{}: packets larger than a relay device takes, but no link, come whole", at.label());
        Trial::test(name, move || whole(at))
    };
    [At::ALL.map(trial), At::ALL.map(larger), At::ALL.map(whole)].into_iter().flatten().collect()
}

// proves house rule 3 for `oversize_limited` in the kernel
fn flood(plane: &mut KernelUnderTest) -> Result<(), Failed> {
    let devices = plane.devices();
    plane.apply(&operations(&devices)).map_err(|error| error.to_string())?;
    let frames: Vec<_> = (0..PACKETS).map(|number| frame(&devices, number, 1300)).collect();
    let seen = plane.inject_all(devices.a.ifindex, &frames);
    let by = |device, at: usize| -> Vec<u16> {
        let of_device = seen.iter().filter(|(egress, _)| *egress == device);
        of_device.map(|(_, frame)| u16::from_be_bytes([frame[at], frame[at + 1]])).collect()
    };
    // Who takes them whole gets every one, once and in order.
    expect(
        by(devices.c.ifindex, IDENTIFICATION) == (0..PACKETS).collect::<Vec<_>>(),
        "copies that are whole",
    )?;
    let pieces = by(devices.b.ifindex, INNER_IDENTIFICATION);
    let counters = plane.counters();
    let limited = counters.drops.get(&DropReason::OversizeLimited).copied().unwrap_or(0);
    expect(limited > 0, "the ring took all")?;
    expect(counters.drops.len() == 1, &format!("the drops are {:?}", counters.drops))?;
    expect(counters.fragmented + limited == u64::from(PACKETS), &format!("{counters:?}"))?;
    expect(pieces.len() as u64 == 2 * counters.fragmented, &format!("{} pieces", pieces.len()))?;
    expect(pieces.chunks(2).all(|pair| pair[0] == pair[1]), "the pieces of a packet follow each other")?;
    expect(pieces.windows(3).all(|three| three[0] < three[2]), "the packets come in order and once")?;
    expect(seen.len() == usize::from(PACKETS) + pieces.len(), "nobody else gets anything")
}

/// Members on both sides of a relay device, where there is one, get every packet once: up to its MTU from the kernel,
/// larger ones from user space.
fn larger(at: At) -> Result<(), Failed> {
    /// The largest that a veth device with a program at XDP may have, and a little less.
    const MTU: u16 = 3_500;
    let lens = [3_400, 3_401, 3_404, 3_405, 3_500];
    let mut dut = Dut::enter("larger", at)?;
    dut.set_mtu(MTU)?;
    let mut plane = KernelUnderTest::new(dut);
    let devices = plane.devices();
    let mut ops = operations(&devices);
    ops.push(FibOp::AddMember(STREAM, Output::Interface(devices.b.ifindex)));
    plane.apply(&ops).map_err(|error| error.to_string())?;
    for (number, len) in (0..).zip(lens) {
        let seen = plane.inject_all(devices.a.ifindex, &[frame(&devices, number, len - HEADER)]);
        let of = |device: IfIndex| {
            let frames = seen.iter().filter(|(egress, _)| *egress == device);
            frames.map(|(_, frame)| frame.len()).collect::<Vec<_>>()
        };
        let whole = 14 + len;
        let mut pieces = Vec::new();
        let mut left = len - HEADER;
        while left > 0 {
            let part = left.min((1000 - 30 - HEADER) / 8 * 8);
            pieces.push(14 + 30 + HEADER + part);
            left -= part;
        }
        let mut on_b = of(devices.b.ifindex);
        on_b.sort_unstable();
        pieces.push(whole);
        pieces.sort_unstable();
        expect(of(devices.c.ifindex) == [whole], &format!("{len} bytes: {:?}", of(devices.c.ifindex)))?;
        expect(on_b == pieces, &format!("{len} bytes: {on_b:?}"))?;
        expect(of(devices.a.ifindex).is_empty(), "nobody else gets anything")?;
    }
    let counters = plane.counters();
    expect(counters.drops.values().all(|count| *count == 0), &format!("the drops are {:?}", counters.drops))?;
    expect(counters.fragmented == lens.len() as u64, &format!("{counters:?}"))
}

/// Members whose links take a packet whole get it whole, whatever relay devices take: from user space where it is too
/// large for one to XDP, from the kernel everywhere else.
fn whole(at: At) -> Result<(), Failed> {
    let (mtu, lens) = match at {
        // The largest that a veth device with a program at XDP may have, and a little less.
        At::Xdp | At::Mixed | At::Handed => (3_500, vec![3_400, 3_401, 3_500]),
        At::Tc | At::Pauses => (9_000, vec![3_400, 3_401, 9_000]),
    };
    let mut dut = Dut::enter("whole", at)?;
    dut.set_mtu(mtu)?;
    let mut plane = KernelUnderTest::new(dut);
    let devices = plane.devices();
    let neighbours = [NextHopId(1), NextHopId(2)];
    let hop = NextHop {
        ifindex: devices.c.ifindex,
        link: Link::PLAIN,
        source_mac: devices.c.mac,
        destination_mac: Some([0x02, 0xdd, 0, 0, 0, 1]),
        mtu,
    };
    let mut ops = vec![
        FibOp::SetInterface(devices.a.interface(true)),
        FibOp::SetInterface(devices.b.interface(false)),
        FibOp::SetInterface(devices.c.interface(false)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
    ];
    ops.extend(neighbours.map(|id| FibOp::SetNextHop(id, hop)));
    ops.extend(
        [devices.b, devices.c].map(|device| FibOp::AddMember(STREAM, Output::Interface(device.ifindex))),
    );
    ops.extend(neighbours.map(|id| FibOp::AddMember(STREAM, Output::Neighbour(id))));
    plane.apply(&ops).map_err(|error| error.to_string())?;
    for (number, len) in (0..).zip(lens) {
        let seen = plane.inject_all(devices.a.ifindex, &[frame(&devices, number, len - HEADER)]);
        let on = |device: IfIndex| seen.iter().filter(|(egress, _)| *egress == device).count();
        let copies = (on(devices.a.ifindex), on(devices.b.ifindex), on(devices.c.ifindex));
        expect(copies == (0, 1, 3), &format!("{len} bytes: {copies:?}, {:?}", plane.counters()))?;
        expect(seen.iter().all(|(_, frame)| frame.len() == 14 + len), &format!("{len} bytes: pieces"))?;
    }
    let counters = plane.counters();
    expect(counters.drops.values().all(|count| *count == 0), &format!("the drops are {:?}", counters.drops))?;
    expect(counters.fragmented == 0, &format!("{counters:?}"))
}

/// The stream, a member in AMT whose link takes 1,000 bytes, and the hosts of a network.
pub(crate) fn operations(devices: &Devices) -> Vec<FibOp> {
    let hop = NextHop {
        ifindex: devices.b.ifindex,
        link: Link::PLAIN,
        source_mac: devices.b.mac,
        destination_mac: Some([0x02, 0xdd, 0, 0, 0, 1]),
        mtu: 1000,
    };
    let tunnel = Tunnel {
        kind: TunnelKind::Amt,
        local: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 2268)),
        remote: SocketAddr::from((Ipv4Addr::new(10, 1, 0, 1), 40_000)),
        ecn: EcnMode::Compatibility,
        accepts_sources: false,
        next_hop: Some(NextHopId(1)),
    };
    vec![
        FibOp::SetInterface(devices.a.interface(true)),
        FibOp::SetInterface(devices.b.interface(false)),
        FibOp::SetInterface(devices.c.interface(false)),
        FibOp::SetNextHop(NextHopId(1), hop),
        FibOp::SetTunnel(TunnelId(1), tunnel),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
        FibOp::AddMember(STREAM, Output::Tunnel(TunnelId(1))),
        FibOp::AddMember(STREAM, Output::Interface(devices.c.ifindex)),
    ]
}

/// A packet of the stream with this identification and so many bytes behind its header.
pub(crate) fn frame(devices: &Devices, number: u16, len: usize) -> Vec<u8> {
    let link = Ethernet2Header {
        source: devices.a.mac,
        destination: multicast_mac(GROUP),
        ether_type: EtherType::IPV4,
    };
    let mut header = Ipv4Header {
        identification: number,
        dont_fragment: false,
        time_to_live: 16,
        protocol: IpNumber(253),
        source: SOURCE.octets(),
        destination: GROUP.octets(),
        ..Ipv4Header::default()
    };
    let body = vec![0x47; len];
    header.set_payload_len(body.len()).expect("it fits");
    header.header_checksum = header.calc_header_checksum();
    [&link.to_bytes()[..], &header.to_bytes(), &body].concat()
}

fn expect(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}
