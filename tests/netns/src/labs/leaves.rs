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

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    process::Command,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_common::hdr::eth::{multicast_mac, multicast_mac_v6};
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
    traffic::{GroupPort, Witness, packet_socket},
};
use vmcast_wire::{
    igmp::{self, RecordType},
    ipv4, ipv6, mld,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    stream::{Frames, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "with immediate leave a link is served until its last host has left by IGMP, and no longer",
            |bed| leaves(bed, false),
        ),
        trial(
            "with immediate leave a link is served until its last host has left by MLD, and no longer",
            |bed| leaves(bed, true),
        ),
        trial("leaves of IGMP in whosever name end no stream of a host that stays", |bed| {
            forged(bed, false, "")
        }),
        trial("leaves of MLD in whosever name end no stream of a host that stays", |bed| {
            forged(bed, true, "")
        }),
        trial(
            "with immediate leave, leaves of IGMP in whosever name end no stream of a host that stays",
            |bed| forged(bed, false, IMMEDIATE),
        ),
        trial(
            "with immediate leave, leaves of MLD in whosever name end no stream of a host that stays",
            |bed| forged(bed, true, IMMEDIATE),
        ),
    ]
}

const SOME: u64 = 150;
/// Packets of 6 seconds: a host that is asked has 4.
const LONG: u64 = 6 * 200;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 1), port: 5004 };
const STREAM_V6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1), 5004, 0, 0);
/// Who asks before it ends a group waits for twice 60 s: so many packets of the source.
const ASKED: u64 = 120 * 200;

/// Hosts that are known a second after the start: before, every leave is asked about.
const IMMEDIATE: &str = "immediate_leave = true\n\
                         [interface.igmp]\nstartup_query_count = 1\nquery_response_interval_seconds = 0.5\n\
                         [interface.mld]\nstartup_query_count = 1\nquery_response_interval_seconds = 0.5\n";

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
    /// `last` is the Last Member Query Interval in seconds, `keys` are more of the interface.
    fn start(bed: &mut Bed, v6: bool, last: u32, keys: &str) -> Result<Self, Failed> {
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
            "[dataplane]\npin_path = \"{}\"\n[igmp]\nlast_member_query_interval_seconds = {last}\n\
             [mld]\nlast_listener_query_interval_seconds = {last}\n\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n\
             [[interface]]\nname = \"acc0\"\nquerier = true\n{keys}",
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
    let lan = Lan::start(bed, v6, 60, IMMEDIATE)?;
    let sender = lan.send()?;
    let (first, second) = (lan.join(0)?, lan.join(1)?);
    first.more(bed, SOME)?;
    second.more(bed, SOME)?;
    lan.until_hosts(bed, 2)?;
    bed.until("a query is seen", || Ok(lan.general_queries.count() > 0))?;
    // It was the only one of the startup; until it is answered a leave is asked about.
    second.more(bed, SOME)?;

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

// proves that who says that others leave ends no stream: RFC 9776 §9.3 and RFC 9777 §10.3, forged State-Change Reports;
// who is there answers, or is known to be there
fn forged(bed: &mut Bed, v6: bool, keys: &str) -> Outcome {
    let lan = Lan::start(bed, v6, 2, keys)?;
    let sender = lan.send()?;
    let member = lan.join(0)?;
    member.more(bed, SOME)?;
    let [own, strangers]: [IpAddr; 2] = if v6 {
        [link_local(&lan.hosts[1])?.into(), "fe80::77".parse()?]
    } else {
        ["10.5.1.3".parse()?, "10.5.1.77".parse()?]
    };
    let members: IpAddr = if v6 { link_local(&lan.hosts[0])?.into() } else { "10.5.1.2".parse()? };
    let names = [own, strangers, members];
    let socket = lan.hosts[1].enter(|| packet_socket("eth0", Duration::from_millis(1)))??;
    let frames: Vec<_> = names.into_iter().flat_map(partings).collect();
    for frame in &frames {
        nix::unistd::write(&socket, frame)?;
    }
    let protocol = if v6 { "mld" } else { "igmp" };
    bed.until("each of them is heard", || {
        let stats = lan.router.ask(&["stats"]).unwrap_or_default();
        let of = |label: &str| stats["control"][protocol][label].as_u64().unwrap_or(0);
        Ok(of("reports_received") + of("leaves_received") >= frames.len() as u64)
    })?;
    if keys == IMMEDIATE {
        // Of the member's name, by another link-layer address.
        let doubted = lan.router.ask(&["stats"]).unwrap_or_default();
        let doubted = doubted["control"][protocol]["other_link_source"].as_u64();
        ensure!(doubted > Some(0), "leaves in the member's name are not counted");
    }
    member.more(bed, LONG)?;
    member.until_last(bed, sender.stop()? - 1)?;
    member.heard().is_whole()
}

/// The address by which the kernel of a host speaks MLD.
fn link_local(host: &Namespace) -> Result<Ipv6Addr, Failed> {
    let mut command = Command::new("ip");
    command.args(["-json", "-6", "addr", "show", "dev", "eth0", "scope", "link"]);
    let links: Value = serde_json::from_slice(&host.run(command)?.stdout)?;
    let address = links[0]["addr_info"][0]["local"].as_str().ok_or("a host without a link-local address")?;
    Ok(address.parse()?)
}

/// The link-layer address of who forges them.
const FORGER: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Every message by which a host says that it no longer wants the group, or a source of it.
fn partings(from: IpAddr) -> Vec<Vec<u8>> {
    let types =
        [RecordType::ChangeToIncludeMode, RecordType::BlockOldSources, RecordType::ChangeToExcludeMode];
    match from {
        IpAddr::V4(from) => {
            let group = STREAM.group;
            let records = types.map(|record_type| {
                let sources =
                    if record_type == RecordType::ChangeToIncludeMode { vec![] } else { vec![SOURCE] };
                let record = igmp::Record { record_type, group, sources };
                (igmp::ALL_IGMPV3_ROUTERS, igmp::Message::ReportV3 { records: vec![record] })
            });
            let leave = (igmp::ALL_ROUTERS, igmp::Message::LeaveGroup { group });
            let all = records.into_iter().chain([leave]);
            all.map(|(to, message)| {
                let datagram = ipv4::encapsulate(from, to, 1, 0xc0, 2, true, &message.emit());
                [&multicast_mac(to)[..], &FORGER, &[0x08, 0x00], &datagram].concat()
            })
            .collect()
        }
        IpAddr::V6(from) => {
            let group = *STREAM_V6.ip();
            let records = types.map(|record_type| {
                let sources =
                    if record_type == RecordType::ChangeToIncludeMode { vec![] } else { vec![SOURCE_V6] };
                let record = mld::Record { record_type, group, sources };
                (mld::ALL_MLDV2_ROUTERS, mld::Message::ReportV2 { records: vec![record] })
            });
            let done = (mld::ALL_ROUTERS, mld::Message::Done { group });
            let all = records.into_iter().chain([done]);
            all.map(|(to, message)| {
                let message = message.emit(from, to);
                let datagram = ipv6::encapsulate(from, to, 1, 0xc0, mld::NEXT_ICMPV6, true, &message);
                [&multicast_mac_v6(&to.octets())[..], &FORGER, &[0x86, 0xdd], &datagram].concat()
            })
            .collect()
        }
    }
}
