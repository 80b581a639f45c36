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

use std::net::IpAddr;

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::{Carriage, Witness},
};

use super::{DISCOVERY_TO_DATA, FEWER, Inside, MANY, MEMBERSHIP, SOME, came_in, forbid, is_engine};
use crate::{
    bed::{Bed, Outcome, ensure},
    capture::Capture,
    guest::GuestListener,
    numbered::{Hears as _, Sender},
    vm::Vm,
    wire::{self, BRIDGE, GUEST, HOST, NEAR, Wire},
};

/// Networks by their numbers.
const SOURCES: u8 = 1;
const BYSTANDERS: u8 = 51;
const GATEWAY: u8 = 72;

/// What the parts of the test share.
struct Site<'a> {
    bed: &'a Bed,
    inside: Inside,
    source: &'a Namespace,
    wire: &'a Wire,
    router: &'a Role,
    vm: &'a Vm,
}

// proves that a kernel's gateway gets the stream from our relay, each packet once and in order, and that
// a leave ends it (RFC 7450 §5.3.3.3, §5.3.3.4, §5.3.3.6)
pub(super) fn test(bed: &mut Bed, inside: Inside, engine: Engine) -> Outcome {
    let [source, vmr, bystander] = bed.lab.namespaces(["source", "vmr", "bystander"])?;
    bed.lab.veths(&[((&source, "eth0"), (&vmr, "src0")), ((&bystander, "eth0"), (&vmr, "acc1"))])?;
    let wire = Wire::to(bed, &vmr, "mch0")?;
    source.ip(&[2, 3].map(|host| inside.address(SOURCES, host, "eth0")).join("\n"))?;
    vmr.ip(&[inside.address(SOURCES, 1, "src0"), inside.address(BYSTANDERS, 1, "acc1")].join("\n"))?;
    bystander.ip(&inside.address(BYSTANDERS, 2, "eth0"))?;
    vmr.sysctl(&[("ipv4/ip_forward", "1")])?;
    let router = router(bed, &vmr, engine)?;

    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let capture = Capture::start(bed, &wire.node, BRIDGE)?;
    let streams = [inside.stream(), inside.channel()];
    let nobody = streams.map(|stream| forbid(bed, &bystander, "eth0", stream));
    vm.run(&format!(
        "ip link add amt0 type amt mode gateway local {GUEST} discovery {HOST} dev eth0 \
         gateway_port 2268 relay_port 2268\n\
         {}",
        inside.bring_up(GATEWAY, &[2])
    ))?;

    let site = Site { bed, inside, source: &source, wire: &wire, router: &router, vm: &vm };
    site.any_source()?;
    site.channel()?;
    for nobody in nobody {
        let stray = nobody?.stray();
        ensure!(stray.packets == 0, "the other link was sent {stray:?}");
    }
    capture.map_or(Ok(()), |capture| capture.judge_amt(&DISCOVERY_TO_DATA))
}

impl Site<'_> {
    /// Joins, gets everything, and leaves.
    fn any_source(&self) -> Outcome {
        let Self { bed, inside, router, .. } = self;
        let (stream, from) = (inside.stream(), inside.host(SOURCES, 2));
        let near = Witness::start(&self.wire.node, NEAR, stream.address(), bed.clock)?;
        let sender = Sender::start(self.source, from, "eth0", stream)?;
        sender.more(bed, SOME)?;
        ensure!(came_in(&near) == 0, "{} packets came before anybody had joined", came_in(&near));
        let listener = GuestListener::join(bed, self.vm, "amt0", stream, None)?;
        listener.more(bed, MANY)?;
        let members = router.ask(&["member", "list"]).unwrap_or_default();
        ensure!(asked_for(&members, "exclude", &[]), "the members are {members}");
        ensure!(near.incoming(Carriage::Native).packets == 0, "the stream crossed the wire natively, too");

        listener.leave(bed)?.is_whole(from)?;
        self.has_left(&near, &[sender])
    }

    /// Joins one source of two, gets everything of that one and nothing of the other, and leaves.
    fn channel(&self) -> Outcome {
        let Self { bed, inside, router, .. } = self;
        let stream = inside.channel();
        let [wanted, other] = [2, 3].map(|host| inside.host(SOURCES, host));
        let near = Witness::start(&self.wire.node, NEAR, stream.address(), bed.clock)?;
        let start = |from| Sender::start(self.source, from, "eth0", stream);
        let (sender, unwanted) = (start(wanted)?, start(other)?);
        let listener = GuestListener::join(bed, self.vm, "amt0", stream, Some(wanted))?;
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
        bed.until_answer("the leave has ended the membership", self.router, &["member", "list"], is_empty)?;
        // What was under way when the membership ended has passed by now.
        senders.iter().try_for_each(|sender| sender.more(bed, 1))?;
        near.forbid(true);
        senders.iter().try_for_each(|sender| sender.more(bed, SOME))?;
        ensure!(near.stray().packets == 0, "the stream went on after the leave: {:?}", near.stray());
        ensure!(near.outgoing(Carriage::Amt).packets == 0, "the gateway sent data");
        Ok(())
    }
}

fn router(bed: &Bed, vmr: &Namespace, engine: Engine) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(vmr.node());
    let tables = format!(
        "[tunnel]\naddress = \"{HOST}\"\n\
         [dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{MEMBERSHIP}\
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
