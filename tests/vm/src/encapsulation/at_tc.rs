//! The TC engine on the machine's kernel: its verifier takes the programs, they hang as a link or as a filter, and a
//! list that is longer than one run of a program serves each of its members.

use std::{thread, time::Duration};

use vmcast_common::hdr::eth::Mac;
use vmcast_lab::roles::Engine;

use super::{
    SENT,
    inside::{RouterInside, Sessions},
    member::Member,
    program::PEER,
    shape,
};
use crate::{
    bed::{Bed, Outcome, ensure},
    capture::Capture,
    devices::{self, Device, Link, Tunnel},
    frame::{self, Port, group_mac},
    vm::Vm,
    wire::{self, BRIDGE, Wire},
};

/// Packets of each stream.
const PACKETS: u64 = 20;
/// Between two of them: each is nearly two hundred copies, and the machine is slow.
const PACE: Duration = Duration::from_millis(25);
/// Members by their link-layer addresses. A run of the program makes 31 copies for one device, so with the others this is
/// six runs and a part of a seventh.
const HOSTS: u8 = 136;
/// How often a packet goes through the relay device on its way along such a list.
const PAUSES: u64 = 6;

// proves that the programs at TC load and attach on other kernels, and that each of many members gets each packet
// once, in order, as its link and tunnel have it, and nobody else anything
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let sessions = devices::make(bed, &mut vm, PEER)?;
    let (members, hosts) = members(!sessions.is_empty());
    let router = RouterInside::start(bed, &mut vm, Engine::Tc, &SENT, &members, &hosts, Sessions::Stated)?;
    let status = router.ask(&mut vm, "status --json")?;
    ensure!(status.contains("\"label\": \"tc-clone\""), "the engine is none: {status}");
    is_attached(&mut vm, bed.kernel.has_links_at_tc())?;
    let doctor = router.ask(&mut vm, "doctor")?;
    let way = if bed.kernel.has_links_at_tc() { "links of their own" } else { "hang on a clsact qdisc" };
    ensure!(doctor.contains(way), "{doctor}");
    ensure!(doctor.contains("the kernel takes their filters"), "no shares before sockets: {doctor}");

    let port = Port::open(&wire.node, BRIDGE)?;
    let capture = Capture::of_all(bed, &wire.node, BRIDGE)?;
    for number in 0..PACKETS {
        for sent in SENT {
            let packet = frame::packet(sent.source, sent.stream, number)?;
            port.send(&frame::ethernet(group_mac(sent.stream.group), &[], None, &packet)?)?;
            thread::sleep(PACE);
        }
    }
    let members = members.into_iter().map(|member| (member, PEER));
    let hosts = hosts.into_iter().map(|(link, mac)| (Member::Neighbour(link), mac));
    let members: Vec<_> = members.chain(hosts).collect();
    let shapes = SENT.iter().flat_map(|sent| members.iter().map(|member| (*member, sent.stream)));
    let shapes: Vec<_> = shapes.map(|((member, mac), stream)| shape::of(member, stream, mac)).collect();
    let came = shape::came(bed, capture, PACKETS * shapes.len() as u64)?;
    shape::each_once(came, &shapes, PACKETS, &router.ask(&mut vm, "stats")?)?;
    let relayed = through_relay(&mut vm)?;
    let wanted = PACKETS * SENT.len() as u64 * PAUSES;
    ensure!(relayed == wanted, "{relayed} packets went on along the list through the relay, not {wanted}");

    router.end(bed, &mut vm)?;
    let left = vm.run("tc filter show dev eth0 ingress; ls /sys/class/net | grep '^vmc' || true")?;
    ensure!(left.is_empty(), "the router has left: {left}");
    Ok(())
}

/// Members on every link but the wire: its network, hosts by their link-layer addresses, and tunnels of each kind over
/// either version of IP.
fn members(has_sessions: bool) -> (Vec<Member>, Vec<(Link, Mac)>) {
    let is_there = |link: &Link| *link != Link::Wire && (has_sessions || link.session().is_none());
    let links: Vec<Link> = Link::ALL.into_iter().filter(is_there).collect();
    let native = links.iter().map(|link| Member::Device(Device { link: *link, tunnel: None }));
    let tunnels = links.iter().flat_map(|&link| {
        let kinds = [
            Tunnel::Gre(None),
            Tunnel::Gre(Some(4711)),
            Tunnel::Ipip,
            Tunnel::Ip6tnl,
            Tunnel::Ip6gre(None),
            Tunnel::Ip6gre(Some(4712)),
        ];
        let of = kinds.map(|tunnel| Member::Device(Device { link, tunnel: Some(tunnel) }));
        of.into_iter().chain([false, true].map(|v6| Member::Amt { link, v6 }))
    });
    // A session has one other end.
    let shared = links.iter().filter(|link| link.session().is_none()).cycle();
    let hosts = (1..=HOSTS).zip(shared).map(|(number, link)| (*link, [0x02, 0, 0, 0, 0x71, number]));
    (native.chain(tunnels).collect(), hosts.collect())
}

/// Fails unless the program that decides is on the wire's device as a filter, or as a link, which is no filter.
fn is_attached(vm: &mut Vm, as_link: bool) -> Outcome {
    let filters = vm.run("tc filter show dev eth0 ingress")?;
    let is_filter = filters.contains("vmcast_clone") && filters.contains("direct-action");
    ensure!(is_filter != as_link, "the filters of the device are {filters:?}");
    Ok(())
}

/// Packets that came out of the relay device to members at TC.
fn through_relay(vm: &mut Vm) -> Result<u64, libtest_mimic::Failed> {
    Ok(vm.run("cat /sys/class/net/vmc*p/statistics/rx_packets")?.parse()?)
}
