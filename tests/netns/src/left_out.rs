//! Devices that the kernel leaves out of a broadcast at XDP, with nothing counted: one that is set down, and one whose MTU
//! is below the packet. What their members miss is counted all the same, for each of them. And a device that takes none of
//! the copies behind one that is too long: there is no such copy.

use std::collections::BTreeMap;

use etherparse::{Ipv4HeaderSlice, PacketBuilder, checksum::u32_16bit_word};
use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, IfIndex, Link, Members, NextHop, NextHopId, Output, Rpf, Tag, TagProtocol},
    hdr::eth::multicast_mac,
    maps::Losses,
    verdict::DropReason,
};
use vmcast_dataplane::conformance::{Device, Devices, PlaneUnderTest as _};

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{FIRST_PORT, GROUP, SOURCE, STREAM, UDP_PORT, frame, hop, interfaces, join, port, tunnel_id},
    wire::Wire,
};

/// By the device that is left out, and by another one.
const LEFT_OUT: NextHopId = NextHopId(1);
const OTHER: NextHopId = NextHopId(2);
/// Another one by the device that is left out.
const LATER: NextHopId = NextHopId(3);
/// Below the stream's packets by more than a tag.
const NARROW: u16 = 180;

pub(crate) fn trials() -> Vec<Trial> {
    let down = [At::Xdp, At::Tc].map(|at| {
        let name =
            format!("{}: what members on a device that is set down miss is counted for each", at.label());
        Trial::test(name, move || down(at))
    });
    let joined = [At::Xdp, At::Tc].map(|at| {
        let name = format!(
            "{}: who joins by a device that was just set down is counted, and then served",
            at.label()
        );
        Trial::test(name, move || joined_while_down(at))
    });
    let narrow = [At::Xdp, At::Tc].map(|at| {
        let name = format!(
            "{}: what a member on a device with a narrow MTU misses is counted, and no more",
            at.label()
        );
        Trial::test(name, move || narrow(at))
    });
    let tagged = [At::Xdp, At::Tc].map(|at| {
        let name = format!(
            "{}: packets as long as the MTU cost nobody a copy where a member on a veth has two tags",
            at.label()
        );
        Trial::test(name, move || tagged(at))
    });
    down.into_iter().chain(joined).chain(narrow).chain(tagged).collect()
}

struct Bed {
    plane: KernelUnderTest,
    spare: Device,
    far: Wire,
    /// Copies that were missed so far, by reason.
    drops: BTreeMap<DropReason, u64>,
    /// By member.
    missed: BTreeMap<Output, u64>,
}

impl Bed {
    /// A plane with one more device, and a member in a tunnel by another one.
    fn start(name: &str, at: At, mtu: u16) -> Result<Self, Failed> {
        let mut dut = Dut::enter(name, at)?;
        let spare = Device { mtu, ..dut.add_cable("spare0")? };
        dut.ip(&format!("link set spare0 mtu {mtu}"))?;
        let far = dut.far_end_of("spare0")?;
        let mut plane = KernelUnderTest::new(dut);
        let devices = plane.devices();
        plane.apply(&interfaces(&devices))?;
        plane.apply(&[
            FibOp::SetInterface(spare.interface(false)),
            // Whatever the MTU of the way, that of its device holds.
            FibOp::SetNextHop(LEFT_OUT, hop(&Device { mtu: 1500, ..spare })),
            FibOp::SetNextHop(OTHER, hop(&devices.c)),
            FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
        ])?;
        plane.apply(&join(0, OTHER))?;
        Ok(Self { plane, spare, far, drops: BTreeMap::new(), missed: BTreeMap::new() })
    }

