//! Devices of the kernel whose packets have no link-layer header: its tunnels and PPP. The router program inside the
//! machine hands them its copies, and takes what comes in by them.

use std::{fmt::Write as _, thread, time::Duration};

use vmcast_lab::roles::Engine;

use super::{
    ENGINES, SENT,
    inside::{RouterInside, SOCKET},
    member::Member,
    program::PEER,
    shape,
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{self, Device, Link, Tunnel},
    frame::{self, Port, SENDER, group_mac},
    numbered::Stream,
    vm::Vm,
    wire::{self, BRIDGE, Wire},
};

/// Packets of each stream.
const PACKETS: u64 = 10;
/// Between two of them: the machine is slow.
const PACE: Duration = Duration::from_millis(25);

// proves that copies leave by devices without a link-layer header, whatever version of IP their outer header is of, and
// those for a VLAN among them as ever, each once and in order, and nobody else any
pub(super) fn leave(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let _sessions = devices::make(bed, &mut vm, PEER)?;
    bed::with_each(ENGINES, |engine| leave_by(bed, &wire, &mut vm, engine))
}

fn leave_by(bed: &Bed, wire: &Wire, vm: &mut Vm, engine: Engine) -> Outcome {
    let devices = devices::of(&bed.kernel);
    let members = members(&devices);
    let networks: Vec<Device> =
        devices.into_iter().filter(|device| device.tunnel.is_some() && !device.is_stranger()).collect();
    let router = RouterInside::start_with(bed, vm, engine, &SENT, &members, &networks)?;

    let port = Port::open(&wire.node, BRIDGE)?;
    let capture = Capture::of_all(bed, &wire.node, BRIDGE)?;
    for number in 0..PACKETS {
        for sent in SENT {
            let packet = frame::packet(sent.source, sent.stream, number)?;
            port.send(&frame::ethernet(group_mac(sent.stream.group), &[], None, &packet)?)?;
            thread::sleep(PACE);
        }
    }
    let all = || networks.iter().map(|device| Member::Device(*device)).chain(members.iter().copied());
    let carried = |member: &Member, stream: Stream| match member {
        Member::Device(device) if networks.contains(device) => device.carries(stream),
        Member::Device(_) | Member::Neighbour(_) | Member::Amt { .. } => true,
    };
    let shapes: Vec<_> = SENT
        .iter()
        .flat_map(|sent| all().map(|member| (member, sent.stream)))
        .filter(|(member, stream)| carried(member, *stream))
        .map(|(member, stream)| shape::of(member, stream, PEER))
        .collect();
    let came = shape::came(bed, capture, PACKETS * shapes.len() as u64)?;
    shape::each_once(came, &shapes, PACKETS, &router.ask(vm, "stats")?)?;
    router.end(bed, vm)
}

/// What our own program makes: on a VLAN as ever, and by way of the sessions, which none of the kernel's tunnels are.
fn members(devices: &[Device]) -> Vec<Member> {
    let links = devices.iter().filter(|device| device.tunnel.is_none()).map(|device| device.link);
    let sessions = links.filter(|link| link.session().is_some()).flat_map(|link| {
        let through = |tunnel| Member::Device(Device { link, tunnel: Some(tunnel) });
        [
            Member::Device(Device { link, tunnel: None }),
            through(Tunnel::Gre(Some(4711))),
            through(Tunnel::Ip6gre(Some(4712))),
            Member::Amt { link, v6: false },
            Member::Amt { link, v6: true },
        ]
    });
    let vlan = Member::Device(Device { link: Link::Vlan, tunnel: None });
    // Before, between and behind the others.
    let vlan_amt = [false, true].map(|v6| Member::Amt { link: Link::Vlan, v6 });
    [vlan].into_iter().chain(sessions).chain(vlan_amt).collect()
}

// proves that what the kernel takes out of its tunnels and sessions is taken in
pub(super) fn come(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let _sessions = devices::make(bed, &mut vm, SENDER)?;
    bed::with_each(ENGINES, |engine| come_by(bed, &wire, &mut vm, engine))
}

fn come_by(bed: &Bed, wire: &Wire, vm: &mut Vm, engine: Engine) -> Outcome {
    let is_bare = |device: &Device| device.tunnel.is_some() || device.link.session().is_some();
    let inputs: Vec<Device> = devices::of(&bed.kernel)
        .into_iter()
        .filter(|device| is_bare(device) && !device.is_stranger())
        .collect();
    let mut config = format!(
        "rank = 0\n[control]\nsocket = \"{SOCKET}\"\n[dataplane]\nengine = \"{}\"\n\
         [[interface]]\nname = \"vlan\"\n",
        engine.label()
    );
    for device in &inputs {
        write!(config, "[[interface]]\nname = \"{}\"\naccepts_sources = true\n", device.name())?;
    }
    for sent in SENT {
        write!(
            config,
            "[[forward]]\ngroup = \"{}\"\nsource = \"{}\"\nfrom = \"any\"\nto = [\"vlan\"]\n",
            sent.stream.group, sent.source
        )?;
    }
    let router = RouterInside::run(bed, vm, &config, SENT.len())?;

    let port = Port::open(&wire.node, BRIDGE)?;
    let capture = Capture::of_all(bed, &wire.node, BRIDGE)?;
    // Of each stream, by which device each packet is sent.
    let mut sent_by = SENT.map(|_| Vec::new());
    for _ in 0..PACKETS {
        for device in &inputs {
            for (sent, by) in SENT.iter().zip(&mut sent_by) {
                if device.carries(sent.stream) {
                    let packet = frame::packet(sent.source, sent.stream, by.len() as u64)?;
                    port.send(&devices::encapsulate(*device, sent.stream, &packet)?)?;
                    by.push(device.number());
                    thread::sleep(PACE);
                }
            }
        }
    }
    let mut seen = shape::came(bed, capture, sent_by.iter().map(|by| by.len() as u64).sum())?;
    let told = router.ask(vm, "stats")?;
    let vlan = Member::Device(Device { link: Link::Vlan, tunnel: None });
    for (sent, by) in SENT.iter().zip(sent_by) {
        let came = seen.remove(&shape::of(vlan, sent.stream, SENDER)).unwrap_or_default();
        // What came in by different devices may have other turns.
        for device in &inputs {
            let is_its = |number: &Option<u64>| {
                number.is_some_and(|number| by.get(number as usize) == Some(&device.number()))
            };
            let its: Vec<_> = came.iter().copied().filter(is_its).collect();
            let all: Vec<_> = (0..by.len() as u64).map(Some).filter(is_its).collect();
            ensure!(its == all, "by {device:?} came {its:?} and not {all:?}\n{told}");
        }
        ensure!(came.len() == by.len(), "of {} packets came {came:?}\n{told}", by.len());
    }
    ensure!(seen.is_empty(), "nobody's copies were sent: {:?}", seen.keys());
    router.end(bed, vm)
}
