//! The marks of streams, and those of congestion, on copies in every encapsulation.

use std::thread;

use vmcast_common::{
    fib::{FibOp, Input, Members, Priority, Rpf, TunnelKind},
    hdr::ecn,
};
use vmcast_dataplane::kernel::Rule;

use super::{
    RULES, SENT,
    code_points::CodePoints,
    leave::{Stand, carries, hears, stream},
    member::Member,
    router::Router,
    shape::{self, FIELDS, Shapes},
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{
        DEVICES, Device, Link,
        ears::{Ears, Sent},
    },
    frame::{self, Port, text},
    numbered::{PACE, class},
    vm::MAC,
    wire::BRIDGE,
};

/// Packets of each stream; every fourth has the same congestion mark.
const PACKETS: u64 = 40;
/// Expedited forwarding (RFC 3246), and the code point of tags for voice.
pub(super) const DSCP: u8 = 46;
pub(super) const PCP: u8 = 5;
/// What the source says of its packets: high-throughput data (RFC 2597).
pub(super) const OWN_DSCP: u8 = 10;
/// The fields with the marks: code points of tags, types of service, traffic classes, each from the outermost on.
pub(super) const MARKS: [&str; 4] = ["ieee8021ad.priority", "vlan.priority", "ip.dsfield", "ipv6.tclass"];

// proves requirement E6 for DSCP and PCP, and what RFC 6040 and RFC 9601 say of what goes into a tunnel, in the eyes of
// tshark; and that a kernel's own devices take all of it, and hand packets with the same marks to sockets
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let mut stand = Stand::build(bed)?;
    bed::in_turn(RULES, |rule| leave(bed, &mut stand, rule))
}

fn leave(bed: &Bed, stand: &mut Stand, rule: Rule) -> Outcome {
    let mut router = Router::start(&stand.vmr, rule)?;
    let code_points = CodePoints::watch(&mut stand.vm, None, PCP)?;
    let input = Input::Interface(router.add("src0")?);
    let members = members();
    router.add_tunnels(&members, false)?;
    let priority = Priority { dscp: Some(DSCP), pcp: PCP, ..Priority::default() };
    for sent in SENT {
        let stream = stream(sent);
        let output = |member: &Member| FibOp::AddMember(stream, member.output(router.wire.0));
        let outputs: Vec<FibOp> =
            members.iter().filter(|member| carries(**member, sent)).map(output).collect();
        let set = FibOp::SetStream(stream, Rpf::Exact(input), Members::Own);
        router.apply([set, FibOp::SetPriority(stream, priority)].into_iter().chain(outputs))?;
    }
    let port = Port::open(&stand.source, "eth0")?;
    let capture = Capture::of_all(bed, &stand.wire.node, BRIDGE)?;
    let ears = Ears::join(bed, &stand.vm, &SENT)?;

    for number in 0..PACKETS {
        for sent in SENT {
            let packet = frame::packet_of(class(OWN_DSCP, number), sent.source, sent.stream, number)?;
            port.send(&frame::ethernet(frame::group_mac(sent.stream.group), &[], None, &packet)?)?;
        }
        // The machine is slow, and the tap drops what it does not take.
        thread::sleep(PACE * u32::try_from(members.len().div_ceil(2))?);
    }
    router.until_forwarded(bed, PACKETS * SENT.len() as u64)?;
    let numbers = |device: Device, _| {
        let heard = members.iter().any(|member| hears(*member) == Some(device));
        (0..PACKETS).filter(|_| heard).collect()
    };
    ears.judge_classes(bed, numbers, |_, number| Some(class(DSCP, number)))?;
    code_points.judge(&mut stand.vm, PACKETS * SENT.len() as u64, 0)?;
    let mut expected = Shapes::new();
    for member in members {
        for sent in SENT.into_iter().filter(|sent| carries(member, *sent)) {
            for number in 0..PACKETS {
                let mut row = shape::of(member, sent.stream, MAC);
                row.extend(marks(member, sent, PCP, class(DSCP, number)));
                *expected.entry(row).or_default() += 1;
            }
        }
    }
    let ours = format!("eth.src == {} && udp.dstport == {}", text(router.wire.1), SENT[0].stream.port);
    let fields: Vec<&str> = FIELDS.into_iter().chain(MARKS).collect();
    let seen = capture.tally(bed, &ours, &fields, expected.values().sum())?;
    let difference = shape::difference(&seen, &expected);
    ensure!(difference.is_empty(), "{}", difference.join("\n"));
    router.end()
}

/// Every device of the machine, and AMT on every link.
fn members() -> Vec<Member> {
    let devices = DEVICES.into_iter().filter(|device| !device.is_stranger()).map(Member::Device);
    let amt = Link::ALL.into_iter().flat_map(|link| [false, true].map(|v6| Member::Amt { link, v6 }));
    devices.chain(amt).collect()
}

/// What tshark is to find in [`MARKS`] of a copy with this code point in its tags and this type of service or traffic
/// class.
pub(super) fn marks(member: Member, sent: Sent, pcp: u8, class: u8) -> [String; 4] {
    let tags = |service: bool| {
        let tags = member.link().tags().iter().filter(|(kind, _)| (*kind == frame::SERVICE_TAG) == service);
        tags.map(|_| pcp.to_string()).collect::<Vec<_>>().join(",")
    };
    let tunnel = member.tunnelled();
    // A gateway may be one that throws the outer mark away (RFC 9601 §5): then congestion is not to be told by it.
    let outer = match tunnel {
        Some((TunnelKind::Amt, _)) => class & !ecn::MASK,
        _ => class,
    };
    let mut classes = [Vec::new(), Vec::new()];
    let mut add = |v6: bool, class: u8| {
        // Tshark writes a traffic class in more digits.
        let digits = if v6 { 8 } else { 2 };
        classes[usize::from(v6)].push(format!("0x{class:0digits$x}"));
    };
    if let Some((_, v6)) = tunnel {
        add(v6, outer);
    }
    add(sent.stream.group.is_ipv6(), class);
    let [v4, v6] = classes.map(|all| all.join(","));
    [tags(true), tags(false), v4, v6]
}
