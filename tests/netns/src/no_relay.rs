//! Planes that can make no relay device: others have the names that these would get.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{PacketBuilder, SlicedPacket};
use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{EcnMode, FibOp, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId, TunnelKind},
    hdr::eth::multicast_mac,
};
use vmcast_dataplane::{
    conformance::{Device, Devices, PlaneUnderTest as _},
    software::Disposition,
};

use crate::dut::{At, Dut, KernelUnderTest};

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 5, 6);
const STREAM: Stream = Stream { source: Some(IpAddr::V4(SOURCE)), group: IpAddr::V4(GROUP) };
/// More than one run serves where relay devices are.
const MEMBERS: u16 = 100;
const FIRST_PORT: u16 = 40_000;
/// How many names are taken: one is tried after the other.
const TAKEN: u32 = 12;

pub(crate) fn trials() -> Vec<Trial> {
    [At::Pauses, At::Mixed, At::Handed]
        .map(|at| {
            let name = format!("{}: everybody is served where no relay device can be made", at.label());
            Trial::test(name, move || unserved(at))
        })
        .into()
}

fn unserved(at: At) -> Result<(), Failed> {
    let dut = Dut::enter("norelay", at)?;
    let devices = dut.devices;
    let mut plane = KernelUnderTest::new(dut);
    // One that can: its devices tell which names come next.
    plane.apply(&ops(&devices))?;
    served(&mut plane, &devices)?;
    let last = relays().into_iter().max().ok_or("no relay device was made")?;
    let taken: Vec<String> =
        (1..=TAKEN).map(|more| format!("vmc{}x{}", std::process::id(), last + more)).collect();
    for (name, number) in taken.iter().zip(0..) {
        plane.dut().ip(&format!("link add {name} type veth peer name other{number}"))?;
    }

    plane.open_again();
    plane.apply(&ops(&devices))?;
    served(&mut plane, &devices)?;
    let reason = plane.reason();
    if !reason.contains("relay device") {
        return Err(format!("nothing is said of relay devices: {reason}").into());
    }
    plane.refresh();
    served(&mut plane, &devices)?;

    for name in taken {
        plane.dut().ip(&format!("link del {name}"))?;
    }
    plane.refresh();
    let reason = plane.reason();
    if relays().is_empty() || reason.contains("relay device") {
        return Err(format!("no relay device was made once that was possible: {reason}").into());
    }
    served(&mut plane, &devices)
}

/// One packet comes to every member, once and to nobody else, and nothing is dropped.
fn served(plane: &mut KernelUnderTest, devices: &Devices) -> Result<(), Failed> {
    let before = plane.counters().drops;
    let seen = plane.inject(devices.a.ifindex, &frame(devices));
    let mut ports: Vec<u16> = seen.frames.iter().filter_map(|(_, frame)| port(frame)).collect();
    ports.sort_unstable();
    let all: Vec<u16> = (FIRST_PORT..FIRST_PORT + MEMBERS).collect();
    if ports != all || seen.frames.len() != all.len() {
        return Err(format!("{} frames left, to {ports:?}", seen.frames.len()).into());
    }
    let dropped = plane.counters().drops != before;
    if dropped || seen.disposition != Disposition::Consumed {
        return Err(format!("{:?}, and the drops are {:?}", seen.disposition, plane.counters().drops).into());
    }
    Ok(())
}

fn port(frame: &[u8]) -> Option<u16> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        etherparse::TransportSlice::Udp(udp) => Some(udp.destination_port()),
        _ => None,
    }
}

/// The numbers of the pairs of ours that this namespace has.
fn relays() -> Vec<u32> {
    let devices = nix::net::if_::if_nameindex().expect("listing interfaces");
    let prefix = format!("vmc{}x", std::process::id());
    let names = devices.iter().map(|device| device.name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect()
}

/// A stream from the first device and members behind the two others.
fn ops(devices: &Devices) -> Vec<FibOp> {
    let hop = |device: &Device| NextHop {
        ifindex: device.ifindex,
        link: vmcast_common::fib::Link::PLAIN,
        source_mac: device.mac,
        destination_mac: Some([0x02, 0xdd, 0, 0, 0, 1]),
        mtu: device.mtu,
    };
    let base = [
        FibOp::SetInterface(devices.a.interface(true)),
        FibOp::SetInterface(devices.b.interface(false)),
        FibOp::SetInterface(devices.c.interface(false)),
        FibOp::SetNextHop(NextHopId(1), hop(&devices.b)),
        FibOp::SetNextHop(NextHopId(2), hop(&devices.c)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
    ];
    let members = (0..MEMBERS).flat_map(|number| {
        let tunnel = TunnelId(100 + u32::from(number));
        let member = Tunnel {
            kind: TunnelKind::Amt,
            local: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 2268)),
            remote: SocketAddr::from((Ipv4Addr::new(10, 1, 0, 1), FIRST_PORT + number)),
            ecn: EcnMode::Compatibility,
            accepts_sources: false,
            next_hop: Some(NextHopId(1 + u32::from(number % 2))),
        };
        [FibOp::SetTunnel(tunnel, member), FibOp::AddMember(STREAM, Output::Tunnel(tunnel))]
    });
    base.into_iter().chain(members).collect()
}

/// A packet of the stream.
fn frame(devices: &Devices) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(devices.a.mac, multicast_mac(GROUP))
        .ipv4(SOURCE.octets(), GROUP.octets(), 16)
        .udp(5004, 5004)
        .write(&mut frame, &[0x47; 188])
        .expect("a short datagram");
    frame
}
