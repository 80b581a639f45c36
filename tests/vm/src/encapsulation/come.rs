//! Packets come in every encapsulation.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use vmcast_common::fib::{FibOp, Members, Output, Rpf, Stream};
use vmcast_dataplane::kernel::Rule;
use vmcast_lab::Namespace;

use super::{
    RULES, SENT,
    member::Member,
    router::{self, Router, WIRE},
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    devices,
    guest::{GuestSender, GuestSession},
    numbered::{Heard, Hears as _, Listener},
    vm::Vm,
    wire::{self, Wire},
};

/// Packets of each device and family.
const PACKETS: u64 = 100;

/// A node that is to take in what the machine's devices send, with a link to a member and one to a bystander.
pub(super) struct Stand {
    pub(super) vm: Vm,
    pub(super) vmr: Namespace,
    pub(super) member: Namespace,
    pub(super) bystander: Namespace,
    _sessions: Vec<GuestSession>,
}

impl Stand {
    pub(super) fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [vmr, member, bystander] = bed.lab.namespaces(["vmr", "member", "bystander"])?;
        bed.lab.veths(&[((&vmr, "acc1"), (&member, "eth0")), ((&vmr, "acc2"), (&bystander, "eth0"))])?;
        let wire = Wire::to(bed, &vmr, WIRE)?;
        for node in [&member, &bystander] {
            node.ip("addr add 10.5.0.2/24 dev eth0\naddr add fd05::2/64 dev eth0 nodad")?;
        }
        let mut vm = bed.boot(&wire)?;
        wire::set_up(&mut vm)?;
        let _sessions = devices::make(bed, &mut vm, router::mac(&vmr, WIRE)?)?;
        Ok(Self { vm, vmr, member, bystander, _sessions })
    }

    /// The node's data plane, and its link to the member.
    pub(super) fn start(&self, rule: Rule) -> Result<(Router, Output), Failed> {
        let mut router = Router::start(&self.vmr, rule)?;
        let output = Output::Interface(router.add("acc1")?);
        router.add("acc2")?;
        Ok((router, output))
    }
}

// proves that the data plane decapsulates all that a kernel's own devices encapsulate
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let stand = Stand::build(bed)?;
    bed::in_turn(RULES, |rule| come(bed, &stand, rule))
}

fn come(bed: &Bed, stand: &Stand, rule: Rule) -> Outcome {
    let (mut router, output) = stand.start(rule)?;
    let Stand { vm, member, bystander, .. } = stand;
    let sources: Vec<_> =
        devices::of(&bed.kernel).into_iter().filter(|device| !device.is_stranger()).collect();
    let upstreams: Vec<Member> = sources.iter().map(|device| Member::Device(*device)).collect();
    router.add_tunnels(&upstreams, true)?;

    for sent in SENT.map(|sent| sent.stream) {
        let v6 = sent.group.is_ipv6();
        let listeners =
            [Listener::join(member, "eth0", sent, None)?, Listener::join(bystander, "eth0", sent, None)?];
        let carriers = sources.iter().filter(|device| device.carries(sent));
        let mut count = 0;
        for device in carriers.clone() {
            let input = Member::Device(*device).input(router.wire.0);
            let stream = Stream { source: Some(device.address(v6)), group: sent.group };
            router.apply([
                FibOp::SetStream(stream, Rpf::Exact(input), Members::Own),
                FibOp::AddMember(stream, output),
            ])?;
            count += PACKETS;
        }
        let senders: Vec<GuestSender> = carriers
            .clone()
            .map(|device| GuestSender::start(vm, &device.name(), device.address(v6), sent, Some(PACKETS)))
            .collect::<Result<_, _>>()?;
        for sender in senders {
            ensure!(sender.end(bed)? == PACKETS, "a source in the machine sent less");
        }
        let [member, bystander] = listeners;
        // What has not come by then is said below.
        bed.until_counted("everything has come", count, || Ok(member.heard()?.packets.len() as u64))?;
        let mut heard: BTreeMap<_, Heard> = BTreeMap::new();
        let all = member.heard()?;
        for (source, number) in all.packets {
            heard.entry(source).or_default().packets.push((source, number));
        }
        ensure!(all.damaged == 0, "{} packets came damaged", all.damaged);
        let mut complaints = Vec::new();
        for device in carriers {
            let source = device.address(v6);
            let came = heard.remove(&source).unwrap_or_default();
            let difference = came.difference(source, &Vec::from_iter(0..PACKETS));
            complaints.extend(difference.map(|what| format!("{device:?}, {}: {what}", sent.group)));
        }
        ensure!(complaints.is_empty(), "{}\nnot forwarded: {}", complaints.join("\n"), router.drops()?);
        ensure!(heard.is_empty(), "packets of {:?} came, too", heard.keys());
        let stray = bystander.heard()?;
        ensure!(stray == Heard::default(), "the other link was sent {} packets", stray.packets.len());
    }
    router.end()
}
