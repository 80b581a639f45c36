//! Floods at a running router: what it takes in is bounded, counted and told of, and the stream beside it is whole.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_common::hdr::eth::{multicast_mac, multicast_mac_v6};
use vmcast_lab::{
    Namespace,
    roles::Role,
    traffic::{Flood, Flooded, GroupPort},
};
use vmcast_wire::{
    amt::{Message, PORT},
    igmp::{self, Record, RecordType},
    ipv4, ipv6,
    mld::{self, NEXT_ICMPV6},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small, client_address, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a flood of reports on a link is bounded and counted, and no stream is touched", of_reports),
        trial(
            "a flood of MLD reports on a link is bounded and counted, and no stream is touched",
            of_listener_reports,
        ),
        trial("a host that floods its link does not keep another one there from joining", of_a_neighbour),
        trial(
            "a flood with forged link-layer addresses does not keep a known host from joining",
            of_forged_hosts,
        ),
        trial(
            "a flood with forged sources does not keep a gateway of that relay from joining",
            of_forged_sources,
        ),
        trial("a source that floods a relay does not keep its gateways from joining", of_a_source),
        trial(
            "a flood of Requests and Updates of all the world is bounded, and no stream is touched",
            of_requests,
        ),
    ]
}

const SOME: u64 = 150;
const IGMP: u8 = 2;
const UDP: u8 = 17;
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

fn all(stats: &Value, table: &str, labels: &[&str]) -> u64 {
    labels.iter().map(|label| counter(stats, table, label)).sum()
}

/// An address that another number does not have.
fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number.wrapping_mul(2_654_435_761) % 0x00ff_ffff)
}

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

fn frame(to: [u8; 6], ether_type: [u8; 2], datagram: &[u8]) -> Vec<u8> {
    frame_of([2, 0, 0, 0, 0, 9], to, ether_type, datagram)
}

fn frame_of(from: [u8; 6], to: [u8; 6], ether_type: [u8; 2], datagram: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ether_type, datagram].concat()
}

/// Frames that came in on an interface of a node, and those that it had no room for.
fn came(node: &Namespace, interface: &str) -> Result<u64, Failed> {
    let mut command = std::process::Command::new("ip");
    command.args(["-json", "-statistics", "link", "show", interface]);
    let links: Value = serde_json::from_slice(&node.run(command)?.stdout)?;
    let of = |label: &str| links[0]["stats64"]["rx"][label].as_u64().unwrap_or(0);
    Ok(of("packets") + of("dropped"))
}

/// Lines of a role's log that warn.
fn warnings(bed: &Bed, name: &str) -> usize {
    let log = fs::read_to_string(bed.lab.dir().join(format!("{name}.log"))).unwrap_or_default();
    log.lines().filter(|line| line.contains("WARN")).count()
}

/// A group that only the third client joins, while the flood lasts.
const OTHER: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5004 };
/// What the log may say of a flood, a second and to begin with.
const WARNINGS: (usize, usize) = (2, 20);

