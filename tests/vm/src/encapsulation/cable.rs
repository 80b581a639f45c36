//! What streams and congestion mark, both ways: the router program inside the machine, and the kernel's own devices at
//! the other end of a cable in the machine.
//!
//! ```text
//! +--------------- machine ----------------+
//! |  +-- root ---+           +-- there --+ |
//! |  |  router   |-----------|  devices  | |
//! |  +-----------+ cable     +-----------+ |
//! +----- | ------------------------ eth0 --+
//!        | eth0, what goes to AMT and what came from there
//!       wire
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_lab::roles::Engine;

use super::{
    ENGINES, PORT, SENT,
    code_points::CodePoints,
    inside::{RouterInside, SOCKET},
    marks::{DSCP, MARKS, OWN_DSCP, PCP, marks},
    member::Member,
    program::PEER,
    shape::{self, FIELDS},
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{
        self, DEVICES, Device, Link, Tunnel,
        ears::{Ears, Sent},
    },
    frame::{self, Port, group_mac, text},
    guest::{self, GuestSender},
    numbered::{Stream, class},
    vm::{MAC, Vm},
    wire::{BRIDGE, Wire},
};

/// Packets of each stream; every fourth has the same congestion mark.
const PACKETS: u64 = 20;
/// The namespace at the far end of the cable.
const THERE: &str = "there";
/// Streams of which nobody states a priority.
const OTHERS: [Sent; 2] = [
    Sent { source: SENT[0].source, stream: Stream { group: back(false, 20), port: PORT } },
    Sent { source: SENT[1].source, stream: Stream { group: back(true, 20), port: PORT } },
];
/// The addresses of the AMT tunnels: ours, and the far end's.
const AMT: [(&str, &str); 2] = [("10.79.0.2", "10.79.0.1"), ("fd79::2", "fd79::1")];

/// What happens to outer headers on the cable, on their way to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnTheWay {
    /// Nothing.
    Untouched,
    /// They are marked as of a transport of the other kind.
    OtherTransport,
    /// They are marked, as a congested router would.
    Congestion,
}

impl OnTheWay {
    const ALL: [Self; 3] = [Self::Untouched, Self::OtherTransport, Self::Congestion];

    /// The word of nftables for the mark that all get.
    const fn mark(self) -> Option<&'static str> {
        match self {
            Self::Untouched => None,
            Self::OtherTransport => Some("ect1"),
            Self::Congestion => Some("ce"),
        }
    }

    /// The mark with which a packet goes on that has this one inside; `None` for one that may not (RFC 6040 §4.2).
    const fn merged(self, inner: u8) -> Option<u8> {
        match (self, inner) {
            (Self::Congestion, 0b00) => None,
            (Self::Congestion, _) => Some(0b11),
            (Self::OtherTransport, 0b10) => Some(0b01),
            (Self::Untouched | Self::OtherTransport, inner) => Some(inner),
        }
    }

    /// What is sent to us meanwhile.
    const fn stream(self, v6: bool) -> Stream {
        Stream { group: back(v6, 30 + self as u8), port: PORT }
    }
}

/// A group of these tests besides those of [`SENT`].
const fn back(v6: bool, last: u8) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, last as u16))
    } else {
        IpAddr::V4(Ipv4Addr::new(232, 192, 7, last))
    }
}

// proves requirement E6 for DSCP and PCP of what the configuration states, and RFC 6040 §4.1 and §4.2 in both directions
// with the kernel's own tunnels at the far end: what its devices hand to sockets has the marks that it shall, and so has
// what goes on of what they send, though its outer headers were marked on the way; what may not go on is counted
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    connect(&mut vm)?;
    bed::with_each(ENGINES, |engine| both_ways(bed, &wire, &mut vm, engine))
}