    /// Sends a packet, which the member by the other device gets, and nobody else but those whose frames come to the far
    /// end; what is counted is what was noted.
    fn send(&mut self, packet: &[u8]) -> Result<Vec<Vec<u8>>, Failed> {
        let devices = self.plane.devices();
        let seen = self.plane.inject(devices.a.ifindex, packet);
        let came: Vec<(IfIndex, Option<u16>)> =
            seen.frames.iter().map(|(egress, frame)| (*egress, port(frame))).collect();
        if came != [(devices.c.ifindex, Some(FIRST_PORT))] {
            return Err(format!("by the other devices came {came:?}").into());
        }
        let counters = self.plane.counters();
        let of_stream = counters.streams.iter().fold(Losses::NONE, |sum, entry| sum.plus(&entry.losses));
        let of_stream: BTreeMap<DropReason, u64> =
            of_stream.by_reason().filter(|(_, copies)| *copies > 0).collect();
        let told = self.plane.dropped_copies(STREAM, None);
        let told: BTreeMap<Output, u64> =
            told.into_iter().map(|(output, copies)| (output, copies.packets)).collect();
        if (&counters.drops, &of_stream, &told) != (&self.drops, &self.drops, &self.missed) {
            return Err(format!(
                "drops are {:?}, of the stream {of_stream:?}, of members {told:?}, and not {:?}, {:?}",
                counters.drops, self.drops, self.missed
            )
            .into());
        }
        Ok(self.far.drain())
    }

    fn note(&mut self, reason: DropReason, outputs: &[Output]) {
        for output in outputs {
            *self.drops.entry(reason).or_default() += 1;
            *self.missed.entry(*output).or_default() += 1;
        }
    }
}

// proves house rule 3 for `device_refused` on a device that is set down
fn down(at: At) -> Result<(), Failed> {
    let mut bed = Bed::start("down-device", at, 1500)?;
    let outputs = [Output::Interface(bed.spare.ifindex), Output::Tunnel(tunnel_id(1))];
    bed.plane.apply(&[FibOp::AddMember(STREAM, outputs[0])])?;
    bed.plane.apply(&join(1, LEFT_OUT))?;
    let packet = frame(&bed.plane.devices(), 0);
    let both = |came: &[Vec<u8>]| came.len() == 2;
    if !both(&bed.send(&packet)?) {
        return Err("the members on the device did not get a copy each".into());
    }
    for _ in 0..3 {
        bed.plane.dut().ip("link set spare0 down")?;
        bed.plane.refresh();
        for _ in 0..5 {
            bed.note(DropReason::DeviceRefused, &outputs);
            if let [first, ..] = bed.send(&packet)?.as_slice() {
                return Err(format!("a copy came by a device that is down: {first:02x?}").into());
            }
        }
        bed.plane.dut().ip("link set spare0 up")?;
        bed.plane.refresh();
        if !both(&bed.send(&packet)?) {
            return Err("the members on the device did not get a copy each again".into());
        }
    }
    Ok(())
}

/// The way was known from before, and nobody has looked at the device since.
fn joined_while_down(at: At) -> Result<(), Failed> {
    let mut bed = Bed::start("joined-down", at, 1500)?;
    let outputs = [Output::Interface(bed.spare.ifindex), Output::Tunnel(tunnel_id(1))];
    let packet = frame(&bed.plane.devices(), 0);
    bed.plane.dut().ip("link set spare0 down")?;
    // Any change lets the plane ask the kernel anew.
    bed.plane.apply(&[FibOp::SetNextHop(OTHER, hop(&bed.plane.devices().c))])?;
    bed.plane.apply(&[FibOp::AddMember(STREAM, outputs[0])])?;
    bed.plane.apply(&join(1, LEFT_OUT))?;
    for _ in 0..3 {
        bed.note(DropReason::DeviceRefused, &outputs);
        if !bed.send(&packet)?.is_empty() {
            return Err("a copy came by a device that is down".into());
        }
    }
    // A way that nobody has yet.
    bed.plane.apply(&[FibOp::SetNextHop(LATER, hop(&bed.spare))])?;
    bed.plane.dut().ip("link set spare0 up")?;
    bed.plane.refresh();
    bed.plane.apply(&join(2, LATER))?;
    let came = bed.send(&packet)?.len();
    (came == 3).then_some(()).ok_or_else(|| format!("{came} copies came when it was up").into())
}

