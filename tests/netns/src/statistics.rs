//! A plane that does not count by stream.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::PacketBuilder;
use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Members, Output, Rpf, Stream},
    hdr::eth::multicast_mac,
    maps::StreamCounters,
    verdict::DropReason,
};
use vmcast_dataplane::{
    conformance::{Devices, PlaneUnderTest},
    kernel::Statistics,
};

use crate::dut::{At, Dut, KernelUnderTest};

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 5, 6);
const STREAM: Stream = Stream { source: Some(IpAddr::V4(SOURCE)), group: IpAddr::V4(GROUP) };

pub(crate) fn trials() -> Vec<Trial> {
    let says = "without statistics packets are forwarded, drops are counted, and streams count nothing";
    [("xdp", At::Xdp), ("tc", At::Tc)]
        .map(|(hook, at)| Trial::test(format!("{hook}: {says}"), move || without_statistics(at)))
        .into()
}

fn without_statistics(at: At) -> Result<(), Failed> {
    let dut = Dut::enter("statistics", at)?;
    let devices = dut.devices;
    forward(&mut KernelUnderTest::with(dut, Statistics::Off), &devices)
}

fn forward(plane: &mut impl PlaneUnderTest, devices: &Devices) -> Result<(), Failed> {
    plane.apply(&[
        FibOp::SetInterface(devices.a.interface(true)),
        FibOp::SetInterface(devices.b.interface(false)),
        FibOp::SetInterface(devices.c.interface(false)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
        FibOp::AddMember(STREAM, Output::Interface(devices.b.ifindex)),
    ])?;
    let seen = plane.inject(devices.a.ifindex, &frame(devices, 9));
    let egress: Vec<_> = seen.frames.iter().map(|(egress, _)| *egress).collect();
    expect(egress == [devices.b.ifindex], || format!("a packet left by {egress:?}"))?;
    let expired = plane.inject(devices.a.ifindex, &frame(devices, 1));
    expect(expired.frames.is_empty(), || format!("{} copies of an expired packet", expired.frames.len()))?;

    let counters = plane.counters();
    let expired = counters.drops.get(&DropReason::TtlExpired).copied();
    expect(expired == Some(1) && counters.drops.len() == 1, || {
        format!("the drops are {:?}", counters.drops)
    })?;
    let zero = StreamCounters::default();
    expect(counters.streams.iter().all(|stats| stats.counters == zero), || format!("{:?}", counters.streams))
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

fn frame(devices: &Devices, ttl: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(devices.a.mac, multicast_mac(GROUP))
        .ipv4(SOURCE.octets(), GROUP.octets(), ttl)
        .udp(5004, 5004);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").expect("writing to memory");
    frame
}
