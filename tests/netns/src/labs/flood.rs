//! Floods at a running router: what it takes in is bounded, counted and told of, and the stream beside it is whole.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_common::hdr::eth::{multicast_mac, multicast_mac_v6};
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
    traffic::{Flood, GroupPort, Pace},
};
use vmcast_wire::{
    amt::{Message, PORT},
    igmp::{self, Record, RecordType},
    ipv4, ipv6,
    membership::QueryV3,
    mld::{self, NEXT_ICMPV6},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    forged,
    outer::Outer,
    small::{Router, SOURCE, STREAM, Small, static_agent},
    stream::{Heard, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a flood of reports on a link is bounded and counted, and no stream is touched", of_reports),
        trial(
            "a flood of MLD reports on a link is bounded and counted, and no stream is touched",
            of_listener_reports,
        ),
        trial(
            "a flood of queries on a link is bounded and told of in few lines, and no stream is touched",
            |bed| of_queries(bed, Protocol::Igmp),
        ),
        trial(
            "a flood of MLD queries on a link is bounded and told of in few lines, and no stream is touched",
            |bed| of_queries(bed, Protocol::Mld),
        ),
        trial(
            "a host that asks for a great many sources without haste is bounded, and no stream is touched",
            |bed| of_lists(bed, Protocol::Igmp),
        ),
        trial(
            "a host that asks for a great many IPv6 sources without haste is bounded, and no stream is touched",
            |bed| of_lists(bed, Protocol::Mld),
        ),
        trial("a host that floods its link does not keep another one there from joining", of_a_neighbour),
        trial(
            "a flood with forged link-layer addresses does not keep a known host from joining",
            of_forged_hosts,
        ),
        trial("a flood with forged sources does not keep a gateway of that relay from joining", |bed| {
            of_forged_sources(bed, Outer::V4)
        }),
        trial("a flood with forged IPv6 sources does not keep a gateway of that relay from joining", |bed| {
            of_forged_sources(bed, Outer::V6)
        }),
        trial("a source that floods a relay does not keep its gateways from joining", |bed| {
            of_a_source(bed, Outer::V4)
        }),
        trial("an IPv6 source that floods a relay does not keep its gateways from joining", |bed| {
            of_a_source(bed, Outer::V6)
        }),
        trial(
            "a flood of Requests and Updates of all the world is bounded, and no stream is touched",
            |bed| of_requests(bed, Outer::V4),
        ),
        trial(
            "a flood of Requests and Updates of all the world by IPv6 is bounded, and no stream is touched",
            |bed| of_requests(bed, Outer::V6),
        ),
    ]
}

const SOME: u64 = 150;
/// Packets in the time of several handshakes.
const HANDSHAKES: u64 = 2_000;
const IGMP: u8 = 2;
/// What a router takes from an interface in a second, and somewhat more.
const MESSAGES_PER_SECOND: f64 = 11_000.0;
/// How much memory a flood may take, in bytes: the buffers of sockets are the kernel's.
const MEMORY: u64 = 64 << 20;
const FLOODS: Duration = Duration::from_secs(4);

fn stats(role: &Role) -> Value {
    role.ask(&["stats"]).unwrap_or_default()
}

fn counter(stats: &Value, table: &str, label: &str) -> u64 {
    stats["control"][table][label].as_u64().unwrap_or(0)
}

/// An address that another number does not have.
fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number.wrapping_mul(2_654_435_761) % 0x00ff_ffff)
}

/// The same of either version.
fn far_stranger(outer: Outer, number: u32) -> IpAddr {
    match outer {
        Outer::V4 => stranger(number).into(),
        Outer::V6 => {
            // Each of a network of its own.
            let [a, b] = [(number >> 16) as u16, (number as u16).wrapping_mul(40_503)];
            Ipv6Addr::new(0x2001, 0xdb8, 0xba00 + a, b, 0, 0, 0, 1).into()
        }
    }
}

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

fn frame(to: [u8; 6], ether_type: [u8; 2], datagram: &[u8]) -> Vec<u8> {
    frame_of([2, 0, 0, 0, 0, 9], to, ether_type, datagram)
}

