//! The kernel's AMT gateway and our relay, with a source behind it.
//!
//! ```text
//! +--------+ network 1 +-----+ wire, 10.70.0.0/24 +---------+
//! | source |-----------| vmr |--------------------| machine |
//! | .2 .3  |      src0 |     | mch0               | amt0    |
//! +--------+           |     | network 51         +---------+
//!                      |     |------------------ bystander
//!                      +-----+ acc1
//! ```

use std::net::{IpAddr, Ipv4Addr};

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::{Carriage, Witness},
};

use super::{DISCOVERY_TO_DATA, ENGINES, FEWER, Inside, MEMBERSHIP, SOME, came_in, forbid, is_engine, many};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::{Capture, Wanted},
    guest::GuestListener,
    numbered::{Hears as _, Sender},
    vm::Vm,
    wire::{self, BRIDGE, GUEST, HOST, NEAR, Wire},
};

/// Networks by their numbers.
const SOURCES: u8 = 1;
const BYSTANDERS: u8 = 51;
const GATEWAY: u8 = 72;

/// What stays while one relay follows the other.
struct Stand {
    inside: Inside,
    source: Namespace,
    vmr: Namespace,
    bystander: Namespace,
    wire: Wire,
    vm: Vm,
}

/// What the parts of the tests share.
struct Site<'a> {
    bed: &'a Bed,
    stand: &'a mut Stand,
    router: Role,
    /// What must never come in on another link.
    nobody: [Witness; 2],
    capture: Option<Capture>,
}

/// Where the kernel's gateway asks for its relay.
#[derive(Clone, Copy, Debug)]
enum Discovery {
    /// At the relay's own address.
    Own,
    /// At one of the prefix for it (RFC 7450 §7.1), which leads there.
    Anycast,
}

const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 52, 193, 1);

// proves that a kernel's gateway gets the stream from our relay, each packet once and in order, and that
// a leave ends it (RFC 7450 §5.3.3.3, §5.3.3.4, §5.3.3.6)
pub(super) fn test(bed: &mut Bed, inside: Inside) -> Outcome {
    let mut stand = Stand::build(bed, inside)?;
    bed::with_each(ENGINES, |engine| {
        let site = Site::open(bed, &mut stand, engine, Discovery::Own, MEMBERSHIP)?;
        site.any_source(many(inside, engine))?;
        site.channel()?;
        site.end(&DISCOVERY_TO_DATA, &[])
    })
}

// proves that a kernel's gateway which asks at an anycast address is told of the relay's own, and takes its tunnel there
// (RFC 7450 §5.3.3.2)
pub(super) fn anycast(bed: &mut Bed, inside: Inside) -> Outcome {
    let mut stand = Stand::build(bed, inside)?;
    let site = Site::open(bed, &mut stand, Engine::Auto, Discovery::Anycast, MEMBERSHIP)?;
    site.any_source(FEWER)?;
    let shown = site.stand.vm.run("ip -d link show amt0")?;
    ensure!(
        shown.contains(&format!("remote {HOST}")) && shown.contains(&format!("discovery {ANYCAST}")),
        "the gateway is {shown}"
    );
    let stats = site.router.ask(&["stats"]).unwrap_or_default();
    let relay = &stats["control"]["relay"];
    ensure!(
        relay["discoveries"].as_u64() > Some(0) && relay["not_discovery"] == 0,
        "the relay has counted {relay}"
    );
    // From where it was asked, and what it says; everything else is between the relay's own address and the gateway.
    let advertised = format!("amt.type == 2 && ip.src == {ANYCAST} && amt.relay_address.ipv4 == {HOST}");
    let elsewhere = format!("amt.type > 2 && ip.addr == {ANYCAST}");
    site.end(&DISCOVERY_TO_DATA, &[(&advertised, Wanted::Rounds(1)), (&elsewhere, Wanted::Nothing)])
}

/// IGMP with which a host that is silent is missed after 39 s, and MLD with which one is after 15 s. A host of IGMP
/// version 1 takes ten to answer, and is asked every five.
const SOON_MISSED: &str = "[igmp]\nquery_interval_seconds = 5\nquery_response_interval_seconds = 4\nrobustness_variable = 7\n\
     [mld]\nquery_interval_seconds = 2\nquery_response_interval_seconds = 1\nrobustness_variable = 7\n";

