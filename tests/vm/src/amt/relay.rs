//! The kernel's AMT relay with sources behind it, and our gateway, with a member behind it.
//!
//! ```text
//! +---------+ wire, 10.70.0.0/24 +-----+ network 51 +--------+
//! | machine |--------------------| vmr |------------| member |
//! | amt0    |               mch0 |     | acc1       | .2     |
//! +---------+                    |     | network 52 +--------+
//!  sources are here              |     |----------- bystander
//!  (network 72)                  +-----+ acc2
//! ```

use std::net::IpAddr;

use libtest_mimic::Failed;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::{Carriage, Witness},
};

use super::{
    DISCOVERY_TO_DATA, ENGINES, FEWER, Inside, MEMBERSHIP, REQUEST_TO_DATA, SOME, came_in, forbid, is_engine,
    many, until_silent,
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    guest::GuestSender,
    numbered::{Hears as _, Listener, Stream},
    vm::Vm,
    wire::{self, BRIDGE, FAR, GUEST, HOST, Wire},
};

/// Networks by their numbers: that of the sources is the relay's device itself.
const SOURCES: u8 = 72;
const MEMBERS: u8 = 51;
const BYSTANDERS: u8 = 52;

/// What the parts of the test with one of the engines share.
struct Site<'a> {
    bed: &'a Bed,
    inside: Inside,
    member: &'a Namespace,
    wire: &'a Wire,
    vm: &'a Vm,
}

// proves that our gateway gets the stream from a kernel's relay, each packet once and in order, and that
// a leave ends it (RFC 7450 §5.2.3.3, §5.2.3.5.2, §5.2.3.6.2); with one of the engines after Relay Discovery
// (§5.2.3.4.2, §5.2.3.4.4)
pub(super) fn test(bed: &mut Bed, inside: Inside) -> Outcome {
    let [vmr, member, bystander] = bed.lab.namespaces(["vmr", "member", "bystander"])?;
    bed.lab.veths(&[((&vmr, "acc1"), (&member, "eth0")), ((&vmr, "acc2"), (&bystander, "eth0"))])?;
    let wire = Wire::to(bed, &vmr, "mch0")?;
    vmr.ip(&[inside.address(MEMBERS, 1, "acc1"), inside.address(BYSTANDERS, 1, "acc2")].join("\n"))?;
    member.ip(&inside.address(MEMBERS, 2, "eth0"))?;
    bystander.ip(&inside.address(BYSTANDERS, 2, "eth0"))?;

    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let bed = &*bed;
    bed::with_each(ENGINES, |engine| {
        let capture = Capture::start(bed, &wire.node, BRIDGE)?;
        let streams = [inside.stream(), inside.channel()];
        let nobody = streams.map(|stream| forbid(bed, &bystander, "eth0", stream));
        vm.run(&format!(
            "ip link add amt0 type amt mode relay local {GUEST} dev eth0 relay_port 2268 max_tunnels 4\n\
             {}",
            inside.bring_up(SOURCES, &[2, 3])
        ))?;
        let discovers = engine == Engine::Tc;
        let router = router(bed, &vmr, engine, discovers)?;

        let site = Site { bed, inside, member: &member, wire: &wire, vm: &vm };
        site.any_source(many(inside, engine))?;
        site.channel()?;
        for nobody in nobody {
            let stray = nobody?.stray();
            ensure!(stray.packets == 0, "the other link was sent {stray:?}");
        }
        let messages: &[u8] = if discovers { &DISCOVERY_TO_DATA } else { &REQUEST_TO_DATA };
        capture.map_or(Ok(()), |capture| capture.judge_amt(bed, messages))?;
        drop(router);
        vm.run("ip link del amt0").map(drop)
    })
}

impl Site<'_> {
    /// Joins, gets everything, and so many packets at least, and leaves.
    fn any_source(&self, packets: usize) -> Outcome {
        let Self { bed, inside, .. } = self;
        let (stream, from) = (inside.stream(), inside.host(SOURCES, 2));
        let far = Witness::start(&self.wire.node, FAR, stream.address(), bed.clock)?;
        self.send(stream, from)?;
        ensure!(came_in(&far) == 0, "{} packets came before anybody had joined", came_in(&far));
        let listener = Listener::join(self.member, "eth0", stream, None)?;
        let sender = GuestSender::start(self.vm, "amt0", from, stream, None)?;
        listener.more(bed, packets)?;
        sender.check()?;
        let last = sender.stop(bed)? - 1;
        listener.until_last(bed, last)?;
        listener.heard()?.is_whole(from)?;
        ensure!(far.incoming(Carriage::Native).packets == 0, "the stream crossed the wire natively, too");
        drop(listener);
        self.has_left(&far, stream, from)
    }

    /// Joins one source of two, gets everything of that one and nothing of the other, whatever the relay sends, and
    /// leaves.
    fn channel(&self) -> Outcome {
        let Self { bed, inside, .. } = self;
        let stream = inside.channel();
        let [wanted, other] = [2, 3].map(|host| inside.host(SOURCES, host));
        let far = Witness::start(&self.wire.node, FAR, stream.address(), bed.clock)?;
        let link = Witness::start(self.member, "eth0", stream.address(), bed.clock)?;
        let listener = Listener::join(self.member, "eth0", stream, Some(wanted))?;
        let start = |from| GuestSender::start(self.vm, "amt0", from, stream, None);
        let (sender, unwanted) = (start(wanted)?, start(other)?);
        listener.more(bed, FEWER)?;
        unwanted.stop(bed)?;
        let last = sender.stop(bed)? - 1;
        listener.until_last(bed, last)?;
        let heard = listener.heard()?;
        heard.is_whole(wanted)?;
        ensure!(
            came_in(&link) == heard.packets.len() as u64,
            "{} packets crossed the member's link, {} were of the source",
            came_in(&link),
            heard.packets.len()
        );
        drop(listener);
        self.has_left(&far, stream, wanted)
    }

    /// Sends some packets.
    fn send(&self, stream: Stream, from: IpAddr) -> Outcome {
        GuestSender::start(self.vm, "amt0", from, stream, Some(SOME))?.end(self.bed).map(|_| ())
    }

    /// Fails unless nothing more comes in at the wire.
    fn has_left(&self, far: &Witness, stream: Stream, from: IpAddr) -> Outcome {
        until_silent(self.bed, far, || self.send(stream, from))?;
        far.forbid(true);
        self.send(stream, from)?;
        ensure!(far.stray().packets == 0, "the stream went on after the leave: {:?}", far.stray());
        ensure!(far.outgoing(Carriage::Amt).packets == 0, "the gateway sent data");
        Ok(())
    }
}

fn router(bed: &Bed, vmr: &Namespace, engine: Engine, discovers: bool) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(vmr.node());
    let tables = format!(
        "[tunnel]\naddress = \"{HOST}\"\n[upstream]\nfrom = \"static\"\naddress = \"{GUEST}\"\n\
         discover = {discovers}\n[dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{MEMBERSHIP}\
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