/// Lets a flood run beside a stream, while somebody on a third link joins and leaves another one; what the router
/// counted before and after, and what the flood was.
fn beside_a_stream(
    bed: &Bed,
    small: &Small,
    router: &mut Role,
    what: &str,
    frames: Vec<Vec<u8>>,
) -> Result<(Value, Value, Flooded, Duration), Failed> {
    let bystander = small.forbid(bed, 2)?;
    let (sender, other) =
        (Sender::start(&small.source, SOURCE, STREAM)?, Sender::start(&small.source, SOURCE, OTHER)?);
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let before = stats(router);
    let (start, arrived) = (bed.clock.now(), came(&small.vmr, "acc2")?);
    let flood = Flood::start(small.client(2), "eth0", frames, bed.clock)?;
    let mut joins = 0;
    while bed.clock.now() - start < FLOODS {
        let joined = Listener::join(small.client(3), OTHER, None)?;
        joined.more(bed, 10)?;
        joined.leave().is_whole()?;
        joins += 1;
        listener.more(bed, 10)?;
        router.check_alive()?;
    }
    let flooded = flood.stop()?;
    let arrived = (came(&small.vmr, "acc2")? - arrived) as f64 / flooded.took.as_secs_f64();
    eprintln!(
        "a flood of {what}: {:.0} frames/s sent, {arrived:.0}/s reached the router's interface; {joins} joins elsewhere",
        flooded.rate()
    );
    bed.until("the router answers again", || Ok(router.ask(&["stats"]).is_some()))?;
    let after = stats(router);
    let took = bed.clock.now() - start;
    listener.more(bed, SOME)?;
    let joined = Listener::join(small.client(3), OTHER, None)?;
    joined.more(bed, SOME)?;
    joined.leave().is_whole()?;
    drop(other);
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the flooded link was sent {:?}", bystander.stray());
    let memory = |stats: &Value| stats["resident_bytes"].as_u64().unwrap_or(0);
    let grown = memory(&after).saturating_sub(memory(&before));
    ensure!(grown < MEMORY, "{flooded:?} took {grown} bytes");
    let (lines, most) = (warnings(bed, "vmr"), WARNINGS.0 * took.as_secs() as usize + WARNINGS.1);
    ensure!(lines < most, "the log has {lines} warnings after {took:?}");
    Ok((before, after, flooded, took))
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
    let (before, after, Flooded { sent, .. }, took) =
        beside_a_stream(bed, &small, &mut router, "IGMP reports", frames)?;
    let taken =
        |stats: &Value| all(stats, "igmp", &["reports_received", "bad_checksum", "bad_source", "malformed"]);
    let taken = taken(&after) - taken(&before);
    let most = (MESSAGES_PER_SECOND * took.as_secs_f64()) as u64 + 1_000;
    ensure!(taken < most, "{taken} of {sent} messages were taken in {took:?}");
    let dropped = all(&after, "igmp", &["overrun", "thinned", "strangers_over_share"]);
    ensure!(dropped > sent / 4, "only {dropped} of {sent} messages were counted as dropped");
    ensure!(counter(&after, "igmp", "bad_checksum") > 0, "broken reports are not counted");
    ensure!(counter(&after, "igmp", "bad_datagrams") > 0, "broken datagrams are not counted");
    let groups = router.ask(&["interface", "list"]).unwrap_or_default();
    let most = groups["interfaces"].as_array().into_iter().flatten();
    let most = most.filter_map(|interface| interface["querier"]["groups"].as_u64()).max();
    ensure!(most <= Some(16_384), "{most:?} groups are kept");
    eprintln!(
        "{most:?} groups are kept, {} joins wait for streams",
        counter(&after, "mrib", "share_exceeded") + counter(&after, "mrib", "streams_full")
    );
    Ok(())
}

/// AMT messages to a relay, of as many sources as `source` names.
fn messages(mac: [u8; 6], relay: Ipv4Addr, source: impl Fn(u32) -> Ipv4Addr) -> Vec<Vec<u8>> {
    let frames = (0..40_000_u32).map(|number| {
        let payload = match number % 3 {
            0 => Message::Request { ipv6: false, ecn: false, nonce: number }.to_vec(),
            1 => Message::RelayDiscovery { nonce: number }.to_vec(),
            _ => Message::MembershipUpdate { response_mac: [7; 6], nonce: number, update: &[0; 40] }.to_vec(),
        };
        let length = u16::try_from(8 + payload.len()).expect("a short message");
        let mut udp = Vec::new();
        for word in [10_000 + (number % 5_000) as u16, PORT, length, 0] {
            udp.extend(word.to_be_bytes());
        }
        udp.extend(payload);
        frame(mac, IPV4, &ipv4::encapsulate(source(number), relay, 9, 0, UDP, false, &udp))
    });
    frames.collect()
}

// proves RFC 7450 §6 (spoofed Requests and Updates): no state without the three-way exchange, and answers at a rate
fn of_requests(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let frames = messages(small.vmr_mac(2)?, gateway_of(2), stranger);
    let (before, after, Flooded { sent, .. }, took) =
        beside_a_stream(bed, &small, &mut router, "AMT messages", frames)?;
    let more = |label| counter(&after, "relay", label) - counter(&before, "relay", label);
    // The rate, and the burst of one second.
    let most = (20_000.0 * (took.as_secs_f64() + 1.0)) as u64;
    ensure!(more("requests") <= most, "{} of {sent} were answered in {took:?}", more("requests"));
    ensure!(more("bad_mac") > 0, "forged Updates are not counted");
    // There is no way to them.
    ensure!(counter(&after, "router", "unsent_datagrams") > 0, "answers that were not sent are not counted");
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
    let (before, after, Flooded { sent, .. }, took) =
        beside_a_stream(bed, &small, &mut router, "MLD reports", frames)?;
    let taken = counter(&after, "mld", "reports_received") - counter(&before, "mld", "reports_received");
    let most = (MESSAGES_PER_SECOND * took.as_secs_f64()) as u64 + 1_000;
    ensure!(taken > 0 && taken < most, "{taken} of {sent} messages were taken in {took:?}");
    let dropped = all(&after, "mld", &["overrun", "thinned", "strangers_over_share"]);
    ensure!(dropped > sent / 4, "only {dropped} of {sent} messages were counted as dropped");
    Ok(())
}

