//! A VMR in the place of igmpproxy (RFC 4605): towards its downstream networks it is querier, towards the
//! upstream network a host that joins what they want together, at the version that the querier there speaks.
//! Its host side is the kernel's: joined by sockets, it answers in that version by itself.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +----------+ 10.2.0.0/24 +-------+ 10.5.1.0/24 +---------+
//! | source |-------------| upstream |-------------| proxy |-------------| client1 |
//! | .2 .3  |   src0      |  down0   |  up0        |       | acc1        +---------+
//! +--------+             +----------+             |       | 10.5.2.0/24 +---------+
//!                                                 |       |-------------| client2 |
//!                                                 +-------+ acc2        +---------+
//! ```

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    process::Command,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace, Process,
    roles::{Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trial_with},
    stream::{Frames, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a proxy joins upstream as a host of IGMP version 1", |bed| vmcast_proxy(bed, 1)),
        trial("a proxy joins upstream as a host of IGMP version 2", |bed| vmcast_proxy(bed, 2)),
        trial("a proxy joins upstream as a host of IGMP version 3", |bed| vmcast_proxy(bed, 3)),
        trial("a proxy joins upstream as a host of MLD version 1", |bed| listener_proxy(bed, 1)),
        trial("a proxy joins upstream as a host of MLD version 2", |bed| listener_proxy(bed, 2)),
        trial("a proxy asks upstream for the sources that its members want and no others", |bed| {
            one_source(bed, CHANNEL_V4)
        }),
        trial("a proxy of MLD asks upstream for the sources that its members want and no others", |bed| {
            one_source(bed, CHANNEL_V6)
        }),
        trial_with("igmpproxy in the same place does likewise", "igmpproxy", "igmpproxy", igmpproxy),
    ]
}

const SOME: u64 = 150;
const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 1), port: 5004 };
const SSM: GroupPort = GroupPort { group: Ipv4Addr::new(232, 7, 0, 1), port: 5006 };
/// A source-specific stream, the source that is wanted, and one that is not.
#[derive(Clone, Copy)]
struct Channel {
    stream: SocketAddr,
    wanted: IpAddr,
    unwanted: IpAddr,
}

const CHANNEL_V4: Channel = Channel {
    stream: SocketAddr::new(IpAddr::V4(SSM.group), SSM.port),
    wanted: IpAddr::V4(SOURCE),
    unwanted: IpAddr::V4(SOURCE2),
};
const CHANNEL_V6: Channel = Channel {
    stream: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 1)), 5006),
    wanted: IpAddr::V6(SOURCE_V6),
    unwanted: IpAddr::V6(SOURCE2_V6),
};

impl Channel {
    fn send(&self, node: &Namespace, from: IpAddr) -> Result<Sender, Failed> {
        match (from, self.stream) {
            (IpAddr::V6(from), SocketAddr::V6(stream)) => Sender::start_v6(node, from, stream, "eth0"),
            (IpAddr::V4(from), SocketAddr::V4(_)) => Sender::start(node, from, SSM),
            (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => {
                Err("a source and its group are of one family".into())
            }
        }
    }

    fn join(&self, node: &Namespace) -> Result<Listener, Failed> {
        match (self.wanted, self.stream) {
            (IpAddr::V6(source), SocketAddr::V6(stream)) => {
                Listener::join_source_v6(node, stream, source, "eth0")
            }
            (IpAddr::V4(source), SocketAddr::V4(_)) => Listener::join(node, SSM, Some(source)),
            (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => {
                Err("a source and its group are of one family".into())
            }
        }
    }
}

const STREAM_V6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1), 5004, 0, 0);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SOURCE2: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
const SOURCE2_V6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 3);
/// The proxy on the upstream network.
const PROXY: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

pub(super) struct Chain {
    source: Namespace,
    pub(super) upstream: Namespace,
    pub(super) proxy: Namespace,
    pub(super) clients: [Namespace; 2],
}