fn frame_of(from: [u8; 6], to: [u8; 6], ether_type: [u8; 2], datagram: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ether_type, datagram].concat()
}

/// What the kernel has counted of an interface of a node.
fn of_link(node: &Namespace, interface: &str) -> Result<Value, Failed> {
    let mut command = std::process::Command::new("ip");
    command.args(["-json", "-statistics", "link", "show", interface]);
    let links: Value = serde_json::from_slice(&node.run(command)?.stdout)?;
    Ok(links[0]["stats64"].clone())
}

/// Frames that came in on an interface of a node.
fn came(node: &Namespace, interface: &str) -> Result<u64, Failed> {
    Ok(of_link(node, interface)?["rx"]["packets"].as_u64().unwrap_or(0))
}

/// Lines of the router's log.
fn lines(bed: &Bed) -> Result<usize, Failed> {
    Ok(fs::read_to_string(bed.lab.dir().join("vmr.log"))?.lines().count())
}

/// A group that only the third client joins, while the flood lasts.
const OTHER: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5004 };
/// What the log may say of a flood, a second and to begin with.
const LINES: (usize, usize) = (2, 20);

/// What a flood was, and what the router counted before it and after.
struct Beside {
    before: Value,
    after: Value,
    sent: u64,
    /// Of them those that the router's interface had room for.
    reached: u64,
    took: Duration,
}

impl Beside {
    /// How often something was counted meanwhile.
    fn more(&self, table: &str, label: &str) -> u64 {
        counter(&self.after, table, label) - counter(&self.before, table, label)
    }

    /// Fails if more messages of a link were taken in than are read of it, or if others are counted nowhere.
    fn is_bounded(&self, protocol: &str, taken: &[&str]) -> Outcome {
        let of = |labels: &[&str]| labels.iter().map(|label| self.more(protocol, label)).sum::<u64>();
        let Self { sent, reached, took, .. } = self;
        let taken = of(taken);
        let most = (MESSAGES_PER_SECOND * took.as_secs_f64()) as u64 + 1_000;
        ensure!(taken > 0 && taken < most, "{taken} of {sent} messages were taken in {took:?}");
        let dropped = of(&["overrun", "thinned", "strangers_over_share"]);
        // How many were thinned is told by chance.
        ensure!(dropped + most > reached / 2, "of {reached} messages {taken} were taken, {dropped} dropped");
        Ok(())
    }
}

/// Lets a flood run beside a stream, while somebody on a third link joins and leaves another one.
fn beside_a_stream(
    bed: &Bed,
    small: &Small,
    router: &mut Role,
    what: &str,
    frames: Vec<Vec<u8>>,
    pace: Pace,
) -> Result<Beside, Failed> {
    let bystander = small.forbid(bed, 2)?;
    let (sender, other) =
        (Sender::start(&small.source, SOURCE, STREAM)?, Sender::start(&small.source, SOURCE, OTHER)?);
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let (before, told) = (stats(router), lines(bed)?);
    let (start, arrived) = (bed.clock.now(), came(&small.vmr, "acc2")?);
    let flood = Flood::with_pace(small.client(2), "eth0", frames, pace, bed.clock)?;
    let mut joins = 0;
    while bed.clock.now() - start < FLOODS {
        let joined = Listener::join(small.client(3), OTHER, None)?;
        joined.more(bed, 10)?;
        // Who joins while the leave before is being asked about may miss some when that ends.
        joined.leave().is_in_order()?;
        joins += 1;
        listener.more(bed, 10)?;
        router.check_alive()?;
    }
    let flooded = flood.stop()?;
    let reached = came(&small.vmr, "acc2")? - arrived;
    eprintln!(
        "a flood of {what}: {:.0} frames/s sent, {:.0}/s reached the router; {joins} joins elsewhere",
        flooded.rate(),
        reached as f64 / flooded.took.as_secs_f64()
    );
    bed.until("the router answers again", || Ok(router.ask(&["stats"]).is_some()))?;
    let after = stats(router);
    let took = bed.clock.now() - start;
    listener.more(bed, SOME)?;
    let joined = Listener::join(small.client(3), OTHER, None)?;
    joined.more(bed, SOME)?;
    joined.leave().is_in_order()?;
    drop(other);
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole().map_err(|failed| {
        let (why, drops) = (failed.message().unwrap_or_default(), &stats(router)["drops"]);
        let links = [(&small.vmr, "src0"), (&small.vmr, "acc1"), (small.client(1), "eth0")]
            .map(|(node, interface)| of_link(node, interface).unwrap_or_default());
        Failed::from(format!("{why}; the router has dropped {drops}, and the links say {links:?}"))
    })?;
    ensure!(bystander.stray().packets == 0, "the flooded link was sent {:?}", bystander.stray());
    let memory = |stats: &Value| stats["resident_bytes"].as_u64().unwrap_or(0);
    let grown = memory(&after).saturating_sub(memory(&before));
    ensure!(grown < MEMORY, "{flooded:?} took {grown} bytes");
    let (told, most) = (lines(bed)? - told, LINES.0 * took.as_secs() as usize + LINES.1);
    eprintln!("a flood of {what}: {told} lines in the log, of {took:?}; {grown} bytes of memory");
    ensure!(told < most, "the log has {told} lines more after {took:?}");
    Ok(Beside { before, after, sent: flooded.sent, reached, took })
}

