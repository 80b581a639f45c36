//! Frames as tshark names their parts.

use std::collections::BTreeMap;

use libtest_mimic::Failed;

use super::{PORT, member::Member};
use crate::{
    bed::{Bed, Outcome, ensure},
    capture::Capture,
    devices::{Device, Tunnel},
    frame::{SERVICE_TAG, group_mac, text},
    numbered::{Stream, number},
    vm::MAC,
};

/// The fields that make a shape.
pub(super) const FIELDS: [&str; 7] =
    ["frame.protocols", "eth.dst", "ieee8021ad.id", "vlan.id", "pppoe.session_id", "gre.key", "amt.type"];

/// How many frames there are of each shape.
pub(super) type Shapes = BTreeMap<Vec<String>, u64>;

/// The numbers of the packets in frames of each shape, in the order in which they passed; `None` for one that is not whole.
pub(super) type Came = BTreeMap<Vec<String>, Vec<Option<u64>>>;

/// Ends a capture once the machine has sent so many packets of the streams, and says what has come.
pub(super) fn came(bed: &Bed, capture: Capture, packets: u64) -> Result<Came, Failed> {
    let ours = format!("eth.src == {} && udp.dstport == {PORT}", text(MAC));
    let fields = [&FIELDS[..], &["data.data"]].concat();
    let mut came = Came::new();
    for mut row in capture.rows(bed, &ours, &fields, packets)? {
        let payload = row.pop().unwrap_or_default();
        came.entry(row).or_default().push(number_of(&payload));
    }
    Ok(came)
}

/// Fails unless so many packets have come once and in order in each shape, and nothing in another. `told` is shown then.
pub(super) fn each_once(mut came: Came, shapes: &[Vec<String>], packets: u64, told: &str) -> Outcome {
    let expected: Vec<_> = (0..packets).map(Some).collect();
    for shape in shapes {
        let came = came.remove(shape).unwrap_or_default();
        ensure!(came == expected, "to {} went {came:?}, not each once\n{told}", shape.join(" | "));
    }
    ensure!(came.is_empty(), "nobody's copies were sent: {:?}", came.keys());
    Ok(())
}

/// The shape of a member's copy, as tshark's fields have it; `neighbour` is the far end of its link.
pub(super) fn of(member: Member, stream: Stream, neighbour: [u8; 6]) -> Vec<String> {
    let link = member.link();
    let version = |v6: bool| if v6 { ":ipv6" } else { ":ip" };
    let mut protocols = "eth:ethertype".to_owned();
    for (kind, _) in link.tags() {
        protocols.push_str(if *kind == SERVICE_TAG { ":ieee8021ad:ethertype" } else { ":vlan:ethertype" });
    }
    if link.session().is_some() {
        protocols.push_str(":pppoes:ppp");
    }
    let mut key = None;
    match member {
        Member::Neighbour(_) | Member::Device(Device { tunnel: None, .. }) => {}
        Member::Device(Device { tunnel: Some(tunnel), .. }) => {
            protocols.push_str(version(tunnel.is_over_v6()));
            if let Tunnel::Gre(of) | Tunnel::Ip6gre(of) = tunnel {
                protocols.push_str(":gre");
                key = of;
            }
        }
        Member::Amt { v6, .. } => {
            protocols.push_str(version(v6));
            protocols.push_str(":udp:amt");
            if stream.group.is_ipv6() {
                // Tshark looks at the version only once it has begun with IPv4.
                protocols.push_str(version(false));
            }
        }
    }
    protocols.push_str(version(stream.group.is_ipv6()));
    protocols.push_str(":udp:data");
    let to_group = matches!(member, Member::Device(Device { tunnel: None, .. })) && link.session().is_none();
    let tags = |service: bool| {
        let tags = link.tags().iter().filter(|(kind, _)| (*kind == SERVICE_TAG) == service);
        tags.map(|(_, vlan)| vlan.to_string()).collect::<Vec<_>>().join(",")
    };
    vec![
        protocols,
        text(if to_group { group_mac(stream.group) } else { neighbour }),
        tags(true),
        tags(false),
        link.session().map(|(number, _)| format!("0x{number:04x}")).unwrap_or_default(),
        key.map(|key| format!("0x{key:08x}")).unwrap_or_default(),
        if matches!(member, Member::Amt { .. }) { "6".to_owned() } else { String::new() },
    ]
}

/// The number of a payload as tshark has it, if that is whole and unchanged.
pub(super) fn number_of(payload: &str) -> Option<u64> {
    let digits: Vec<u8> = payload.bytes().filter(|digit| *digit != b':').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    number(&digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?)
}

/// What differs between two tallies, for people.
pub(super) fn difference(seen: &Shapes, expected: &Shapes) -> Vec<String> {
    let mut all: Vec<_> = seen.keys().chain(expected.keys()).collect();
    all.sort();
    all.dedup();
    all.into_iter()
        .map(|shape| (shape, seen.get(shape).unwrap_or(&0), expected.get(shape).unwrap_or(&0)))
        .filter(|(_, seen, expected)| seen != expected)
        .map(|(shape, seen, expected)| format!("{seen} frames, not {expected}, are {}", shape.join(" | ")))
        .collect()
}
