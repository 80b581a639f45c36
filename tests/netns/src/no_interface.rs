//! Members behind a device that no interface of the plane is on.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::PacketBuilder;
use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Link, Members, NextHop, NextHopId, Output, Rpf, Stream},
    hdr::eth::multicast_mac,
};
use vmcast_dataplane::conformance::PlaneUnderTest as _;

use crate::dut::{At, Dut, KernelUnderTest};

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 5, 6);
const STREAM: Stream = Stream { source: Some(IpAddr::V4(SOURCE)), group: IpAddr::V4(GROUP) };
const HOP: NextHopId = NextHopId(1);

pub(crate) fn trials() -> Vec<Trial> {
    let name = "mixed: a member behind a device without an interface is served at TC";
    vec![Trial::test(name, served_at_tc)]
}

fn served_at_tc() -> Result<(), Failed> {
    let dut = Dut::enter("bare", At::Mixed)?;
    let devices = dut.devices;
    dut.take_redirected(devices.b.ifindex, false)?;
    let mut plane = KernelUnderTest::new(dut);
    let hop = NextHop {
        ifindex: devices.b.ifindex,
        link: Link::PLAIN,
        source_mac: devices.b.mac,
        destination_mac: Some([0x02, 0xdd, 0, 0, 0, 1]),
        mtu: devices.b.mtu,
    };
    let operations = [
        FibOp::SetInterface(devices.a.interface(true)),
        FibOp::SetNextHop(HOP, hop),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
        FibOp::AddMember(STREAM, Output::Neighbour(HOP)),
    ];
    plane.apply(&operations).map_err(|error| error.to_string())?;
    let mut frame = Vec::new();
    let destination = multicast_mac(GROUP);
    PacketBuilder::ethernet2([0x02, 0xee, 0, 0, 0, 9], destination)
        .ipv4(SOURCE.octets(), GROUP.octets(), 9)
        .udp(5000, 5000)
        .write(&mut frame, &[7; 100])?;
    for _ in 0..3 {
        let seen = plane.inject(devices.a.ifindex, &frame);
        let by: Vec<_> = seen.frames.iter().map(|(egress, _)| *egress).collect();
        if by != [devices.b.ifindex] {
            return Err(format!("copies came by {by:?}; drops {:?}", plane.counters().drops).into());
        }
    }
    Ok(())
}