// proves RFC 9776 §9.2 (forged reports): bounded memory and time, counted by reason
fn of_reports(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let to = igmp::ALL_IGMPV3_ROUTERS;
    let frames = (0..40_000_u32).map(|number| {
        let group = Ipv4Addr::from(Ipv4Addr::new(239, 200, 0, 0).to_bits() + number);
        let sources = (0..number % 4).map(stranger).collect();
        let record = Record { record_type: RecordType::ChangeToExcludeMode, group, sources };
        let mut message = igmp::Message::ReportV3 { records: vec![record] }.emit();
        if number % 8 == 0 {
            message[3] ^= 0x55;
        }
        let mut datagram = ipv4::encapsulate(stranger(number), to, 1, 0xc0, IGMP, true, &message);
        if number % 8 == 4 {
            // It says that it is longer than it is.
            datagram[2] = 0x7f;
        }
        frame(multicast_mac(to), IPV4, &datagram)
    });
    let frames = frames.collect();
    let beside = beside_a_stream(bed, &small, &mut router, "IGMP reports", frames, Pace::FASTEST)?;
    beside.is_bounded("igmp", &["reports_received", "bad_checksum", "bad_source", "malformed"])?;
    let after = &beside.after;
    ensure!(counter(after, "igmp", "bad_checksum") > 0, "broken reports are not counted");
    ensure!(counter(after, "igmp", "bad_datagrams") > 0, "broken datagrams are not counted");
    let groups = router.ask(&["interface", "list"]).unwrap_or_default();
    let most = groups["interfaces"].as_array().into_iter().flatten();
    let most = most.filter_map(|interface| interface["querier"]["groups"].as_u64()).max();
    ensure!(most <= Some(16_384), "{most:?} groups are kept");
    eprintln!(
        "{most:?} groups are kept, {} joins wait for streams",
        counter(after, "mrib", "share_exceeded") + counter(after, "mrib", "streams_full")
    );
    Ok(())
}

/// AMT messages to a relay, of as many sources as `source` names.
fn messages(mac: [u8; 6], relay: IpAddr, source: impl Fn(u32) -> IpAddr) -> Vec<Vec<u8>> {
    let relay = SocketAddr::new(relay, PORT);
    let frames = (0..40_000_u32).map(|number| {
        let payload = match number % 3 {
            0 => Message::Request { ipv6: false, ecn: false, nonce: number }.to_vec(),
            1 => Message::RelayDiscovery { nonce: number }.to_vec(),
            _ => Message::MembershipUpdate { response_mac: [7; 6], nonce: number, update: &[0; 40] }.to_vec(),
        };
        let from = SocketAddr::new(source(number), 10_000 + (number % 5_000) as u16);
        forged::frame(mac, from, relay, &payload)
    });
    frames.collect()
}