impl Chain {
    pub(super) fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [source, upstream, proxy] = bed.lab.namespaces(["source", "upstream", "proxy"])?;
        let clients = bed.lab.namespaces(["client1", "client2"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&upstream, "src0")),
            ((&upstream, "down0"), (&proxy, "up0")),
            ((&proxy, "acc1"), (&clients[0], "eth0")),
            ((&proxy, "acc2"), (&clients[1], "eth0")),
        ])?;
        source.ip(&format!(
            "addr add {SOURCE}/24 dev eth0\naddr add {SOURCE2}/24 dev eth0\naddr add {SOURCE_V6}/64 dev eth0\n\
             addr add {SOURCE2_V6}/64 dev eth0\nroute add default via 10.1.0.1"
        ))?;
        upstream.ip(
            "addr add 10.1.0.1/24 dev src0\naddr add 10.2.0.1/24 dev down0\naddr add fd01::1/64 dev src0",
        )?;
        proxy.sysctl(&[("ipv4/ip_forward", "1")])?;
        proxy.ip(&format!(
            "addr add {PROXY}/24 dev up0\naddr add 10.5.1.1/24 dev acc1\naddr add 10.5.2.1/24 dev acc2\n\
             route add default via 10.2.0.1"
        ))?;
        for (number, client) in (1..).zip(&clients) {
            client.ip(&format!(
                "addr add 10.5.{number}.2/24 dev eth0\nroute add default via 10.5.{number}.1"
            ))?;
        }
        Ok(Self { source, upstream, proxy, clients })
    }

    /// Starts the upstream's router, which speaks these versions on its network, and soon misses who left.
    fn start_upstream(&self, bed: &Bed, igmp: u8, mld: u8) -> Result<Role, Failed> {
        let timers = "query_interval_seconds = 2\nquery_response_interval_seconds = 1\n";
        let tables = format!(
            "{}[igmp]\n{timers}last_member_query_interval_seconds = 0.2\nversion = {igmp}\n\
             [mld]\n{timers}last_listener_query_interval_seconds = 0.2\nversion = {mld}\n\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n[[interface]]\nname = \"down0\"\nquerier = true\n",
            dataplane(bed, &self.upstream)?
        );
        start(bed, &self.upstream, &tables)
    }

    /// At TC, so that what comes in is seen by packet sockets, too.
    fn start_proxy(&self, bed: &Bed) -> Result<Role, Failed> {
        let tables = format!(
            "{}engine = \"tc\"\n[igmp]\nlast_member_query_interval_seconds = 0.2\n\
             [mld]\nlast_listener_query_interval_seconds = 0.2\n\
             [[interface]]\nname = \"up0\"\naccepts_sources = true\n[[interface]]\nname = \"acc1\"\nquerier = true\n\
             [[interface]]\nname = \"acc2\"\nquerier = true\n",
            dataplane(bed, &self.proxy)?
        );
        start(bed, &self.proxy, &tables)
    }

    /// Counts the proxy's IGMP messages of a type on the upstream network.
    fn igmp_of_proxy(&self, kind: u8) -> Result<Frames, Failed> {
        Frames::watch(&self.upstream, "down0", move |frame| {
            let at = 14 + usize::from(frame[14] & 0x0f) * 4;
            frame[12..14] == [8, 0] && frame[23] == 2 && frame[26..30] == PROXY.octets() && frame[at] == kind
        })
    }

    /// Counts packets of a source to a group that pass an interface.
    fn packets(
        node: &Namespace,
        interface: &'static str,
        source: impl Into<IpAddr>,
        group: impl Into<IpAddr>,
    ) -> Result<Frames, Failed> {
        let (source, group) = (source.into(), group.into());
        Frames::watch(node, interface, move |frame| match (source, group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                frame[12..14] == [8, 0]
                    && frame[23] == 17
                    && frame[26..30] == source.octets()
                    && frame[30..34] == group.octets()
            }
            (IpAddr::V6(source), IpAddr::V6(group)) => {
                frame[12..14] == [0x86, 0xdd]
                    && frame[20] == 17
                    && frame[22..38] == source.octets()
                    && frame[38..54] == group.octets()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        })
    }
}

pub(super) fn dataplane(bed: &Bed, node: &Namespace) -> Result<String, Failed> {
    let pins = bed.lab.bpffs()?.join(node.node());
    Ok(format!("[dataplane]\npin_path = \"{}\"\n", pins.display()))
}

