//! Two hosts on one network that are told apart: the network is served until the last one has left, and not a moment
//! longer, without a question to either.
//!
//! ```text
//! +--------+  src0 +-----+ acc0      +-------+
//! | source |-------| vmr |-----+-----| host1 |
//! +--------+       +-----+     |     +-------+
//!                        lanbr +-----| host2 |
//!                                    +-------+
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
    traffic::{GroupPort, Witness},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    stream::{Frames, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    let v4 = |bed: &mut Bed| leaves(bed, false);
    let v6 = |bed: &mut Bed| leaves(bed, true);
    vec![
        trial(
            "with immediate leave a link is served until its last host has left by IGMP, and no longer",
            v4,
        ),
        trial("with immediate leave a link is served until its last host has left by MLD, and no longer", v6),
    ]
}

const SOME: u64 = 150;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 1), port: 5004 };
const STREAM_V6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1), 5004, 0, 0);
/// Who asks before it ends a group waits for twice 60 s: so many packets of the source.
const ASKED: u64 = 120 * 200;

struct Lan {
    source: Namespace,
    hosts: [Namespace; 2],
    router: Role,
    v6: bool,
    /// General Queries, which show that queries are seen.
    general_queries: Frames,
    /// Queries about the group.
    group_queries: Frames,
}

/// Counts queries of a group, all zeros for General Queries; every host of the link is sent them.
fn queries(host: &Namespace, v6: bool, group: &[u8]) -> Result<Frames, Failed> {
    let group = group.to_vec();
    Frames::watch(host, "eth0", move |frame| {
        if v6 {
            // Behind a hop-by-hop header of 8 bytes.
            let is_query = frame[12..14] == [0x86, 0xdd] && frame[20] == 0 && frame[62] == 130;
            is_query && frame[70..86] == group
        } else {
            let at = 14 + usize::from(frame[14] & 0x0f) * 4;
            let is_query = frame[12..14] == [8, 0] && frame[23] == 2 && frame[at] == 0x11;
            is_query && frame[at + 4..at + 8] == group
        }
    })
}

impl Lan {
    fn start(bed: &mut Bed, v6: bool) -> Result<Self, Failed> {
        let [source, vmr, switch] = bed.lab.namespaces(["source", "vmr", "switch"])?;
        let hosts = bed.lab.namespaces(["host1", "host2"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&vmr, "src0")),
            ((&vmr, "acc0"), (&switch, "l0")),
            ((&hosts[0], "eth0"), (&switch, "l1")),
            ((&hosts[1], "eth0"), (&switch, "l2")),
        ])?;
        switch.bridge("lanbr", &["l0", "l1", "l2"])?;
        switch.ip("link set lanbr type bridge mcast_snooping 0")?;
        source.ip(&format!(
            "addr add {SOURCE}/24 dev eth0\naddr add {SOURCE_V6}/64 dev eth0 nodad\nroute add default via 10.1.0.1"
        ))?;
        vmr.ip(
            "addr add 10.1.0.1/24 dev src0\naddr add fd01::1/64 dev src0 nodad\naddr add 10.5.1.1/24 dev acc0",
        )?;
        for (number, host) in (2..).zip(&hosts) {
            host.ip(&format!("addr add 10.5.1.{number}/24 dev eth0\nroute add default via 10.5.1.1"))?;
        }
        let pins = bed.lab.bpffs()?.join(vmr.node());
        let tables = format!(
            "[dataplane]\npin_path = \"{}\"\n[igmp]\nlast_member_query_interval_seconds = 60\n\
             [mld]\nlast_listener_query_interval_seconds = 60\n\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n\
             [[interface]]\nname = \"acc0\"\nquerier = true\nimmediate_leave = true\n",
            pins.display()
        );
        let (general, group) = if v6 {
            (vec![0; 16], STREAM_V6.ip().octets().to_vec())
        } else {
            (vec![0; 4], STREAM.group.octets().to_vec())
        };
        let [general_queries, group_queries] = [general, group].map(|group| queries(&hosts[1], v6, &group));
        let (general_queries, group_queries) = (general_queries?, group_queries?);
        let mut router = bed.launcher.start(&vmr, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut router], bed.clock)?;
        Ok(Self { source, hosts, router, v6, general_queries, group_queries })
    }

    fn send(&self) -> Result<Sender, Failed> {
        if self.v6 {
            Sender::start_v6(&self.source, SOURCE_V6, STREAM_V6, "eth0")
        } else {
            Sender::start(&self.source, SOURCE, STREAM)
        }
    }

    fn join(&self, host: usize) -> Result<Listener, Failed> {
        if self.v6 {
            Listener::join_v6(&self.hosts[host], STREAM_V6, "eth0")
        } else {
            Listener::join(&self.hosts[host], STREAM, None)
        }
    }

    /// Waits until so many hosts are known in the group.
    fn until_hosts(&self, bed: &Bed, hosts: u64) -> Outcome {
        let what = format!("{hosts} hosts are in the group");
        bed.until_answer(&what, &self.router, &["member", "list"], |answer| {
            let members = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
            let known: u64 = members.iter().filter_map(|member| member["tracked_hosts"].as_u64()).sum();
            known == hosts && members.len() == usize::from(hosts > 0)
        })
        .map(|_: Value| ())
    }
}

// proves RFC 9776 appendix A.2 and RFC 9777 appendix A.2, explicit tracking, with the kernel's own hosts
fn leaves(bed: &mut Bed, v6: bool) -> Outcome {
    let lan = Lan::start(bed, v6)?;
    let sender = lan.send()?;
    let (first, second) = (lan.join(0)?, lan.join(1)?);
    first.more(bed, SOME)?;
    second.more(bed, SOME)?;
    lan.until_hosts(bed, 2)?;
    bed.until("a query is seen", || Ok(lan.general_queries.count() > 0))?;

    first.leave().is_whole()?;
    lan.until_hosts(bed, 1)?;
    second.more(bed, SOME)?;
    second.heard().is_whole()?;

    let group: (IpAddr, u16) =
        if v6 { ((*STREAM_V6.ip()).into(), STREAM_V6.port()) } else { (STREAM.group.into(), STREAM.port) };
    let wire = Witness::start(&lan.hosts[0], "eth0", group, bed.clock)?;
    let before = sender.sent();
    second.leave().is_whole()?;
    lan.until_hosts(bed, 0)?;
    let crossed = sender.sent() - before;
    ensure!(crossed < ASKED / 2, "{crossed} packets were sent between the leave and its effect");
    wire.forbid(true);
    sender.more(bed, SOME)?;
    ensure!(wire.stray().packets == 0, "the stream went on after the last leave: {:?}", wire.stray());
    let asked = lan.group_queries.count();
    ensure!(asked == 0, "{asked} queries about the group were sent");
    Ok(())
}