fn both_ways(bed: &Bed, wire: &Wire, vm: &mut Vm, engine: Engine) -> Outcome {
    let code_points = CodePoints::watch(vm, Some(THERE), PCP)?;
    let forwards = forwards();
    // The sources of a group that a member wants are one membership.
    let memberships =
        forwards.iter().flat_map(|forward| forward.to.iter().map(|to| (forward.stream.stream.group, to)));
    let wanted = memberships.collect::<BTreeSet<_>>().len();
    let router = RouterInside::run(bed, vm, &config(engine, &forwards), wanted)?;
    let streams = [SENT, OTHERS].concat();
    let ears = Ears::join_in(bed, vm, Some(THERE), &devices_there(true), &streams)?;

    let port = Port::open(&wire.node, BRIDGE)?;
    let capture = Capture::of_all(bed, &wire.node, BRIDGE)?;
    for number in 0..PACKETS {
        for sent in &streams {
            let packet = frame::packet_of(class(OWN_DSCP, number), sent.source, sent.stream, number)?;
            port.send(&frame::ethernet(group_mac(sent.stream.group), &[], None, &packet)?)?;
        }
        ears.until(bed, number + 1)?;
    }
    let numbers = |device: Device, _| (0..PACKETS).filter(|_| !device.is_stranger()).collect();
    ears.judge_classes(bed, numbers, |sent, number| Some(class(dscp(sent), number)))
        .map_err(|failed| explained(&failed, &router, vm))?;
    let of_each = PACKETS * SENT.len() as u64;
    code_points.judge(vm, of_each, of_each)?;

    for on_the_way in OnTheWay::ALL {
        set(vm, on_the_way)?;
        for (device, v6) in carriers() {
            let (name, from) = (device.name(), device.address(v6));
            let stream = on_the_way.stream(v6);
            let sender = GuestSender::start_of_class(vm, Some(THERE), &name, from, stream, PACKETS, DSCP)?;
            ensure!(sender.end(bed)? == PACKETS, "a source in the machine sent less");
        }
    }
    judge(bed, capture).map_err(|failed| explained(&failed, &router, vm))?;
    is_counted(&router.ask(vm, "stats --json")?)?;
    router.end(bed, vm)
}

/// What a test failed with, and what the router says of it.
fn explained(failed: &Failed, router: &RouterInside, vm: &mut Vm) -> Failed {
    let told = router.ask(vm, "stats").unwrap_or_default();
    format!("{}\n{told}\n{}", failed.message().unwrap_or_default(), router.said()).into()
}

/// The devices at the far end, with those that nobody sends to, or without.
fn devices_there(with_strangers: bool) -> Vec<Device> {
    DEVICES
        .into_iter()
        .filter(|device| device.link.session().is_none())
        .filter(|device| device.tunnel.is_none() || device.link == Link::Wire)
        .filter(|device| with_strangers || !device.is_stranger())
        .collect()
}

/// The tunnels by which packets come, each with the versions of IP that it carries.
fn carriers() -> Vec<(Device, bool)> {
    let tunnels = devices_there(false).into_iter().filter(|device| device.tunnel.is_some());
    let of_both = tunnels.flat_map(|device| [(device, false), (device, true)]);
    of_both.filter(|(device, v6)| device.carries(OnTheWay::Untouched.stream(*v6))).collect()
}

/// Lays the cable, with every device of the kernel's at the far end.
fn connect(vm: &mut Vm) -> Outcome {
    let peer = text(PEER);
    let [(amt, far), (amt6, far6)] = AMT;
    vm.run(&format!(
        "set -e\nip addr add {amt}/24 dev eth0\nip addr add {amt6}/64 dev eth0 nodad\n\
         ip neigh replace {far} lladdr {peer} dev eth0 nud permanent\n\
         ip neigh replace {far6} lladdr {peer} dev eth0 nud permanent\n\
         ip netns add {THERE}\nip link add cable address {peer} type veth peer name far"
    ))?;
    guest::turn_gro_on(vm, "far")?;
    guest::turn_checksums_on(vm, "far")?;
    let addresses = |place: &dyn Fn((IpAddr, IpAddr)) -> IpAddr, device: &str, options: &str| {
        [(false, 24), (true, 64)]
            .map(|(v6, length)| {
                let address = place(Link::Wire.ends(v6));
                let nodad = if v6 { " nodad" } else { "" };
                format!("ip {options}addr add {address}/{length} dev {device}{nodad}")
            })
            .join("\n")
    };
    vm.run(&format!(
        "set -e\nip link set far netns {THERE} name eth0\n{}\n{}\n\
         ip link set cable up\nip -n {THERE} link set eth0 up\nip -n {THERE} link set lo up",
        addresses(&|ends| ends.0, "cable", ""),
        addresses(&|ends| ends.1, "eth0", &format!("-n {THERE} "))
    ))?;
    devices::make_in(vm, THERE, PEER, &devices_there(true))?;
    vm.run(&format!(
        "ip netns exec {THERE} nft -f - <<'END'\ntable netdev way {{\n\
         chain out {{\ntype filter hook egress device \"eth0\" priority 0\n}}\n}}\nEND"
    ))?;
    Ok(())
}

