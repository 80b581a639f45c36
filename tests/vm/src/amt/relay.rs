//! The kernel's AMT relay with a source behind it, and our gateway, with a member behind it.
//!
//! ```text
//! +---------+ wire, 10.70.0.0/24 +-----+ 10.5.1.0/24 +--------+
//! | machine |--------------------| vmr |-------------| member |
//! | amt0    |               mch0 |     | acc1        | .2     |
//! +---------+                    |     | 10.5.2.0/24 +--------+
//!  the source is here            |     |------------ bystander
//!                                +-----+ acc2
//! ```

use std::net::{IpAddr, Ipv4Addr};

use libtest_mimic::Failed;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::{Carriage, Witness},
};

use super::{IGMP, MANY, REQUEST_TO_DATA, SOME, STREAM, WITNESSED, came_in, is_engine, until_silent};
use crate::{
    bed::{Bed, Outcome, ensure},
    capture::Capture,
    guest::GuestSender,
    numbered::{Hears as _, Listener},
    wire::{self, BRIDGE, FAR, GUEST, HOST, Wire},
};

/// The source's address, on the relay's device itself.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 2);

// proves that our gateway gets the stream from a kernel's relay, each packet once and in order, and that
// a leave ends it (RFC 7450 §5.2, §5.3)
pub(super) fn test(bed: &mut Bed, engine: Engine) -> Outcome {
    let [vmr, member, bystander] = bed.lab.namespaces(["vmr", "member", "bystander"])?;
    bed.lab.veths(&[((&vmr, "acc1"), (&member, "eth0")), ((&vmr, "acc2"), (&bystander, "eth0"))])?;
    let wire = Wire::to(bed, &vmr, "mch0")?;
    vmr.ip("addr add 10.5.1.1/24 dev acc1\naddr add 10.5.2.1/24 dev acc2")?;
    member.ip("addr add 10.5.1.2/24 dev eth0")?;
    bystander.ip("addr add 10.5.2.2/24 dev eth0")?;

    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let capture = Capture::start(bed, &wire.node, BRIDGE)?;
    let far = Witness::start(&wire.node, FAR, WITNESSED, bed.clock)?;
    let nobody = Witness::start(&bystander, "eth0", WITNESSED, bed.clock)?;
    nobody.forbid(true);
    vm.run(&format!(
        "ip link add amt0 type amt mode relay local {GUEST} dev eth0 relay_port 2268 max_tunnels 4\n\
         ip addr add {SOURCE}/24 dev amt0\nip link set amt0 up"
    ))?;
    let _router = router(bed, &vmr, engine)?;

    let send = || GuestSender::start(&vm, "amt0", SOURCE.into(), STREAM, Some(SOME))?.end(bed).map(|_| ());
    send()?;
    ensure!(came_in(&far) == 0, "{} packets came before anybody had joined", came_in(&far));
    let listener = Listener::join(&member, "eth0", STREAM, None)?;
    let sender = GuestSender::start(&vm, "amt0", SOURCE.into(), STREAM, None)?;
    listener.more(bed, MANY)?;
    sender.check()?;
    let last = sender.stop(bed)? - 1;
    listener.until_last(bed, last)?;
    listener.heard()?.is_whole(IpAddr::V4(SOURCE))?;
    ensure!(far.incoming(Carriage::Native).packets == 0, "the stream crossed the wire natively, too");

    drop(listener);
    until_silent(bed, &far, send)?;
    far.forbid(true);
    send()?;
    ensure!(far.stray().packets == 0, "the stream went on after the leave: {:?}", far.stray());
    ensure!(nobody.stray().packets == 0, "the other link was sent {:?}", nobody.stray());
    ensure!(far.outgoing(Carriage::Amt).packets == 0, "the gateway sent data");
    capture.map_or(Ok(()), |capture| capture.judge_amt(&REQUEST_TO_DATA))
}

fn router(bed: &Bed, vmr: &Namespace, engine: Engine) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(vmr.node());
    let tables = format!(
        "[tunnel]\naddress = \"{HOST}\"\n[upstream]\nfrom = \"static\"\naddress = \"{GUEST}\"\n\
         [dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{IGMP}\
         [[interface]]\nname = \"mch0\"\n\
         [[interface]]\nname = \"acc1\"\nquerier = true\n[[interface]]\nname = \"acc2\"\nquerier = true\n",
        engine.label(),
        pins.display()
    );
    let mut role = bed.launcher()?.start(vmr, "router", "rank = 1\n", &tables)?;
    wait_ready([&mut role], bed.clock)?;
    is_engine(&role, engine)?;
    Ok(role)
}