// proves that a host behind a kernel's gateway gets the stream as long as it answers: by version 1, which has no leave
// that the driver takes, until it is silent (RFC 9776 §7.3.2, RFC 9777 §8.3.2); not by IGMPv2, of which the driver takes
// neither reports nor leaves: `amt_dev_xmit` (drivers/net/amt.c) lets reports of the versions 1 and 3 through and drops
// the rest (6.1 and 6.12: its device counts them as `tx_dropped`, and the relay gets no Membership Update); by MLDv2, to whose queries it is deaf
// unless they are of a link-local address (RFC 9777 §5.1.14).
pub(super) fn kept(bed: &mut Bed, inside: Inside, version: u8) -> Outcome {
    let mut stand = Stand::build(bed, inside)?;
    let site = Site::open(bed, &mut stand, Engine::Auto, Discovery::Own, SOON_MISSED)?;
    // What a host says of itself is of few rounds, the others are answers: it says that twice within ten seconds, and then
    // only if it is asked. The packets are of 30 seconds, and of 16 with MLD.
    let (force, report, rounds, packets) = match (inside, version) {
        (Inside::V4, _) => ("ipv4/conf/amt0/force_igmp_version", "igmp.type == 0x12", 3, 7500),
        (Inside::V6, 1) => ("ipv6/conf/amt0/force_mld_version", "icmpv6.type == 131", 3, 4000),
        (Inside::V6, _) => ("ipv6/conf/amt0/force_mld_version", "icmpv6.type == 143", 5, 4000),
    };
    site.stand.vm.run(&format!("echo {version} > /proc/sys/net/{force}"))?;
    site.any_source(packets)?;
    site.end(&DISCOVERY_TO_DATA, &[(&format!("amt.type == 5 && {report}"), Wanted::Rounds(rounds))])
}

impl Stand {
    fn build(bed: &mut Bed, inside: Inside) -> Result<Self, Failed> {
        let [source, vmr, bystander] = bed.lab.namespaces(["source", "vmr", "bystander"])?;
        bed.lab.veths(&[((&source, "eth0"), (&vmr, "src0")), ((&bystander, "eth0"), (&vmr, "acc1"))])?;
        let wire = Wire::to(bed, &vmr, "mch0")?;
        source.ip(&[2, 3].map(|host| inside.address(SOURCES, host, "eth0")).join("\n"))?;
        vmr.ip(&[inside.address(SOURCES, 1, "src0"), inside.address(BYSTANDERS, 1, "acc1")].join("\n"))?;
        bystander.ip(&inside.address(BYSTANDERS, 2, "eth0"))?;
        vmr.sysctl(&[("ipv4/ip_forward", "1")])?;
        let mut vm = bed.boot(&wire)?;
        wire::set_up(&mut vm)?;
        Ok(Self { inside, source, vmr, bystander, wire, vm })
    }
}

impl<'a> Site<'a> {
    /// Starts a relay, and the kernel's gateway, which looks for it.
    fn open(
        bed: &'a Bed,
        stand: &'a mut Stand,
        engine: Engine,
        discovery: Discovery,
        membership: &str,
    ) -> Result<Self, Failed> {
        let Stand { inside, vmr, bystander, wire, vm, .. } = &mut *stand;
        let (at, tunnel) = match discovery {
            Discovery::Own => (HOST, String::new()),
            Discovery::Anycast => {
                vmr.ip(&format!("addr add {ANYCAST}/32 dev lo"))?;
                (ANYCAST, format!("discovery = \"{ANYCAST}\"\n"))
            }
        };
        let router = router(bed, vmr, engine, &format!("{tunnel}{membership}"))?;
        if at != HOST {
            vm.run(&format!("ip route add {at} via {HOST}"))?;
        }
        let capture = Capture::start(bed, &wire.node, BRIDGE)?;
        let nobody = [
            forbid(bed, bystander, "eth0", inside.stream())?,
            forbid(bed, bystander, "eth0", inside.channel())?,
        ];
        vm.run(&format!(
            "ip link add amt0 type amt mode gateway local {GUEST} discovery {at} dev eth0 \
             gateway_port 2268 relay_port 2268\n\
             {}",
            inside.bring_up(GATEWAY, &[2])
        ))?;
        Ok(Self { bed, stand, router, nobody, capture })
    }

    /// Takes the gateway down. Fails if another link was sent anything, or if what crossed the wire is not AMT of these
    /// types as it should be: of each filter there is some, or none.
    fn end(self, types: &[u8], filters: &[(&str, Wanted)]) -> Outcome {
        for nobody in self.nobody {
            let stray = nobody.stray();
            ensure!(stray.packets == 0, "the other link was sent {stray:?}");
        }
        self.capture.map_or(Ok(()), |capture| capture.judge_amt_with(self.bed, types, filters))?;
        self.stand.vm.run("ip link del amt0").map(drop)
    }

