//! The router program inside the machine, with XDP where a device has it: it finds out what stands under the
//! kernel's VLAN and PPPoE devices, and its copies have the same tags and session.

use std::{thread, time::Duration};

use vmcast_common::hdr::eth::Mac;
use vmcast_lab::roles::Engine;

use super::{
    PORT, SENT,
    inside::{RouterInside, Sessions},
    member::Member,
    shape::{self, FIELDS, Shapes},
};
use crate::{
    bed::{Bed, Outcome, ensure},
    capture::Capture,
    devices::{self, Device, Link, Tunnel},
    frame::{self, Port, group_mac, text},
    vm::MAC,
    wire::{self, BRIDGE, Wire},
};

/// Packets of the stream.
const PACKETS: u64 = 50;
/// Between two of them: the machine is slow.
const PACE: Duration = Duration::from_millis(5);
/// The far end of every link.
pub(super) const PEER: Mac = [0x02, 0, 0, 0, 0x70, 9];

// proves that interfaces of the kernel lead the router's copies to the links that they are, natively, to
// neighbours and through tunnels
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let sessions = devices::make(bed, &mut vm, PEER)?;
    let members = members(!sessions.is_empty());
    let sent = SENT[0];
    let router = RouterInside::start(bed, &mut vm, Engine::Auto, &[sent], &members, &[], Sessions::Stated)?;

    let port = Port::open(&wire.node, BRIDGE)?;
    let capture = Capture::of_all(bed, &wire.node, BRIDGE)?;
    for number in 0..PACKETS {
        let packet = frame::packet(sent.source, sent.stream, number)?;
        port.send(&frame::ethernet(group_mac(sent.stream.group), &[], None, &packet)?)?;
        thread::sleep(PACE);
    }
    let wanted: Shapes =
        members.iter().map(|member| (shape::of(*member, sent.stream, PEER), PACKETS)).collect();
    let ours = format!("eth.src == {} && udp.dstport == {PORT}", text(MAC));
    let seen = capture.tally(bed, &ours, &FIELDS, wanted.values().sum())?;
    let difference = shape::difference(&seen, &wanted);
    let told = router.ask(&mut vm, "doctor")? + &router.ask(&mut vm, "stats")?;
    ensure!(difference.is_empty(), "{}\n{told}\n{}", difference.join("\n"), router.said());
    // The doctor knows them too.
    ensure!(told.contains("frames are taken at") && told.contains("a daemon runs"), "{told}");
    Ok(())
}

fn members(has_sessions: bool) -> Vec<Member> {
    let native = |link| Member::Device(Device { link, tunnel: None });
    let through = |link, tunnel| Member::Device(Device { link, tunnel: Some(tunnel) });
    let mut members = vec![
        native(Link::Vlan),
        Member::Neighbour(Link::Vlan),
        native(Link::QinQ),
        through(Link::QinQ, Tunnel::Gre(Some(7))),
    ];
    if has_sessions {
        members.extend([native(Link::Session), through(Link::Session, Tunnel::Ipip)]);
    }
    members
}