// proves RFC 7450 §6 (spoofed Requests and Updates): no state without the three-way exchange, and answers at a rate
fn of_requests(bed: &mut Bed, outer: Outer) -> Outcome {
    let small = Small::build(bed, 3)?;
    outer.number(&small)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let frames = messages(small.vmr_mac(2)?, outer.relay(2), |number| far_stranger(outer, number));
    let beside = beside_a_stream(bed, &small, &mut router, "AMT messages", frames, Pace::FASTEST)?;
    let more = |label| beside.more("relay", label);
    let Beside { sent, took, .. } = beside;
    // The rate, and the burst of one second.
    let most = (20_000.0 * (took.as_secs_f64() + 1.0)) as u64;
    ensure!(more("requests") <= most, "{} of {sent} were answered in {took:?}", more("requests"));
    ensure!(more("bad_mac") > 0, "forged Updates are not counted");
    // There is no way to them.
    ensure!(beside.more("router", "unsent_datagrams") > 0, "answers that were not sent are not counted");
    ensure!(more("tunnels_up") == 0, "forged Updates made tunnels");
    Ok(())
}

// proves RFC 9777 §10 (forged reports): the same of MLD
fn of_listener_reports(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let to = mld::ALL_MLDV2_ROUTERS;
    let frames = (0..20_000_u32).map(|number| {
        let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, (number % 5_000) as u16);
        let group = Ipv6Addr::from(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 9, 0).to_bits() + u128::from(number));
        let record = mld::Record { record_type: RecordType::ChangeToExcludeMode, group, sources: Vec::new() };
        let message = mld::Message::ReportV2 { records: vec![record] }.emit(from, to);
        let datagram = ipv6::encapsulate(from, to, 1, 0xc0, NEXT_ICMPV6, true, &message);
        frame(multicast_mac_v6(&to.octets()), IPV6, &datagram)
    });
    let frames = frames.collect();
    beside_a_stream(bed, &small, &mut router, "MLD reports", frames, Pace::FASTEST)?
        .is_bounded("mld", &["reports_received"])
}

/// Below what a link may send in a second by a factor of four, as a host that nobody takes for a flood.
const UNHURRIED: Pace = Pace { at_once: 25, pause: Duration::from_millis(10) };

// proves RFC 9776 §9.2, RFC 9777 §10 (forged reports): lists of sources are bounded in sum
fn of_lists(bed: &mut Bed, protocol: Protocol) -> Outcome {
    let small = Small::build(bed, 3)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let record_type = RecordType::AllowNewSources;
    let frames = (0..16_000_u32).map(|number| match protocol {
        Protocol::Igmp => {
            let to = igmp::ALL_IGMPV3_ROUTERS;
            let group = Ipv4Addr::from(Ipv4Addr::new(239, 200, 0, 0).to_bits() + number);
            let sources = (0..256).map(|source| stranger(number * 256 + source)).collect();
            let message = igmp::Message::ReportV3 { records: vec![Record { record_type, group, sources }] };
            let from = Ipv4Addr::new(10, 5, 2, 2);
            let datagram = ipv4::encapsulate(from, to, 1, 0xc0, IGMP, true, &message.emit());
            frame(multicast_mac(to), IPV4, &datagram)
        }
        Protocol::Mld => {
            let to = mld::ALL_MLDV2_ROUTERS;
            let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, 9);
            let group =
                Ipv6Addr::from(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 9, 0).to_bits() + u128::from(number));
            let source = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, number as u16, last);
            let record = mld::Record { record_type, group, sources: (1..=80).map(source).collect() };
            let message = mld::Message::ReportV2 { records: vec![record] }.emit(from, to);
            let datagram = ipv6::encapsulate(from, to, 1, 0xc0, NEXT_ICMPV6, true, &message);
            frame(multicast_mac_v6(&to.octets()), IPV6, &datagram)
        }
    });
    let (frames, what) = (frames.collect(), format!("{} reports with long lists", protocol.label()));
    let beside = beside_a_stream(bed, &small, &mut router, &what, frames, UNHURRIED)?;
    let more = |label| beside.more(protocol.label(), label);
    let (taken, refused) = (more("reports_received"), more("too_many_sources"));
    eprintln!("of {} reports {taken} were taken, and {refused} sources refused", beside.reached);
    ensure!(refused > 0, "{taken} reports were taken whole");
    Ok(())
}

