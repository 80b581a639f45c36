//! The kernel's AMT gateway and our relay, with a source behind it.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-----+ wire, 10.70.0.0/24 +---------+
//! | source |-------------| vmr |--------------------| machine |
//! | .2     |        src0 |     | mch0               | amt0    |
//! +--------+             |     | 10.5.1.0/24        +---------+
//!                        |     |------------------ bystander
//!                        +-----+ acc1
//! ```

use std::net::{IpAddr, Ipv4Addr};

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::{Carriage, Witness},
};

use super::{DISCOVERY_TO_DATA, IGMP, MANY, SOME, STREAM, WITNESSED, came_in, is_engine};
use crate::{
    bed::{Bed, Outcome, ensure},
    capture::Capture,
    guest::GuestListener,
    numbered::{Hears as _, Sender},
    wire::{self, BRIDGE, GUEST, HOST, NEAR, Wire},
};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

// proves that a kernel's gateway gets the stream from our relay, each packet once and in order, and that
// a leave ends it (RFC 7450 §5.2, §5.3)
pub(super) fn test(bed: &mut Bed, engine: Engine) -> Outcome {
    let [source, vmr, bystander] = bed.lab.namespaces(["source", "vmr", "bystander"])?;
    bed.lab.veths(&[((&source, "eth0"), (&vmr, "src0")), ((&bystander, "eth0"), (&vmr, "acc1"))])?;
    let wire = Wire::to(bed, &vmr, "mch0")?;
    source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via 10.1.0.1"))?;
    vmr.ip("addr add 10.1.0.1/24 dev src0\naddr add 10.5.1.1/24 dev acc1")?;
    bystander.ip("addr add 10.5.1.2/24 dev eth0")?;
    vmr.sysctl(&[("ipv4/ip_forward", "1")])?;
    let router = router(bed, &vmr, engine)?;

    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let capture = Capture::start(bed, &wire.node, BRIDGE)?;
    let near = Witness::start(&wire.node, NEAR, WITNESSED, bed.clock)?;
    let nobody = Witness::start(&bystander, "eth0", WITNESSED, bed.clock)?;
    nobody.forbid(true);
    vm.run(&format!(
        "ip link add amt0 type amt mode gateway local {GUEST} discovery {HOST} dev eth0 \
         gateway_port 2268 relay_port 2268\n\
         ip addr add 10.72.0.2/24 dev amt0\nip link set amt0 up"
    ))?;

    let sender = Sender::start(&source, SOURCE.into(), "eth0", STREAM)?;
    sender.more(bed, SOME)?;
    ensure!(came_in(&near) == 0, "{} packets came before anybody had joined", came_in(&near));
    let listener = GuestListener::join(bed, &vm, "amt0", STREAM, None)?;
    listener.more(bed, MANY)?;
    let members = router.ask(&["member", "list"]).unwrap_or_default();
    ensure!(members["members"].as_array().is_some_and(|all| all.len() == 1), "the members are {members}");
    ensure!(near.incoming(Carriage::Native).packets == 0, "the stream crossed the wire natively, too");

    let heard = listener.leave(bed)?;
    heard.is_whole(IpAddr::V4(SOURCE))?;
    bed.until_answer("the leave has ended the membership", &router, &["member", "list"], is_empty)?;
    // What was under way when the membership ended has passed by now.
    sender.more(bed, 1)?;
    near.forbid(true);
    sender.more(bed, SOME)?;
    ensure!(near.stray().packets == 0, "the stream went on after the leave: {:?}", near.stray());
    ensure!(nobody.stray().packets == 0, "the other link was sent {:?}", nobody.stray());
    ensure!(near.outgoing(Carriage::Amt).packets == 0, "the gateway sent data");
    capture.map_or(Ok(()), |capture| capture.judge_amt(&DISCOVERY_TO_DATA))
}

fn router(bed: &Bed, vmr: &Namespace, engine: Engine) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(vmr.node());
    let tables = format!(
        "[tunnel]\naddress = \"{HOST}\"\n\
         [dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{IGMP}\
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
