//! More packets that are too large than the kernel hands over.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header};
use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Link, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId, TunnelKind},
    hdr::eth::multicast_mac,
    verdict::DropReason,
};
use vmcast_dataplane::conformance::{Devices, PlaneUnderTest as _};

use crate::dut::{At, Dut, KernelUnderTest};

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 5, 6);
const STREAM: Stream = Stream { source: Some(IpAddr::V4(SOURCE)), group: IpAddr::V4(GROUP) };
/// More than the ring has room for while nobody reads it, fewer than the ring of a veth device takes.
const PACKETS: u16 = 200;
/// Offset of the identification of a native copy, and of one in AMT over IPv4.
const IDENTIFICATION: usize = 14 + 4;
const INNER_IDENTIFICATION: usize = IDENTIFICATION + 30;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |at: At| {
        let name =
            format!("{}: packets that are too large beyond what is handed over are counted", at.label());
        Trial::test(name, move || flood(&mut KernelUnderTest::new(Dut::enter("oversized", at)?)))
    };
    At::ALL.map(trial).into()
}

// proves house rule 3 for `oversize_limited` in the kernel
fn flood(plane: &mut KernelUnderTest) -> Result<(), Failed> {
    let devices = plane.devices();
    plane.apply(&operations(&devices)).map_err(|error| error.to_string())?;
    let frames: Vec<_> = (0..PACKETS).map(|number| frame(&devices, number)).collect();
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

fn operations(devices: &Devices) -> Vec<FibOp> {
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

/// A packet of the stream with this identification.
fn frame(devices: &Devices, number: u16) -> Vec<u8> {
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
    let body = [0x47; 1300];
    header.set_payload_len(body.len()).expect("it fits");
    header.header_checksum = header.calc_header_checksum();
    [&link.to_bytes()[..], &header.to_bytes(), &body].concat()
}

fn expect(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}
