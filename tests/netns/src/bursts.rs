//! Packets that come at once, with more copies than the rings of the egress devices have room for.

use std::{collections::BTreeMap, io, net::SocketAddr};

use etherparse::SlicedPacket;
use libtest_mimic::{Failed, Trial};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use vmcast_common::verdict::DropReason;
use vmcast_dataplane::conformance::PlaneUnderTest as _;

use crate::{
    dut::{At, Dut, Frames, KernelUnderTest},
    stream::{FIRST_PORT, GROUP, PAYLOAD, SOURCE, STREAM, UDP_PORT, ops, payload, port},
};

/// Members, who take turns behind two devices, and so many packets that the ring of a veth (`VETH_RING_SIZE`, 256) takes
/// the copies of all beside each other: of members in one table, and in three, which come one after the other.
const SCENES: [(u16, u32); 2] = [(100, 4), (300, 1)];
/// Packets whose copies it does not.
const MANY: u32 = 40;

pub(crate) fn trials() -> Vec<Trial> {
    let of = |(members, few)| {
        let name = format!(
            "xdp: of packets at once beyond the rings each copy comes once and in order, or is counted ({members} members)"
        );
        Trial::test(name, move || bursts(members, few))
    };
    SCENES.map(of).into()
}

/// A socket of the source. What it sends comes in at once: the kernel cuts it after it has been handed to the device.
fn source(plane: &KernelUnderTest) -> Result<Socket, Failed> {
    plane.dut().ip_of_peers(&format!("addr add {SOURCE}/24 dev port0"))?;
    let socket = plane.dut().at_peers(|| -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&SocketAddr::from((SOURCE, UDP_PORT)).into())?;
        socket.set_multicast_if_v4(&SOURCE)?;
        socket.set_multicast_ttl_v4(16)?;
        Ok(socket)
    })??;
    setsockopt(&socket, sockopt::UdpGsoSegment, &(PAYLOAD as libc::c_int))?;
    Ok(socket)
}

/// Sends packets of these numbers at once, and returns what leaves.
fn burst(
    plane: &mut KernelUnderTest,
    socket: &Socket,
    numbers: std::ops::Range<u32>,
) -> Result<Frames, Failed> {
    let packets: Vec<u8> = numbers.flat_map(payload).collect();
    socket.send_to(&packets, &SocketAddr::from((GROUP, UDP_PORT)).into())?;
    let devices = plane.devices();
    Ok(plane.inject_all(devices.a.ifindex, &[]))
}

/// The numbers of the packets that came to each member; nobody else may have got anything.
fn by_member(seen: &Frames, members: u16) -> Result<BTreeMap<u16, Vec<u32>>, Failed> {
    let mut came: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for (egress, frame) in seen {
        let member = port(frame).filter(|port| (FIRST_PORT..FIRST_PORT + members).contains(port));
        let member = member.ok_or_else(|| format!("out of {egress:?} came {frame:02x?}"))?;
        let whole = SlicedPacket::from_ethernet(frame).is_ok_and(|packet| packet.transport.is_some());
        let number = frame.last_chunk().filter(|_| whole).map(|number| u32::from_be_bytes(*number));
        came.entry(member).or_default().push(number.ok_or("a copy without a number")?);
    }
    Ok(came)
}

// proves issue 3: bursts beyond the ring of the device lose copies that are counted, and nothing else
fn bursts(count: u16, few: u32) -> Result<(), Failed> {
    let mut plane = KernelUnderTest::new(Dut::enter("bursts", At::Xdp)?);
    plane.apply(&ops(&plane.devices(), count))?;
    let socket = source(&plane)?;

    let members = by_member(&burst(&mut plane, &socket, 0..few)?, count)?;
    let drops = plane.counters().drops;
    let all: Vec<u32> = (0..few).collect();
    if members.len() != usize::from(count) || members.values().any(|got| *got != all) || !drops.is_empty() {
        return Err(format!("of {few} packets came {members:?}; the drops are {drops:?}").into());
    }

    let members = by_member(&burst(&mut plane, &socket, few..few + MANY)?, count)?;
    if let Some(got) = members.values().find(|got| got.windows(2).any(|pair| pair[0] >= pair[1])) {
        return Err(format!("to a member came {got:?}").into());
    }
    let came: u64 = members.values().map(|got| got.len() as u64).sum();
    let drops = plane.counters().drops;
    let refused = drops.get(&DropReason::DeviceRefused).copied().unwrap_or_default();
    let copies = u64::from(MANY) * u64::from(count);
    println!("{came} of {copies} copies came, {refused} were refused by the devices");
    if came + refused != copies || refused == 0 || drops.len() != 1 {
        return Err(format!("{came} of {copies} copies came; the drops are {drops:?}").into());
    }
    // All packets were accepted; what a device refuses is known by its reason, not by member.
    let counters = plane.counters();
    let counted =
        counters.streams.iter().find(|entry| entry.stream == STREAM).map(|entry| entry.counters.packets);
    let missed = plane.dropped_copies(STREAM, None);
    if counted != Some((few + MANY).into()) || !missed.is_empty() {
        return Err(format!("{counted:?} packets are counted, and {missed:?} missed").into());
    }

    // The next packets come to everybody.
    let members = by_member(&burst(&mut plane, &socket, 100..101)?, count)?;
    if members.len() != usize::from(count) || members.values().any(|got| *got != [100]) {
        return Err(format!("afterwards came {members:?}").into());
    }
    Ok(())
}