/// Marks the outer headers of what goes to us from now on.
fn set(vm: &mut Vm, on_the_way: OnTheWay) -> Outcome {
    let rules = on_the_way.mark().map_or_else(String::new, |mark| {
        let tunnels = "{ 4, 41, 47 }";
        format!(
            "add rule netdev way out ip protocol {tunnels} ip ecn set {mark}\n\
             add rule netdev way out ip6 nexthdr {tunnels} ip6 ecn set {mark}\n"
        )
    });
    vm.run(&format!("ip netns exec {THERE} nft -f - <<'END'\nflush chain netdev way out\n{rules}END"))?;
    Ok(())
}

/// A stream, where it comes from and who gets it, as the configuration has them.
struct Forward {
    stream: Sent,
    from: String,
    to: Vec<String>,
}

/// What the configuration calls the way to a device: the cable itself leads to that of the wire, and the kernel has two
/// devices for what is one tunnel, by the version of IP inside.
fn name(device: Device) -> String {
    match device {
        Device { link: Link::Wire, tunnel: None } => "cable".to_owned(),
        Device { link, tunnel: Some(Tunnel::Sit) } => name(Device { link, tunnel: Some(Tunnel::Ipip) }),
        Device { .. } => format!("there-{}", device.name()),
    }
}

fn forwards() -> Vec<Forward> {
    let there = [SENT, OTHERS].concat().into_iter().map(|stream| {
        let carrying = devices_there(false).into_iter().filter(|device| device.carries(stream.stream));
        let to = carrying.map(name);
        let to = to.chain(["amt-0", "amt-1"].map(str::to_owned)).collect();
        Forward { stream, from: "eth0".to_owned(), to }
    });
    let here = OnTheWay::ALL.into_iter().flat_map(|on_the_way| {
        carriers().into_iter().map(move |(device, v6)| Forward {
            stream: Sent { source: device.address(v6), stream: on_the_way.stream(v6) },
            from: name(device),
            to: vec!["out".to_owned()],
        })
    });
    there.chain(here).collect()
}

fn config(engine: Engine, forwards: &[Forward]) -> String {
    let mut text = format!(
        "rank = 0\n[control]\nsocket = \"{SOCKET}\"\n[dataplane]\nengine = \"{}\"\n\
         [[interface]]\nname = \"eth0\"\naccepts_sources = true\n\
         [[interface]]\nname = \"out\"\ndevice = \"eth0\"\nvlan = {}\n\
         [[interface]]\nname = \"cable\"\n\
         [[priority]]\ngroups = [\"{}\", \"{}\"]\ndscp = {DSCP}\npcp = {PCP}\n",
        engine.label(),
        tags(Link::Vlan),
        SENT[0].stream.group,
        SENT[1].stream.group,
    );
    for device in devices_there(false) {
        let name = name(device);
        match device.tunnel {
            None if device.link == Link::Wire => {}
            Some(Tunnel::Sit) => {}
            None => write!(
                text,
                "[[interface]]\nname = \"{name}\"\ndevice = \"cable\"\nvlan = {}\n",
                tags(device.link)
            )
            .expect("writing to a string"),
            Some(tunnel) => {
                let (near, far) = device.link.ends(tunnel.is_over_v6());
                let (kind, key) = match tunnel {
                    Tunnel::Gre(key) | Tunnel::Ip6gre(key) => ("gre", key),
                    Tunnel::Ipip | Tunnel::Sit | Tunnel::Ip6tnl => ("ipip", None),
                };
                let key = key.map(|key| format!("key = {key}\n")).unwrap_or_default();
                write!(
                    text,
                    "[[static_tunnel]]\nname = \"{name}\"\nkind = \"{kind}\"\nlocal = \"{near}\"\n\
                     remote = \"{far}\"\naccepts_sources = true\necn = \"normal\"\n{key}"
                )
                .expect("writing to a string");
            }
        }
    }
    for (number, (near, far)) in AMT.iter().enumerate() {
        write!(
            text,
            "[[static_tunnel]]\nname = \"amt-{number}\"\nkind = \"amt\"\nlocal = \"{near}\"\nremote = \"{far}\"\n"
        )
        .expect("writing to a string");
    }
    for Forward { stream: Sent { source, stream }, from, to } in forwards {
        write!(
            text,
            "[[forward]]\ngroup = \"{}\"\nsource = \"{source}\"\nfrom = \"{from}\"\nto = {to:?}\n",
            stream.group
        )
        .expect("writing to a string");
    }
    text
}