/// By which protocol routers ask.
#[derive(Clone, Copy)]
enum Protocol {
    Igmp,
    Mld,
}

impl Protocol {
    const fn label(self) -> &'static str {
        match self {
            Self::Igmp => "igmp",
            Self::Mld => "mld",
        }
    }

    /// A query of a router of this number, which would be elected before ours.
    fn query(self, number: u32) -> Vec<u8> {
        // Shortest, longest and all other times, and robustness variables.
        let (code, times) = (number % 7, [0, 1, 125, 3_174, 31_744].map(Duration::from_secs));
        let time = |offset: u32| times[(number / 7 + offset) as usize % times.len()];
        match self {
            Self::Igmp => {
                let (from, to) = (Ipv4Addr::from(0x0a00_0001 + number), igmp::ALL_SYSTEMS);
                let query = igmp::Message::QueryV3(query_of(Ipv4Addr::UNSPECIFIED, time(0), time(2), code));
                let datagram = ipv4::encapsulate(from, to, 1, 0xc0, IGMP, true, &query.emit());
                frame(multicast_mac(to), IPV4, &datagram)
            }
            Self::Mld => {
                let [a, b] = [(number >> 16) as u16, number as u16];
                // Below any that is made of a link-layer address.
                let (from, to) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, a, b + 1), mld::ALL_NODES);
                let query = mld::Message::QueryV2(query_of(Ipv6Addr::UNSPECIFIED, time(0), time(2), code));
                let datagram = ipv6::encapsulate(from, to, 1, 0xc0, NEXT_ICMPV6, true, &query.emit(from, to));
                frame(multicast_mac_v6(&to.octets()), IPV6, &datagram)
            }
        }
    }
}

fn query_of<A>(group: A, max_resp_time: Duration, query_interval: Duration, robustness: u32) -> QueryV3<A> {
    QueryV3 {
        max_resp_time,
        group,
        suppress_router_side_processing: robustness.is_multiple_of(2),
        robustness_variable: robustness as u8,
        query_interval,
        sources: Vec::new(),
    }
}

// proves RFC 9776 §9.1 and RFC 9777 §10.1 (forged queries): each is of another router with other times
fn of_queries(bed: &mut Bed, protocol: Protocol) -> Outcome {
    let small = Small::build(bed, 3)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let frames = (0..20_000).map(|number| protocol.query(number)).collect();
    let what = format!("{} queries", protocol.label());
    beside_a_stream(bed, &small, &mut router, &what, frames, Pace::FASTEST)?
        .is_bounded(protocol.label(), &["queries_received"])
}

/// Two hosts behind a switch on one link of a router: the first client, and who floods, which is returned. `timers` are
/// more keys of the router's IGMP.
fn with_neighbour(
    bed: &mut Bed,
    small: &Small,
    timers: &str,
    keys: &str,
) -> Result<(Namespace, Role), Failed> {
    let [floods, switch] = bed.lab.namespaces(["floods", "switch"])?;
    bed.lab.veths(&[
        ((&small.vmr, "lan0"), (&switch, "l0")),
        ((small.client(1), "lan0"), (&switch, "l1")),
        ((&floods, "eth0"), (&switch, "l2")),
    ])?;
    switch.bridge("lanbr", &["l0", "l1", "l2"])?;
    switch.ip("link set lanbr type bridge mcast_snooping 0")?;
    small.vmr.ip("addr add 10.6.0.1/24 dev lan0")?;
    small.client(1).ip("addr add 10.6.0.2/24 dev lan0\nroute add 239.192.7.2/32 dev lan0")?;
    let tables = &format!("[[interface]]\nname = \"lan0\"\nquerier = true\n{keys}");
    let router = Router { querier: true, tables, ..Router::default() };
    let router = small.router_with_timers(bed, router, timers, "")?;
    Ok((floods, router))
}

