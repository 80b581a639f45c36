//! The router program inside the machine, on the kernel's own VLAN and PPPoE devices: it finds out what
//! stands under them, and its copies have the same tags and session.

use std::{net::IpAddr, thread, time::Duration};

use vmcast_common::hdr::eth::Mac;

use super::{
    PORT, SENT,
    shape::{self, FIELDS, Shapes},
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{self, Link},
    frame::{self, Port, group_mac, text},
    vm::MAC,
    wire::{self, BRIDGE, Wire},
};

/// Packets of the stream.
const PACKETS: u64 = 50;
/// Between two of them: the machine is slow.
const PACE: Duration = Duration::from_millis(5);
/// The far end of every link.
const PEER: Mac = [0x02, 0, 0, 0, 0x70, 9];
const KEY: u32 = 7;
const SOCKET: &str = "/tmp/router.sock";

// proves that interfaces of the kernel lead the router's copies to the links that they are, natively, to
// neighbours and through tunnels
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let sessions = devices::make(bed, &mut vm, PEER)?;
    let has_sessions = !sessions.is_empty();
    let program = bed::program()?.display().to_string();
    let config = config(has_sessions);
    let router = vm.start(&format!(
        "cat > /tmp/router.toml <<'END'\n{config}END\nexec {program} router --config /tmp/router.toml"
    ))?;
    let wanted = expected(has_sessions);
    let members = format!("{program} member list --json --socket {SOCKET} 2>/dev/null || true");
    bed.until("every output is a member", || {
        ensure!(router.status()?.is_none(), "the router has ended: {}", router.said());
        Ok(vm.run(&members)?.matches("\"configured\": true").count() == wanted.len())
    })
    .map_err(|failed| {
        let said = router.said();
        format!("{}; the router said: {said}", failed.message().unwrap_or_default())
    })?;

    let port = Port::open(&wire.node, BRIDGE)?;
    let capture = Capture::start(bed, &wire.node, BRIDGE)?;
    for number in 0..PACKETS {
        let packet = frame::packet(SENT[0].source, SENT[0].stream, number)?;
        port.send(&frame::ethernet(group_mac(SENT[0].stream.group), &[], None, &packet)?)?;
        thread::sleep(PACE);
    }
    let Some(capture) = capture else { return Ok(()) };
    let ours = format!("eth.src == {} && udp.dstport == {PORT}", text(MAC));
    let seen = capture.tally(bed, &ours, &FIELDS, wanted.values().sum())?;
    let difference = shape::difference(&seen, &wanted);
    let told =
        vm.run(&format!("{program} doctor --socket {SOCKET} || true\n{program} stats --socket {SOCKET}"))?;
    ensure!(difference.is_empty(), "{}\n{told}\n{}", difference.join("\n"), router.said());
    // The doctor knows them too.
    ensure!(told.contains("frames are taken at") && told.contains("a daemon runs"), "{told}");
    Ok(())
}

fn config(has_sessions: bool) -> String {
    let far = |link: Link| link.ends(false).0;
    let near = |link: Link| link.ends(false).1;
    let tunnel = |name: &str, kind: &str, link: Link| {
        format!(
            "[[static_tunnel]]\nname = \"{name}\"\nkind = \"{kind}\"\nlocal = \"{}\"\nremote = \"{}\"\n",
            near(link),
            far(link)
        )
    };
    let (vlan, qinq, session) = (Link::Vlan.name(), Link::QinQ.name(), Link::Session.name());
    let mut tables = format!(
        "rank = 0\n[control]\nsocket = \"{SOCKET}\"\n[[interface]]\nname = \"eth0\"\naccepts_sources = true\n\
         [[interface]]\nname = \"{vlan}\"\n[[interface]]\nname = \"{qinq}\"\n{}key = {KEY}\n",
        tunnel("by-qinq", "gre", Link::QinQ)
    );
    let mut to = format!("\"{vlan}\", \"{qinq}\", {{ neighbour = \"{}\" }}, \"by-qinq\"", far(Link::Vlan));
    if let Some((number, below)) = Link::Session.session().filter(|_| has_sessions) {
        tables.push_str(&format!(
            "[[interface]]\nname = \"{session}\"\ndevice = \"{}\"\npppoe_session = {number}\n{}",
            below.name(),
            tunnel("by-session", "ipip", Link::Session)
        ));
        to.push_str(&format!(", \"{session}\", \"by-session\""));
    }
    let group: IpAddr = SENT[0].stream.group;
    format!(
        "{tables}[[forward]]\ngroup = \"{group}\"\nsource = \"{}\"\nfrom = \"eth0\"\nto = [{to}]\n",
        SENT[0].source
    )
}

/// The copies, as tshark's fields have them.
fn expected(has_sessions: bool) -> Shapes {
    let (group, peer) = (text(group_mac(SENT[0].stream.group)), text(PEER));
    let session = Link::Session.session().map(|(number, _)| format!("0x{number:04x}")).unwrap_or_default();
    let gre_key = format!("0x{KEY:08x}");
    let qinq = "eth:ethertype:ieee8021ad:ethertype:vlan:ethertype";
    let row = |protocols: &str, to: &str, [outer, inner, session, key]: [&str; 4]| {
        [protocols, to, outer, inner, session, key, ""].map(str::to_owned).to_vec()
    };
    let mut rows = vec![
        row("eth:ethertype:vlan:ethertype:ip:udp:data", &group, ["", "100", "", ""]),
        row("eth:ethertype:vlan:ethertype:ip:udp:data", &peer, ["", "100", "", ""]),
        row(&format!("{qinq}:ip:udp:data"), &group, ["200", "5", "", ""]),
        row(&format!("{qinq}:ip:gre:ip:udp:data"), &peer, ["200", "5", "", &gre_key]),
    ];
    if has_sessions {
        rows.push(row("eth:ethertype:pppoes:ppp:ip:udp:data", &peer, ["", "", &session, ""]));
        rows.push(row("eth:ethertype:pppoes:ppp:ip:ip:udp:data", &peer, ["", "", &session, ""]));
    }
    rows.into_iter().map(|row| (row, PACKETS)).collect()
}