// proves E4 for the member's own count, where the kernel leaves the device out of the broadcast
fn narrow(at: At) -> Result<(), Failed> {
    let mut bed = Bed::start("narrow-device", at, NARROW)?;
    let member = Output::Tunnel(tunnel_id(1));
    bed.plane.apply(&join(1, LEFT_OUT))?;
    let whole = frame(&bed.plane.devices(), 0);
    let parted = may_be_parted(&whole)?;
    for _ in 0..5 {
        if bed.send(&parted)?.len() < 2 {
            return Err("the copy did not come in fragments".into());
        }
    }
    // Copies that were made are no credit for those that are not.
    for _ in 0..3 {
        bed.note(DropReason::Oversize, &[member]);
        if !bed.send(&whole)?.is_empty() {
            return Err("a packet that may not be parted came".into());
        }
    }
    Ok(())
}

// proves E4 where it is the tags that a frame has no room for
fn tagged(at: At) -> Result<(), Failed> {
    const TAGS: [Tag; 2] =
        [Tag { protocol: TagProtocol::Dot1ad, id: 200 }, Tag { protocol: TagProtocol::Dot1q, id: 5 }];
    let dut = Dut::enter("tagged-veth", at)?;
    let mut plane = KernelUnderTest::new(dut);
    let devices = plane.devices();
    let tagged = Link { tags: TAGS.map(Some), session: None };
    let neighbour =
        |last: u8, link| NextHop { destination_mac: Some([2, 0xdd, 0, 0, 0, last]), link, ..hop(&devices.c) };
    plane.apply(&interfaces(&devices))?;
    plane.apply(&[FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own)])?;
    let plain: Vec<u8> = (1..=6).collect();
    for last in [9].into_iter().chain(plain.iter().copied()) {
        let (id, link) = (NextHopId(last.into()), if last == 9 { tagged } else { Link::PLAIN });
        plane.apply(&[
            FibOp::SetNextHop(id, neighbour(last, link)),
            FibOp::AddMember(STREAM, Output::Neighbour(id)),
        ])?;
    }
    for length in [1_496, 1_497, 1_500] {
        let packet = frame_of(&devices, length);
        let seen = plane.inject(devices.a.ifindex, &packet);
        let mut came: Vec<u8> = seen.frames.iter().map(|(_, frame)| frame[5]).collect();
        came.sort_unstable();
        let expected: Vec<u8> = plain.iter().copied().chain((length == 1_496).then_some(9)).collect();
        if came != expected || seen.frames.iter().any(|(egress, _)| *egress != devices.c.ifindex) {
            return Err(format!("of {length} bytes copies came for {came:?}, not {expected:?}").into());
        }
    }
    let drops = plane.counters().drops;
    if drops != BTreeMap::from([(DropReason::Oversize, 2)]) {
        return Err(format!("the drops are {drops:?}").into());
    }
    Ok(())
}

/// A frame of the stream with an IPv4 packet of so many bytes.
fn frame_of(devices: &Devices, length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(devices.a.mac, multicast_mac(GROUP))
        .ipv4(SOURCE.octets(), GROUP.octets(), 16)
        .udp(UDP_PORT, UDP_PORT)
        .write(&mut frame, &vec![0x47; length - 28])
        .expect("a datagram");
    frame
}

/// A frame whose IPv4 packet may be sent in fragments.
fn may_be_parted(frame: &[u8]) -> Result<Vec<u8>, Failed> {
    const IP: usize = 14;
    let mut frame = frame.to_vec();
    frame[IP + 6] &= !0x40;
    frame[IP + 10..IP + 12].fill(0);
    let header = Ipv4HeaderSlice::from_slice(&frame[IP..])?.slice();
    let sum = u32_16bit_word::ones_complement(u32_16bit_word::add_slice(0, header));
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_ne_bytes());
    Ok(frame)
}