/// Two hosts behind a switch on one link of a router: the first client, and who floods, which is returned. `timers` are
/// more keys of the router's IGMP.
fn with_neighbour(bed: &mut Bed, small: &Small, timers: &str) -> Result<(Namespace, Role), Failed> {
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
    let tables = "[[interface]]\nname = \"lan0\"\nquerier = true\n";
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

/// Lets the first client join and leave a stream ten times, and waits after each leave.
fn join_and_leave(bed: &Bed, small: &Small, wait: impl Fn() -> Outcome) -> Outcome {
    for _ in 0..10 {
        // From its first report, or the one that the kernel repeats within a second.
        let joined = Listener::join(small.client(1), OTHER, None)?;
        joined.more(bed, 20)?;
        joined.leave().is_whole()?;
        wait()?;
    }
    Ok(())
}

// proves that hosts of one link have their shares of what is read from it
fn of_a_neighbour(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let (floods, router) = with_neighbour(bed, &small, "")?;
    let sender = Sender::start(&small.source, SOURCE, OTHER)?;
    let flood = Flood::start(&floods, "eth0", reports(|_| [2, 0, 0, 0, 0, 9]), bed.clock)?;
    bed.until("the flood is thinned", || Ok(counter(&stats(&router), "igmp", "thinned") > 100_000))?;
    join_and_leave(bed, &small, || Ok(()))?;
    let flooded = flood.stop()?;
    eprintln!("ten joins beside a flood of {:.0} frames/s of another host on the link", flooded.rate());
    drop(sender);
    Ok(())
}

/// Soon asked again: a report that found no room in the socket before the share was narrow enough is not the last one.
/// One of the flood that gets through by chance is not one of the host: of some 100,000 a second few hundred do.
const SOON: &str = "query_interval_seconds = 4\nquery_response_interval_seconds = 1\n";

// proves that a host which was heard before is heard, and served, beside any number of forged link-layer addresses
fn of_forged_hosts(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let (floods, router) = with_neighbour(bed, &small, SOON)?;
    let sender = Sender::start(&small.source, SOURCE, OTHER)?;
    // It is known from its first report on.
    let joined = Listener::join(small.client(1), OTHER, None)?;
    joined.more(bed, 20)?;
    joined.leave().is_whole()?;
    let forged = |number: u32| {
        let [_, b, c, d] = number.to_be_bytes();
        [2, 7, 7, b, c, d]
    };
    let flood = Flood::start(&floods, "eth0", reports(forged), bed.clock)?;
    let cut = || counter(&stats(&router), "igmp", "strangers_over_share");
    bed.until("the flood is cut", || Ok(cut() > 100_000))?;
    let before = cut();
    join_and_leave(bed, &small, || Ok(()))?;
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

/// What the router of a slow machine reads in any case.
const FEW_ANSWERS: &str = "[tunnel]\nanswers_per_second = 1000\nanswers_per_prefix_per_second = 500\n";

/// Lets somebody on another link send AMT messages to the relay of the first client, whose agent joins and leaves.
fn beside_a_gateway(bed: &mut Bed, label: &str, source: impl Fn(u32) -> Ipv4Addr) -> Outcome {
    let small = Small::build(bed, 3)?;
    let router = small.router(bed, Router { tables: FEW_ANSWERS, ..Router::default() })?;
    let _agents = small.agents(bed, [1])?;
    let bystander = small.forbid(bed, 3)?;
    let (sender, other) =
        (Sender::start(&small.source, SOURCE, STREAM)?, Sender::start(&small.source, SOURCE, OTHER)?);
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let frames = messages(small.vmr_mac(2)?, gateway_of(1), source);
    let flood = Flood::start(small.client(2), "eth0", frames, bed.clock)?;
    let cut = || counter(&stats(&router), "relay", label);
    bed.until("the flood is cut", || Ok(cut() > 100_000))?;
    let before = cut();
    // An agent's host leaves at once: who joins before that is done would miss a packet.
    join_and_leave(bed, &small, || {
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
    Ok(())
}

// proves that who has a tunnel is heard beside sources that are none
fn of_forged_sources(bed: &mut Bed) -> Outcome {
    beside_a_gateway(bed, "strangers_over_share", stranger)
}

// proves that a source has no more than its own share of what is read from the relay's socket
fn of_a_source(bed: &mut Bed) -> Outcome {
    beside_a_gateway(bed, "source_over_share", |_| client_address(2))
}