    /// Joins, gets so many packets, each, and leaves.
    fn any_source(&self, packets: usize) -> Outcome {
        let Self { bed, stand, router, .. } = self;
        let Stand { inside, source, wire, vm, .. } = &**stand;
        let (stream, from) = (inside.stream(), inside.host(SOURCES, 2));
        let near = Witness::start(&wire.node, NEAR, stream.address(), bed.clock)?;
        let sender = Sender::start(source, from, "eth0", stream)?;
        sender.more(bed, SOME)?;
        ensure!(came_in(&near) == 0, "{} packets came before anybody had joined", came_in(&near));
        let listener = GuestListener::join(bed, vm, "amt0", stream, None)?;
        listener.more(bed, packets)?;
        let members = router.ask(&["member", "list"]).unwrap_or_default();
        ensure!(asked_for(&members, "exclude", &[]), "the members are {members}");
        ensure!(near.incoming(Carriage::Native).packets == 0, "the stream crossed the wire natively, too");

        listener.leave(bed)?.is_whole(from)?;
        self.has_left(&near, &[sender])
    }

    /// Joins one source of two, gets everything of that one and nothing of the other, and leaves.
    fn channel(&self) -> Outcome {
        let Self { bed, stand, router, .. } = self;
        let Stand { inside, source, wire, vm, .. } = &**stand;
        let stream = inside.channel();
        let [wanted, other] = [2, 3].map(|host| inside.host(SOURCES, host));
        let near = Witness::start(&wire.node, NEAR, stream.address(), bed.clock)?;
        let start = |from| Sender::start(source, from, "eth0", stream);
        let (sender, unwanted) = (start(wanted)?, start(other)?);
        let listener = GuestListener::join(bed, vm, "amt0", stream, Some(wanted))?;
        listener.more(bed, FEWER)?;
        unwanted.more(bed, SOME)?;
        let members = router.ask(&["member", "list"]).unwrap_or_default();
        ensure!(asked_for(&members, "include", &[wanted]), "the members are {members}");
        let last = sender.stop()? - 1;
        listener.until_last(bed, last)?;
        let heard = listener.heard()?;
        heard.is_whole(wanted)?;
        ensure!(
            came_in(&near) == heard.packets.len() as u64,
            "{} packets crossed the wire, {} were of the source",
            came_in(&near),
            heard.packets.len()
        );

        let sender = start(wanted)?;
        listener.more(bed, 1)?;
        listener.leave(bed)?;
        self.has_left(&near, &[sender, unwanted])
    }

    /// Fails unless the membership ends and nothing more comes in at the wire.
    fn has_left(&self, near: &Witness, senders: &[Sender]) -> Outcome {
        let bed = self.bed;
        bed.until_answer("the leave has ended the membership", &self.router, &["member", "list"], is_empty)?;
        // What was under way when the membership ended has passed by now.
        senders.iter().try_for_each(|sender| sender.more(bed, 1))?;
        near.forbid(true);
        senders.iter().try_for_each(|sender| sender.more(bed, SOME))?;
        ensure!(near.stray().packets == 0, "the stream went on after the leave: {:?}", near.stray());
        ensure!(near.outgoing(Carriage::Amt).packets == 0, "the gateway sent data");
        Ok(())
    }
}

/// `more` keys of its tunnels stand first, then tables.
fn router(bed: &Bed, vmr: &Namespace, engine: Engine, more: &str) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(vmr.node());
    let tables = format!(
        "[tunnel]\naddress = \"{HOST}\"\n{more}\
         [dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n\
         [[interface]]\nname = \"src0\"\naccepts_sources = true\n\
         [[interface]]\nname = \"mch0\"\n[[interface]]\nname = \"acc1\"\nquerier = true\n",
        engine.label(),
        pins.display()
    );
    let mut role = bed.launcher()?.start(vmr, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut role], bed.clock)?;
    is_engine(&role, engine)?;
    Ok(role)
}

fn is_empty(answer: &Value) -> bool {
    answer["members"].as_array().is_some_and(Vec::is_empty)
}

/// Whether there is one member, with this filter.
fn asked_for(answer: &Value, mode: &str, sources: &[IpAddr]) -> bool {
    let filter = &answer["members"][0]["filter"];
    let sources: Vec<Value> = sources.iter().map(|source| source.to_string().into()).collect();
    answer["members"].as_array().is_some_and(|all| all.len() == 1)
        && filter["mode"] == mode
        && filter["sources"] == Value::Array(sources)
}