/// Reports of one host after the other.
fn reports(host: impl Fn(u32) -> [u8; 6]) -> Vec<Vec<u8>> {
    let to = igmp::ALL_IGMPV3_ROUTERS;
    let frames = (0..10_000_u32).map(|number| {
        let group = Ipv4Addr::from(Ipv4Addr::new(239, 200, 0, 0).to_bits() + number);
        let record = Record { record_type: RecordType::ChangeToExcludeMode, group, sources: Vec::new() };
        let message = igmp::Message::ReportV3 { records: vec![record] }.emit();
        let datagram = ipv4::encapsulate(stranger(number), to, 1, 0xc0, IGMP, true, &message);
        frame_of(host(number), multicast_mac(to), IPV4, &datagram)
    });
    frames.collect()
}

/// Lets the first client join and leave a stream ten times; judges what came each time, and waits after each leave.
fn join_and_leave(
    bed: &Bed,
    small: &Small,
    judge: impl Fn(&Heard) -> Outcome,
    wait: impl Fn() -> Outcome,
) -> Outcome {
    for _ in 0..10 {
        // From its first report, or the one that the kernel repeats within a second.
        let joined = Listener::join(small.client(1), OTHER, None)?;
        joined.more(bed, 20)?;
        judge(&joined.leave())?;
        wait()?;
    }
    Ok(())
}

// proves that hosts of one link have their shares of what is read from it
fn of_a_neighbour(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let (floods, router) = with_neighbour(bed, &small, SOON, "")?;
    let sender = Sender::start(&small.source, SOURCE, OTHER)?;
    let flood = Flood::start(&floods, "eth0", reports(|_| [2, 0, 0, 0, 0, 9]), bed.clock)?;
    // How much of it there is, is the machine's affair: one that is slow enough is read as a whole, which harms nobody.
    let count = |label| counter(&stats(&router), "igmp", label);
    let is_there = || count("thinned") > 0 || count("reports_received") > READ_WHOLE;
    bed.until("the flood is thinned, or read", || Ok(is_there()))?;
    // The flood goes to every port of the switch, which drops of whatever there is no room for.
    join_and_leave(bed, &small, Heard::is_in_order, || Ok(()))?;
    let lost = count("overrun");
    bed.until("what has no room is thinned", || Ok(lost == 0 || count("thinned") > 0))?;
    let flooded = flood.stop()?;
    eprintln!("ten joins beside a flood of {:.0} frames/s of another host on the link", flooded.rate());
    drop(sender);
    Ok(())
}

/// Soon asked again: a report that found no room in the socket before the share was narrow enough is not the last one.
/// One of the flood that gets through by chance is not one of the host: of some 100,000 a second few hundred do.
const SOON: &str = "query_interval_seconds = 4\nquery_response_interval_seconds = 1\n";

/// Fewer than the flood asks for at once.
const FEW_GROUPS: &str = "max_groups = 20\n";