/// The tags of a link as the configuration has them.
fn tags(link: Link) -> String {
    let tag = |(kind, vlan): &(u16, u16)| {
        let name = if *kind == frame::SERVICE_TAG { "802.1ad" } else { "802.1q" };
        format!("\"{name}:{vlan}\"")
    };
    format!("[{}]", link.tags().iter().map(tag).collect::<Vec<_>>().join(", "))
}

/// The code point for differentiated services with which a stream leaves.
fn dscp(sent: Sent) -> u8 {
    if SENT.contains(&sent) { DSCP } else { OWN_DSCP }
}

/// What a capture has of a copy besides its shape, its marks and its payload: addresses, from the outermost on.
const ENDS: [&str; 4] = ["ip.src", "ip.dst", "ipv6.src", "ipv6.dst"];

/// The number of a packet, if it is whole, and what tshark has as [`MARKS`].
type Marked = (Option<u64>, [String; 4]);

/// Fails unless the wire has carried what goes to AMT, and what of the packets from there may go on, each once, in order
/// and with its marks, and nothing else.
fn judge(bed: &Bed, capture: Capture) -> Outcome {
    let mut wanted: BTreeMap<Vec<String>, Vec<Marked>> = BTreeMap::new();
    for (sent, v6) in [SENT, OTHERS].concat().into_iter().flat_map(|sent| [(sent, false), (sent, true)]) {
        let member = Member::Amt { link: Link::Wire, v6 };
        let (near, far) = AMT[usize::from(v6)];
        let shape = [shape::of(member, sent.stream, PEER), ends(sent, Some((near, far))).to_vec()].concat();
        let pcp = if SENT.contains(&sent) { PCP } else { 0 };
        let all = (0..PACKETS)
            .map(|number| (Some(number), marks(member, sent, pcp, class(dscp(sent), number))))
            .collect();
        wanted.insert(shape, all);
    }
    let out = Member::Device(Device { link: Link::Vlan, tunnel: None });
    for on_the_way in OnTheWay::ALL {
        for (device, v6) in carriers() {
            let sent = Sent { source: device.address(v6), stream: on_the_way.stream(v6) };
            let shape = [shape::of(out, sent.stream, PEER), ends(sent, None).to_vec()].concat();
            let merged = |number| {
                let inner = class(DSCP, number);
                Some((number, inner & !0b11 | on_the_way.merged(inner & 0b11)?))
            };
            let goes_on = (0..PACKETS).filter_map(merged);
            wanted
                .insert(shape, goes_on.map(|(number, of)| (Some(number), marks(out, sent, 0, of))).collect());
        }
    }
    let ours = format!("eth.src == {} && udp.dstport == {PORT}", text(MAC));
    let fields: Vec<&str> = FIELDS.into_iter().chain(ENDS).chain(MARKS).chain(["data.data"]).collect();
    let mut came: BTreeMap<Vec<String>, Vec<Marked>> = BTreeMap::new();
    let frames: usize = wanted.values().map(Vec::len).sum();
    for mut row in capture.rows(bed, &ours, &fields, frames as u64)? {
        let number = shape::number_of(&row.pop().unwrap_or_default());
        let marks = row.split_off(FIELDS.len() + ENDS.len());
        let marks = marks.try_into().map_err(|row| format!("tshark has {row:?} as marks"))?;
        came.entry(row).or_default().push((number, marks));
    }
    for (shape, wanted) in wanted {
        let came = came.remove(&shape).unwrap_or_default();
        ensure!(came == wanted, "of {} came {came:?}, not {wanted:?}", shape.join(" | "));
    }
    ensure!(came.is_empty(), "nobody's copies were sent: {:?}", came.keys());
    Ok(())
}

/// What tshark has as [`ENDS`] of a packet of a stream, perhaps in a tunnel with these ends.
fn ends(sent: Sent, tunnel: Option<(&str, &str)>) -> [String; 4] {
    let mut ends: [Vec<String>; 4] = Default::default();
    let mut add = |from: &str, to: &str| {
        let first = if from.contains(':') { 2 } else { 0 };
        ends[first].push(from.to_owned());
        ends[first + 1].push(to.to_owned());
    };
    if let Some((from, to)) = tunnel {
        add(from, to);
    }
    add(&sent.source.to_string(), &sent.stream.group.to_string());
    ends.map(|all| all.join(","))
}

/// Fails unless the packets that may not go on are counted as such.
fn is_counted(stats: &str) -> Outcome {
    let drops = &serde_json::from_str::<Value>(stats)?["drops"];
    let all = PACKETS / 4 * carriers().len() as u64;
    ensure!(drops["congestion"] == all, "{all} packets may not go on, and of all are counted {drops}");
    Ok(())
}
