//! Packets come in fragments of a tunnel's packets.

use vmcast_common::fib::{FibOp, Members, Rpf, Stream};
use vmcast_dataplane::kernel::Rule;

use super::{RULES, SENT, come::Stand, member::Member};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    devices::{self, Device, Link},
    guest::GuestSender,
    numbered::{Heard, Hears as _, Listener},
};

/// Packets of each device and family: few enough to wait in a socket's buffer.
const PACKETS: u64 = 50;

// proves requirement E4, "put together again", with a kernel's own tunnels over IPv4 at the far end: their packets are
// larger than the machine's link takes
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let mut stand = Stand::build(bed)?;
    let may = |device: &Device| {
        device.link == Link::Wire && !device.is_stranger() && device.let_fragment().is_some()
    };
    let sources: Vec<Device> = devices::of(&bed.kernel).into_iter().filter(may).collect();
    ensure!(sources.len() == 4, "the machine has {sources:?}");
    let commands: String = sources.iter().filter_map(|device| device.let_fragment()).collect();
    devices::batch(&mut stand.vm, &format!("{commands}link set eth0 mtu 1280\n"))?;
    // The sockets of Linux forbid fragments otherwise, and a tunnel forbids them to what carries such a packet.
    stand.vm.run("echo 1 > /proc/sys/net/ipv4/ip_no_pmtu_disc")?;
    bed::in_turn(RULES, |rule| come(bed, &stand, &sources, rule))
}

fn come(bed: &Bed, stand: &Stand, sources: &[Device], rule: Rule) -> Outcome {
    let (mut router, output) = stand.start(rule)?;
    let Stand { vm, member, bystander, .. } = stand;
    let upstreams: Vec<Member> = sources.iter().map(|device| Member::Device(*device)).collect();
    router.add_tunnels(&upstreams, true)?;

    let mut in_all = 0;
    for sent in SENT.map(|sent| sent.stream) {
        let v6 = sent.group.is_ipv6();
        for device in sources.iter().filter(|device| device.carries(sent)) {
            let input = Member::Device(*device).input(router.wire.0);
            let source = device.address(v6);
            let stream = Stream { source: Some(source), group: sent.group };
            router.apply([
                FibOp::SetStream(stream, Rpf::Exact(input), Members::Own),
                FibOp::AddMember(stream, output),
            ])?;
            let listeners =
                [Listener::join(member, "eth0", sent, None)?, Listener::join(bystander, "eth0", sent, None)?];
            let sender = GuestSender::start(vm, &device.name(), source, sent, Some(PACKETS))?;
            let [member, bystander] = &listeners;
            // What has not come by then is said below.
            bed.until_counted("everything has come", PACKETS, || {
                router.serve()?;
                Ok(member.heard()?.packets.len() as u64)
            })?;
            ensure!(sender.end(bed)? == PACKETS, "a source in the machine sent less");
            let heard = member.heard()?;
            ensure!(heard.damaged == 0, "{} packets came damaged", heard.damaged);
            let complaints: Vec<String> =
                heard.difference(source, &Vec::from_iter(0..PACKETS)).into_iter().collect();
            ensure!(complaints.is_empty(), "{device:?}: {complaints:?}; not forwarded: {}", router.drops()?);
            let stray = bystander.heard()?;
            ensure!(stray == Heard::default(), "the other link was sent {} packets", stray.packets.len());
            in_all += PACKETS;
            ensure!(
                router.reassembled()? == in_all,
                "{} of {in_all} came in fragments",
                router.reassembled()?
            );
        }
    }
    router.end()
}