pub(super) fn start(bed: &Bed, node: &Namespace, tables: &str) -> Result<Role, Failed> {
    let mut role = bed.launcher.start(node, "router", "rank = 0\n", tables)?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

fn nobody(answer: &Value) -> bool {
    answer["members"].as_array().is_some_and(Vec::is_empty)
}

/// What has to be so whoever the proxy is: the stream comes whole, to nobody else, and only while it is
/// wanted.
fn judge(bed: &Bed, chain: &Chain, upstream: &Role) -> Outcome {
    let bystander = Chain::packets(&chain.clients[1], "eth0", SOURCE, STREAM.group)?;
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let early = Chain::packets(&chain.proxy, "up0", SOURCE, STREAM.group)?;
    sender.more(bed, SOME)?;
    ensure!(early.count() == 0, "{} packets came before anybody joined", early.count());
    let listener = Listener::join(&chain.clients[0], STREAM, None)?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    drop(listener.leave());
    bed.until_answer("the upstream has noticed the leave", upstream, &["member", "list"], nobody)?;
    let late = Chain::packets(&chain.proxy, "up0", SOURCE, STREAM.group)?;
    sender.more(bed, SOME)?;
    ensure!(late.count() == 0, "{} packets came after the leave", late.count());
    ensure!(bystander.count() == 0, "the other link was sent {} packets", bystander.count());
    Ok(())
}

// proves RFC 4605 §3, §4.1: the upstream hears a host of its own version, and the kernel is that host
fn vmcast_proxy(bed: &mut Bed, version: u8) -> Outcome {
    let chain = Chain::build(bed)?;
    let reports = [0x12, 0x16, 0x22].map(|kind| chain.igmp_of_proxy(kind));
    let leaves = chain.igmp_of_proxy(0x17)?;
    let _proxy = chain.start_proxy(bed)?;
    // The kernel learns the version from the first query, so there is one before anybody joins.
    let upstream = chain.start_upstream(bed, version, 2)?;
    judge(bed, &chain, &upstream)?;
    for (spoken, frames) in (1..).zip(reports) {
        let count = frames?.count();
        ensure!(
            (count > 0) == (spoken == version),
            "{count} reports of version {spoken} came to a querier of version {version}"
        );
    }
    ensure!((leaves.count() > 0) == (version == 2), "{} leaves of version 2 came", leaves.count());
    Ok(())
}

fn listener_proxy(bed: &mut Bed, version: u8) -> Outcome {
    let chain = Chain::build(bed)?;
    // Version 1 reports to the group itself; the kernel reports groups of the link in either.
    let of_version = |kind: u8| {
        Frames::watch(&chain.upstream, "down0", move |frame| {
            frame[12..14] == [0x86, 0xdd]
                && frame[20] == 0
                && frame[54] == 58
                && frame[62] == kind
                && frame.windows(16).skip(38).any(|bytes| bytes == STREAM_V6.ip().octets())
        })
    };
    let (first, second, done) = (of_version(131)?, of_version(143)?, of_version(132)?);
    let _proxy = chain.start_proxy(bed)?;
    let upstream = chain.start_upstream(bed, 3, version)?;
    let bystander = Frames::start(&chain.clients[1], "eth0", *STREAM_V6.ip())?;
    let sender = Sender::start_v6(&chain.source, SOURCE_V6, STREAM_V6, "eth0")?;
    sender.more(bed, SOME)?;
    let listener = Listener::join_v6(&chain.clients[0], STREAM_V6, "eth0")?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    drop(listener.leave());
    bed.until_answer("the upstream has noticed the leave", &upstream, &["member", "list"], nobody)?;
    let late = Frames::start(&chain.proxy, "up0", *STREAM_V6.ip())?;
    sender.more(bed, SOME)?;
    ensure!(late.count() == 0, "{} packets came after the leave", late.count());
    ensure!(bystander.count() == 0, "the other link was sent {} packets", bystander.count());
    let heard = [first.count() > 0, second.count() > 0, done.count() > 0];
    ensure!(heard == [version == 1, version == 2, version == 1], "reports and Done were {heard:?}");
    Ok(())
}

// proves RFC 4605 §4.1, §4.2 with sources, by IGMPv3 and by MLDv2
fn one_source(bed: &mut Bed, channel: Channel) -> Outcome {
    let chain = Chain::build(bed)?;
    let _proxy = chain.start_proxy(bed)?;
    let upstream = chain.start_upstream(bed, 3, 2)?;
    let group = channel.stream.ip();
    let crossed =
        [channel.wanted, channel.unwanted].map(|source| Chain::packets(&chain.proxy, "up0", source, group));
    let bystander = Chain::packets(&chain.clients[1], "eth0", channel.wanted, group)?;
    let wanted = channel.send(&chain.source, channel.wanted)?;
    let unwanted = channel.send(&chain.source, channel.unwanted)?;
    let listener = channel.join(&chain.clients[0])?;
    listener.more(bed, SOME)?;
    unwanted.more(bed, SOME)?;
    let last = wanted.stop()? - 1;
    listener.until_last(bed, last)?;
    let heard = listener.heard();
    heard.is_whole()?;
    ensure!(heard.packets.iter().all(|(source, _)| *source == channel.wanted), "another source came");
    let [wanted, unwanted] = crossed;
    ensure!(wanted?.count() == heard.packets.len() as u64, "packets were lost or doubled at the proxy");
    let unwanted = unwanted?.count();
    ensure!(unwanted == 0, "{unwanted} packets of the other source crossed the upstream network");
    drop(listener.leave());
    bed.until_answer("the upstream has noticed the leave", &upstream, &["member", "list"], nobody)?;
    ensure!(bystander.count() == 0, "the other link was sent {} packets", bystander.count());
    Ok(())
}

/// The baseline: what operators have today, judged alike.
fn igmpproxy(bed: &mut Bed) -> Outcome {
    let chain = Chain::build(bed)?;
    let upstream = chain.start_upstream(bed, 2, 2)?;
    let file = bed.lab.dir().join("igmpproxy.conf");
    fs::write(
        &file,
        "quickleave\nphyint up0 upstream ratelimit 0 threshold 1\naltnet 10.0.0.0/8\n\
         phyint acc1 downstream ratelimit 0 threshold 1\nphyint acc2 downstream ratelimit 0 threshold 1\n",
    )?;
    let mut command = Command::new("igmpproxy");
    command.arg("-n").arg(&file);
    let _igmpproxy: Process = chain.proxy.spawn("igmpproxy", command)?;
    judge(bed, &chain, &upstream)
}
