//! WireGuard: the router program inside the machine sends by a device whose far end is in a namespace of the machine,
//! natively and through tunnels, and takes in what comes from there.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use vmcast_lab::roles::Engine;

use super::{
    PORT, SENT,
    inside::{RouterInside, SOCKET},
    member::Member,
    program::PEER,
    shape,
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{self, Device, Link},
    frame::{self, Port, group_mac},
    guest::{GuestListeners, GuestSender},
    numbered::Stream,
    vm::Vm,
    wire::{self, BRIDGE, Wire},
};

/// Packets of each stream.
const PACKETS: u64 = 30;
/// Between two of them: the machine is slow.
const PACE: Duration = Duration::from_millis(20);
/// The namespace at the far end.
const THERE: &str = "there";
/// What is sent from there.
const BACK: Stream = Stream { group: IpAddr::V4(Ipv4Addr::new(232, 192, 7, 4)), port: PORT };
const BACK_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 81, 0, 2));
/// Where the streams come out: of the device itself, and of the kernel's tunnels over it.
const OUT: [&str; 3] = ["wg0", "gre1", "six1"];

// proves that a device which chooses its peer by the packet takes what is handed to it, each packet once and in order
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    devices::make_links(&mut vm, PEER, [Link::Vlan])?;
    connect(bed, &mut vm)?;
    bed::with_each([Engine::Auto, Engine::Software], |engine| both_ways(bed, &wire, &mut vm, engine))
}

fn both_ways(bed: &Bed, wire: &Wire, vm: &mut Vm, engine: Engine) -> Outcome {
    let forwards: String = SENT
        .iter()
        .map(|sent| {
            format!(
                "[[forward]]\ngroup = \"{}\"\nsource = \"{}\"\nfrom = \"eth0\"\nto = [\"gre\", \"wg0\", \"six\"]\n",
                sent.stream.group, sent.source
            )
        })
        .collect();
    let config = format!(
        "rank = 0\n[control]\nsocket = \"{SOCKET}\"\n[dataplane]\nengine = \"{}\"\n\
         [[interface]]\nname = \"eth0\"\naccepts_sources = true\n[[interface]]\nname = \"vlan\"\n\
         [[interface]]\nname = \"wg0\"\naccepts_sources = true\n\
         [[static_tunnel]]\nname = \"gre\"\nkind = \"gre\"\nlocal = \"10.81.0.1\"\nremote = \"10.81.0.2\"\n\
         [[static_tunnel]]\nname = \"six\"\nkind = \"ipip\"\nlocal = \"fd81::1\"\nremote = \"fd81::2\"\n\
         [[forward]]\ngroup = \"{}\"\nsource = \"{BACK_SOURCE}\"\nfrom = \"wg0\"\nto = [\"vlan\"]\n{forwards}",
        engine.label(),
        BACK.group
    );
    let router = RouterInside::run(bed, vm, &config, SENT.len() * OUT.len() + 1)?;
    let places: Vec<_> = OUT.iter().flat_map(|name| SENT.iter().map(move |sent| (*name, *sent))).collect();
    let memberships = places.iter().map(|(name, sent)| (*name, sent.stream, None));
    let listeners = GuestListeners::join_in(bed, vm, Some(THERE), memberships)?;

    let port = Port::open(&wire.node, BRIDGE)?;
    let capture = Capture::of_all(bed, &wire.node, BRIDGE)?;
    for number in 0..PACKETS {
        for sent in SENT {
            let packet = frame::packet(sent.source, sent.stream, number)?;
            port.send(&frame::ethernet(group_mac(sent.stream.group), &[], None, &packet)?)?;
            thread::sleep(PACE);
        }
    }
    // What has not come by then is said below.
    listeners.until_all(bed, |_| PACKETS)?;
    let told = router.ask(vm, "stats")?;
    let expected: Vec<u64> = (0..PACKETS).collect();
    for ((name, sent), heard) in places.iter().zip(listeners.leave(bed)?) {
        let difference = heard.difference(sent.source, &expected);
        ensure!(difference.is_none(), "{name}, {}: {difference:?}\n{told}", sent.stream.group);
    }

    GuestSender::start_in(vm, Some(THERE), "wg0", BACK_SOURCE, BACK, Some(PACKETS))?.end(bed)?;
    let wanted = shape::of(Member::Device(Device { link: Link::Vlan, tunnel: None }), BACK, PEER);
    let came = shape::came(bed, capture, PACKETS)?;
    shape::each_once(came, &[wanted], PACKETS, &router.ask(vm, "stats")?)?;
    router.end(bed, vm)
}

/// Makes a namespace at the far end of a cable, WireGuard over that, and the kernel's tunnels at the far end.
fn connect(bed: &Bed, vm: &mut Vm) -> Outcome {
    let wg = bed.kernel.pieces.wg().display().to_string();
    let end = |at: &str, number: u8, other: u8, key: &str, peer: &str| {
        let ip = format!("ip{at}");
        let there = if at.is_empty() { String::new() } else { format!("ip netns exec {THERE} ") };
        format!(
            "{ip} link add wg0 type wireguard\n\
             {there}{wg} set wg0 listen-port 51820 private-key /tmp/{key}.key \
             peer $({wg} pubkey < /tmp/{peer}.key) endpoint 10.80.0.{other}:51820 allowed-ips 0.0.0.0/0,::/0\n\
             {ip} addr add 10.81.0.{number}/24 dev wg0\n{ip} addr add fd81::{number}/64 dev wg0 nodad\n\
             {ip} link set wg0 up\n"
        )
    };
    let over = |name: &str, kind: &str, net: u8| {
        format!(
            "ip -n {THERE} link add {name} type {kind}\nip -n {THERE} link set {name} up multicast on\n\
             ip -n {THERE} addr add 10.{net}.0.2/24 dev {name}\nip -n {THERE} addr add fd{net}::2/64 dev {name} nodad\n"
        )
    };
    vm.run(&format!(
        "set -e\numask 077\n{wg} genkey > /tmp/a.key\n{wg} genkey > /tmp/b.key\n\
         ip netns add {THERE}\nip link add cable type veth peer name cable netns {THERE}\n\
         ip addr add 10.80.0.1/24 dev cable\nip link set cable up\n\
         ip -n {THERE} addr add 10.80.0.2/24 dev cable\nip -n {THERE} link set cable up\n\
         ip -n {THERE} link set lo up\n{}{}{}{}ip -n {THERE} route add default dev wg0\n\
         ip -n {THERE} route add ::/0 dev wg0\n",
        end("", 1, 2, "a", "b"),
        end(&format!(" -n {THERE}"), 2, 1, "b", "a"),
        over("gre1", "gre local 10.81.0.2 remote 10.81.0.1", 82),
        over("six1", "ip6tnl mode any local fd81::2 remote fd81::1 encaplimit none", 83),
    ))?;
    Ok(())
}