// proves that a host which was heard before is heard, and served, beside any number of forged link-layer addresses,
// which leave it room
fn of_forged_hosts(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let (floods, router) = with_neighbour(bed, &small, SOON, FEW_GROUPS)?;
    let sender = Sender::start(&small.source, SOURCE, OTHER)?;
    // It is known 0.2 s after its first report; the packets are 5 ms apart.
    let joined = Listener::join(small.client(1), OTHER, None)?;
    joined.more(bed, 100)?;
    joined.leave().is_whole()?;
    let forged = |number: u32| {
        let [_, b, c, d] = number.to_be_bytes();
        [2, 7, 7, b, c, d]
    };
    let flood = Flood::start(&floods, "eth0", reports(forged), bed.clock)?;
    let cut = || counter(&stats(&router), "igmp", "strangers_over_share");
    bed.until("the flood is cut", || Ok(cut() > 0))?;
    let refused = || counter(&stats(&router), "igmp", "too_many_groups");
    bed.until("the flood has asked for more groups than it gets", || Ok(refused() > 0))?;
    let before = cut();
    // The flood goes to every port of the switch, which drops of whatever there is no room for.
    join_and_leave(bed, &small, Heard::is_in_order, || Ok(()))?;
    ensure!(cut() > before, "the flood went on meanwhile");
    let flooded = flood.stop()?;
    let overrun = counter(&stats(&router), "igmp", "overrun");
    eprintln!(
        "ten joins of a known host beside a flood of {:.0} frames/s with forged addresses; {overrun} messages had no \
         room",
        flooded.rate()
    );
    drop(sender);
    Ok(())
}

/// So many reports of a flood are read before it is taken for one that is read as a whole.
const READ_WHOLE: u64 = 20_000;

/// What the router of a slow machine reads in any case.
const FEW_ANSWERS: &str = "[tunnel]\nanswers_per_second = 1000\nanswers_per_prefix_per_second = 500\n\
                           [mld]\nquery_interval_seconds = 2\nquery_response_interval_seconds = 1\n";
/// A gateway shakes hands anew every two seconds, and its tunnel ends after five without it.
const SHORT_LIVED: &str = "query_interval_seconds = 2\nquery_response_interval_seconds = 1\n";

/// Lets somebody on another link send AMT messages to the relay of the first client, whose agent joins and leaves.
fn beside_a_gateway(bed: &mut Bed, outer: Outer, label: &str, source: impl Fn(u32) -> IpAddr) -> Outcome {
    let small = Small::build(bed, 3)?;
    outer.number(&small)?;
    let router = Router { tables: FEW_ANSWERS, ..Router::default() };
    let router = small.router_with_timers(bed, router, SHORT_LIVED, "")?;
    let mut agent = static_agent(bed, small.client(1), outer.relay(1), "")?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let (sender, other) =
        (Sender::start(&small.source, SOURCE, STREAM)?, Sender::start(&small.source, SOURCE, OTHER)?);
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let frames = messages(small.vmr_mac(2)?, outer.relay(1), source);
    let flood = Flood::start(small.client(2), "eth0", frames, bed.clock)?;
    let cut = || counter(&stats(&router), "relay", label);
    bed.until("the flood is cut", || Ok(cut() > 0))?;
    let before = cut();
    // Its handshakes are answered, whatever strangers ask.
    listener.more(bed, HANDSHAKES)?;
    // An agent's host leaves at once: who joins before that is done would miss a packet.
    join_and_leave(bed, &small, Heard::is_whole, || {
        bed.until_answer("the leave is known", &router, &["status"], |status| status["groups"] == 1)?;
        Ok(())
    })?;
    ensure!(cut() > before, "the flood went on meanwhile");
    let flooded = flood.stop()?;
    eprintln!("ten joins beside a flood of {:.0} frames/s to the relay's socket", flooded.rate());
    drop(other);
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "somebody else was sent {:?}", bystander.stray());
    let unknown = counter(&stats(&router), "relay", "tunnels_up");
    ensure!(unknown == 1, "{unknown} tunnels were made");
    let log = fs::read_to_string(bed.lab.dir().join("client1.log"))?;
    ensure!(!log.contains("does not serve"), "the agent gave its VMR up:\n{log}");
    Ok(())
}

// proves that who has a tunnel is heard beside sources that are none
fn of_forged_sources(bed: &mut Bed, outer: Outer) -> Outcome {
    beside_a_gateway(bed, outer, "strangers_over_share", |number| far_stranger(outer, number))
}

// proves that a source has no more than its own share of what is read from the relay's socket
fn of_a_source(bed: &mut Bed, outer: Outer) -> Outcome {
    beside_a_gateway(bed, outer, "source_over_share", |_| outer.on_link(2, 2))
}
