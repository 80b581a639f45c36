//! Two VMRs on one network of hosts: the elected querier alone serves them, and the other steps in when it
//! dies. And one VMR beside somebody who only asks, now and then or steadily.
//!
//! ```text
//!                +-------+
//!          .1 +--| vmr1  |--+ .1
//! +--------+  |  +-------+  |  +--------+
//! | source |--+ srcbr lanbr +--| client |
//! +--------+  |  +-------+  |  +--------+
//!          .3 +--| vmr2  |--+ .3
//!                +-------+
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    thread,
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
use vmcast_wire::{igmp, ipv4, ipv6, membership::QueryV3, mld};

use super::{
    bad_input::send_igmp_from,
    bed::{Bed, Outcome, ensure, trial},
    hosts::{Hosts, Keys, V4, V6},
    small::{Router, Small, client_address, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("of two routers on a link the elected querier alone serves it until it dies", |bed| {
            two_routers(bed, SERVED_V4)
        }),
        trial("of two routers on a link the elected querier of MLD alone serves it until it dies", |bed| {
            two_routers(bed, SERVED_V6)
        }),
        trial("a querier that flaps stops no stream, and one that stays is left the members", |bed| {
            flapping(bed, SERVED_V4)
        }),
        trial("a querier of MLD that flaps stops no stream, and one that stays is left the members", |bed| {
            flapping(bed, SERVED_V6)
        }),
        trial("a querier that is not listed is not heard", |bed| not_listed(bed, SERVED_V4)),
        trial("a querier of MLD that is not listed is not heard", |bed| not_listed(bed, SERVED_V6)),
        trial("queries that hosts do not hear elect nobody and end no stream", unheard),
        trial("a query with hostile timers ends no stream though hosts answer late", hostile),
        trial(
            "one query with hostile timers on a link without members keeps nobody from a stream",
            hostile_start,
        ),
    ]
}

const SOME: u64 = 150;
const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 1), port: 5004 };
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 3);

fn start(bed: &Bed, node: &Namespace) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(node.node());
    // A dead querier is missed after 4.25 s.
    let tables = format!(
        "[dataplane]\npin_path = \"{}\"\n[igmp]\nquery_interval_seconds = 2\n\
         query_response_interval_seconds = 0.5\nlast_member_query_interval_seconds = 0.2\n\
         [mld]\nquery_interval_seconds = 2\n\
         query_response_interval_seconds = 0.5\nlast_listener_query_interval_seconds = 0.2\n\
         [[interface]]\nname = \"src0\"\naccepts_sources = true\n[[interface]]\nname = \"acc0\"\nquerier = true\n",
        pins.display()
    );
    let mut role = bed.launcher.start(node, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

/// Waits until a router serves the members of an interface as the querier of one protocol, or leaves them to another.
fn serving_by(bed: &Bed, role: &Role, interface: &str, querier: &str, wanted: bool) -> Outcome {
    bed.until_answer(&format!("serving is {wanted}"), role, &["interface", "list"], |answer| {
        let all = answer["interfaces"].as_array();
        let lan = all.and_then(|all| all.iter().find(|entry| entry["name"] == interface));
        lan.is_some_and(|lan| lan[querier]["serving"] == wanted)
    })
    .map(|_| ())
}

/// Waits until a router takes this address for the querier's.
fn elected(bed: &Bed, role: &Role, interface: &str, address: impl Into<IpAddr>) -> Outcome {
    let address = address.into();
    let querier = querier_of(address);
    bed.until_answer(&format!("{address} is the querier"), role, &["interface", "list"], |answer| {
        let all = answer["interfaces"].as_array();
        let lan = all.and_then(|all| all.iter().find(|entry| entry["name"] == interface));
        lan.is_some_and(|lan| lan[querier]["address"] == address.to_string())
    })
    .map(|_| ())
}

fn nobody(answer: &Value) -> bool {
    answer["members"].as_array().is_some_and(Vec::is_empty)
}

/// Under which name a router counts what has to do with such an address.
const fn protocol_of(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "igmp",
        IpAddr::V6(_) => "mld",
    }
}

/// Under which name a router shows the querier that has such an address.
const fn querier_of(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "querier",
        IpAddr::V6(_) => "mld_querier",
    }
}

/// A stream, its source, and the two routers' addresses on the network of the hosts.
#[derive(Clone, Copy)]
struct Served {
    stream: SocketAddr,
    source: IpAddr,
    routers: [IpAddr; 2],
}

const SERVED_V4: Served = Served {
    stream: SocketAddr::new(IpAddr::V4(STREAM.group), STREAM.port),
    source: IpAddr::V4(SOURCE),
    routers: [IpAddr::V4(FIRST), IpAddr::V4(SECOND)],
};
const SERVED_V6: Served = Served {
    stream: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1)), 5004),
    source: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2)),
    routers: [
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3)),
    ],
};

impl Served {
    fn send(&self, node: &Namespace) -> Result<Sender, Failed> {
        match (self.source, self.stream) {
            (IpAddr::V6(source), SocketAddr::V6(stream)) => Sender::start_v6(node, source, stream, "eth0"),
            _ => Sender::start(node, SOURCE, STREAM),
        }
    }

    fn join(&self, node: &Namespace) -> Result<Listener, Failed> {
        match self.stream {
            SocketAddr::V6(stream) => Listener::join_v6(node, stream, "eth0"),
            SocketAddr::V4(_) => Listener::join(node, STREAM, None),
        }
    }
}

// proves A10: of two VMRs one is elected, by IGMP and by MLD
fn two_routers(bed: &mut Bed, served: Served) -> Outcome {
    let [source, vmr1, vmr2, client, switch] =
        bed.lab.namespaces(["source", "vmr1", "vmr2", "client", "switch"])?;
    bed.lab.veths(&[
        ((&source, "eth0"), (&switch, "s0")),
        ((&vmr1, "src0"), (&switch, "s1")),
        ((&vmr2, "src0"), (&switch, "s2")),
        ((&client, "eth0"), (&switch, "l0")),
        ((&vmr1, "acc0"), (&switch, "l1")),
        ((&vmr2, "acc0"), (&switch, "l2")),
    ])?;
    switch.bridge("srcbr", &["s0", "s1", "s2"])?;
    switch.bridge("lanbr", &["l0", "l1", "l2"])?;
    switch.ip("link set lanbr type bridge mcast_snooping 0\nlink set srcbr type bridge mcast_snooping 0")?;
    source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via 10.1.0.1"))?;
    vmr1.ip(&format!("addr add 10.1.0.1/24 dev src0\naddr add {FIRST}/24 dev acc0"))?;
    vmr2.ip(&format!("addr add 10.1.0.3/24 dev src0\naddr add {SECOND}/24 dev acc0"))?;
    client.ip(&format!("addr add 10.5.1.2/24 dev eth0\nroute add default via {FIRST}"))?;
    let Served { source: address, routers, .. } = SERVED_V6;
    source.ip(&format!("addr add {address}/64 dev eth0 nodad"))?;
    for (vmr, own, on_lan) in [(&vmr1, "fd01::1", routers[0]), (&vmr2, "fd01::3", routers[1])] {
        vmr.ip(&format!(
            "addr add {own}/64 dev src0 nodad\naddr flush dev acc0 scope link\naddr add {on_lan}/64 dev acc0 nodad"
        ))?;
    }

    let [lower, higher] = served.routers;
    let second = start(bed, &vmr2)?;
    elected(bed, &second, "acc0", higher)?;
    let first = start(bed, &vmr1)?;
    elected(bed, &second, "acc0", lower)?;
    serving_by(bed, &second, "acc0", querier_of(lower), false)?;
    let sender = served.send(&source)?;
    let listener = served.join(&client)?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    ensure!(second.ask(&["member", "list"]).as_ref().is_some_and(nobody), "the second serves members, too");

    let mut first = first.into_process();
    first.kill()?;
    let before = listener.count();
    elected(bed, &second, "acc0", higher)?;
    listener.more(bed, SOME)?;
    let heard = listener.leave();
    ensure!(heard.damaged == 0, "{} packets came damaged", heard.damaged);
    let numbers: Vec<u64> = heard.packets.iter().map(|(_, number)| *number).collect();
    ensure!(numbers.is_sorted_by(|a, b| a < b), "packets came twice or out of order");
    let after = &numbers[before as usize..];
    let gap = after.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    // 200 packets a second: the time of the election, and some.
    ensure!(gap < 200 * 20, "{gap} packets were missed while nobody was the querier");
    drop(sender);
    Ok(())
}

/// Somebody on the first client's link who asks with a lower address than the VMR's.
const ASKS: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 9);
/// A querier that is silent is missed after 2.25 s.
const TIMERS: &str = "query_interval_seconds = 1\nquery_response_interval_seconds = 0.5\n";

fn query<A>(group: A) -> QueryV3<A> {
    QueryV3 {
        max_resp_time: Duration::from_millis(500),
        group,
        suppress_router_side_processing: false,
        robustness_variable: 2,
        query_interval: Duration::from_secs(1),
        sources: Vec::new(),
    }
}

/// The same of MLD.
const ASKS_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A General Query as the protocol wants it, which the router and the host hear.
fn ask(small: &Small, served: Served) -> Outcome {
    if served.stream.is_ipv4() {
        let query = igmp::Message::QueryV3(query(Ipv4Addr::UNSPECIFIED));
        return send_igmp_from(small.client(1), ASKS, igmp::ALL_SYSTEMS, 1, true, &[query.emit()]);
    }
    let to = mld::ALL_NODES;
    let query = mld::Message::QueryV2(query(Ipv6Addr::UNSPECIFIED)).emit(ASKS_V6, to);
    let datagram = ipv6::encapsulate(ASKS_V6, to, 1, 0xc0, mld::NEXT_ICMPV6, true, &query);
    let frame = [&multicast_mac_v6(&to.octets())[..], &[2, 0, 0, 0, 0, 9], &[0x86, 0xdd], &datagram].concat();
    // The host does not hear what it sends itself, so that it comes from the link's other end, too.
    for (node, interface) in [(small.client(1), "eth0"), (&small.vmr, "acc1")] {
        let socket = node.enter(|| packet_socket(interface, Duration::from_millis(1)))??;
        nix::unistd::write(&socket, &frame)?;
    }
    Ok(())
}

/// The small network, its VMR the querier of either protocol, with more keys of its interfaces, and the stream's source.
fn asked_network(bed: &mut Bed, clients: u8, interface: &str) -> Result<(Small, Role), Failed> {
    let small = Small::build(bed, clients)?;
    let Served { source, .. } = SERVED_V6;
    small.source.ip(&format!("addr add {source}/64 dev eth0 nodad"))?;
    small.vmr.ip("addr add fd01::1/64 dev src0 nodad")?;
    let tables = format!("[mld]\n{TIMERS}");
    let router = Router { querier: true, tables: &tables, ..Router::default() };
    let router = small.router_with_timers(bed, router, TIMERS, interface)?;
    Ok((small, router))
}

fn counter(role: &Role, protocol: &str, label: &str) -> u64 {
    role.ask(&["stats"]).and_then(|answer| answer["control"][protocol][label].as_u64()).unwrap_or(0)
}

// proves RFC 9776 §6.6.2, RFC 9777 §7.6.2 and RFC 4605 §4.2 with a querier that comes and goes
fn flapping(bed: &mut Bed, served: Served) -> Outcome {
    let (small, router) = asked_network(bed, 2, "")?;
    let asks: IpAddr = if served.stream.is_ipv4() { ASKS.into() } else { ASKS_V6.into() };
    let protocol = protocol_of(asks);
    let bystander = Witness::start(small.client(2), "eth0", served.stream, bed.clock)?;
    bystander.forbid(true);
    let sender = served.send(&small.source)?;
    let listener = served.join(small.client(1))?;
    listener.more(bed, SOME)?;
    for round in 1..=3 {
        ask(&small, served)?;
        elected(bed, &router, "acc1", asks)?;
        thread::sleep(Duration::from_millis(700));
        ask(&small, served)?;
        bed.until("the querier is missed", || Ok(counter(&router, protocol, "queriers_missed") >= round))?;
    }
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    ensure!(counter(&router, protocol, "handed_over") == 0, "members were left to a querier that flaps");

    // Eight times as long as at first, and then they are left to it.
    let before = listener.count();
    let start = bed.clock.now();
    while counter(&router, protocol, "handed_over") == 0 {
        ensure!(
            bed.clock.now() - start < Duration::from_secs(60),
            "a steady querier is never left the members"
        );
        ask(&small, served)?;
        thread::sleep(Duration::from_millis(500));
    }
    let steady = bed.clock.now() - start;
    ensure!(steady > Duration::from_secs(16), "members were left to it after {steady:?}");
    listener.heard().is_whole()?;
    ensure!(listener.count() > before, "the stream had stopped before");
    // It is silent: they are taken back.
    serving_by(bed, &router, "acc1", querier_of(asks), true)?;
    let again = listener.count();
    listener.more(bed, SOME)?;
    ensure!(listener.count() > again, "the stream does not go on");
    let heard = listener.leave();
    let numbers: Vec<u64> = heard.packets.iter().map(|(_, number)| *number).collect();
    ensure!(
        heard.damaged == 0 && numbers.is_sorted_by(|a, b| a < b),
        "packets came twice, damaged or out of order"
    );
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    drop(sender);
    Ok(())
}

fn not_listed(bed: &mut Bed, served: Served) -> Outcome {
    let listed = "queriers = [\"10.5.1.9\", \"fe80::9\"]\nimmediate_leave = true\n";
    let (small, router) = asked_network(bed, 1, listed)?;
    let own = served.routers[0];
    let protocol = protocol_of(own);
    let sender = served.send(&small.source)?;
    let listener = served.join(small.client(1))?;
    listener.more(bed, SOME)?;
    for _ in 0..20 {
        ask(&small, served)?;
        thread::sleep(Duration::from_millis(100));
    }
    bed.until("the queries are counted", || Ok(counter(&router, protocol, "querier_not_allowed") >= 20))?;
    let list = router.ask(&["interface", "list"]).unwrap_or_default();
    let ours = list["interfaces"].as_array().is_some_and(|all| {
        all.iter().any(|interface| interface["name"] == "acc1" && interface[querier_of(own)]["ours"] == true)
    });
    ensure!(ours, "another router was elected: {list}");
    // Hosts are told apart for the sake of immediate leave, and shown.
    let members = router.ask(&["member", "list"]).unwrap_or_default();
    let member = &members["members"][0];
    let address = member["hosts"][0]["address"].as_str().unwrap_or_default();
    let host = match own {
        IpAddr::V4(_) => address == client_address(1).to_string(),
        IpAddr::V6(_) => address.starts_with("fe80::"),
    };
    ensure!(member["tracked_hosts"] == 1 && host, "the members are {members}");
    let table = bed.table(&router, &["member", "list"])?;
    ensure!(table.contains("acc1 (1 host)"), "no host is in\n{table}");
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    drop(sender);
    Ok(())
}

/// Asks with a lower address than the VMR's, of IGMP and of MLD, what no host of the first client's link hears: a General
/// Query that goes to the VMR alone, by its address or in a frame for it, one to a group, and one about a group that nobody
/// wants.
fn unheard_queries(mac: [u8; 6], vmr: Ipv6Addr) -> Vec<Vec<u8>> {
    let frame = |to: [u8; 6], ether_type: [u8; 2], datagram: Vec<u8>| {
        [&to[..], &[2, 0, 0, 0, 0, 9], &ether_type, &datagram].concat()
    };
    let v4 = |to: Ipv4Addr, mac, group| {
        let message = igmp::Message::QueryV3(query(group)).emit();
        frame(mac, [0x08, 0], ipv4::encapsulate(ASKS, to, 1, 0xc0, 2, true, &message))
    };
    let v6 = |to: Ipv6Addr, mac, group| {
        let asks = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let message = mld::Message::QueryV2(query(group)).emit(asks, to);
        frame(mac, [0x86, 0xdd], ipv6::encapsulate(asks, to, 1, 0xc0, mld::NEXT_ICMPV6, true, &message))
    };
    let routers = igmp::ALL_ROUTERS;
    let (nobodys, nobodys_v6) = (Ipv4Addr::new(239, 9, 9, 9), Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 9, 9));
    let (none, none_v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    vec![
        v4(VMR_ON_FIRST, mac, none),
        v4(igmp::ALL_SYSTEMS, mac, none),
        v4(routers, multicast_mac(routers), none),
        v4(nobodys, multicast_mac(nobodys), nobodys),
        v6(vmr, mac, none_v6),
        v6(mld::ALL_NODES, mac, none_v6),
        v6(mld::ALL_ROUTERS, multicast_mac_v6(&mld::ALL_ROUTERS.octets()), none_v6),
        v6(nobodys_v6, multicast_mac_v6(&nobodys_v6.octets()), nobodys_v6),
    ]
}

const VMR_ON_FIRST: Ipv4Addr = gateway_of(1);

/// A querier of IGMP and MLD, and a member of a stream of either on the first client's link.
struct Both {
    small: Small,
    router: Role,
    senders: [Sender; 2],
    listeners: [Listener; 2],
}

impl Both {
    fn start(bed: &mut Bed) -> Result<Self, Failed> {
        let small = Small::build(bed, 1)?;
        let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1);
        let source = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
        small.source.ip(&format!("addr add {source}/64 dev eth0 nodad"))?;
        small.vmr.ip("addr add fd01::1/64 dev src0 nodad")?;
        let tables = format!("[mld]\n{TIMERS}");
        let router = Router { querier: true, tables: &tables, ..Router::default() };
        let router = small.router_with_timers(bed, router, TIMERS, "")?;
        let v6 = SocketAddrV6::new(group, 5004, 0, 0);
        let senders = [
            Sender::start(&small.source, SOURCE, STREAM)?,
            Sender::start_v6(&small.source, source, v6, "eth0")?,
        ];
        let listeners =
            [Listener::join(small.client(1), STREAM, None)?, Listener::join_v6(small.client(1), v6, "eth0")?];
        let both = Self { small, router, senders, listeners };
        both.more(bed, SOME)?;
        Ok(both)
    }

    fn more(&self, bed: &Bed, packets: u64) -> Outcome {
        self.listeners.iter().try_for_each(|listener| listener.more(bed, packets))
    }

    /// Both streams have come whole, to the last packet.
    fn end(self, bed: &Bed) -> Outcome {
        for (sender, listener) in self.senders.into_iter().zip(self.listeners) {
            let last = sender.stop()? - 1;
            listener.until_last(bed, last)?;
            listener.leave().is_whole()?;
        }
        Ok(())
    }
}

// proves RFC 9776 §9.1 and RFC 9777 §10.1: a forged query that hosts answer when memberships have long ended, of one who
// never asks again
fn hostile(bed: &mut Bed) -> Outcome {
    let both = Both::start(bed)?;
    forge_hostile(bed, &both.small, &both.router)?;
    // At least three times as long as a membership lives: 1 s, twice, and twice the time to answer.
    both.more(bed, 2_000)?;
    both.end(bed)
}

// proves the same where nobody is served yet, and so members are left to who asks at once: not for the two hours that it
// says
fn hostile_start(bed: &mut Bed) -> Outcome {
    let hosts = Hosts::start_with(bed, 2, Keys { timers: TIMERS, ..Keys::default() })?;
    forge_hostile(bed, &hosts.small, &hosts.router)?;
    for protocol in ["igmp", "mld"] {
        bed.until("members are left to it", || Ok(counter(&hosts.router, protocol, "handed_over") > 0))?;
    }
    let bystanders = [V4, V6].map(|streams| hosts.forbid(bed, 2, streams.any));
    for streams in [V4, V6] {
        let sender = hosts.send(streams.sources[0], streams.any)?;
        let listener = hosts.join(1, streams.any, None)?;
        listener.more(bed, SOME)?;
        listener.until_last(bed, sender.stop()? - 1)?;
        listener.heard().is_whole()?;
    }
    for bystander in bystanders {
        let stray = bystander?.stray();
        ensure!(stray.packets == 0, "the other link was sent {stray:?}");
    }
    Ok(())
}

/// Sends a query of each protocol, once, that asks for an answer within a week and says that the next comes in a week; it
/// is elected.
fn forge_hostile(bed: &Bed, small: &Small, router: &Role) -> Outcome {
    let asks = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let (all, all_v6) = (igmp::ALL_SYSTEMS, mld::ALL_NODES);
    let (week, none, none_v6) = (Duration::from_secs(604_800), Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let v4 = QueryV3 { max_resp_time: week, query_interval: week, robustness_variable: 7, ..query(none) };
    let v6 = QueryV3 { max_resp_time: week, query_interval: week, robustness_variable: 7, ..query(none_v6) };
    let v4 = ipv4::encapsulate(ASKS, all, 1, 0xc0, 2, true, &igmp::Message::QueryV3(v4).emit());
    let v6 = mld::Message::QueryV2(v6).emit(asks, all_v6);
    let v6 = ipv6::encapsulate(asks, all_v6, 1, 0xc0, mld::NEXT_ICMPV6, true, &v6);
    let socket = small.client(1).enter(|| packet_socket("eth0", Duration::from_millis(1)))??;
    // The host does not hear what it sends itself, so that it comes from the link's other end, too.
    let frames =
        [(multicast_mac(all), [0x08, 0], v4), (multicast_mac_v6(&all_v6.octets()), [0x86, 0xdd], v6)];
    let far = small.vmr.enter(|| packet_socket("acc1", Duration::from_millis(1)))??;
    for (to, ether_type, datagram) in frames {
        let frame = [&to[..], &[2, 0, 0, 0, 0, 9], &ether_type, &datagram].concat();
        nix::unistd::write(&socket, &frame)?;
        nix::unistd::write(&far, &frame)?;
    }
    elected(bed, router, "acc1", ASKS)?;
    elected(bed, router, "acc1", asks)
}

// proves RFC 9776 §9.1 and RFC 9777 §10.1: forged queries that only the router hears
fn unheard(bed: &mut Bed) -> Outcome {
    let both = Both::start(bed)?;
    let Both { small, router, .. } = &both;
    let mac = small.vmr_mac(1)?;
    let [a, b, c, d, e, f] = mac;
    let vmr = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let frames = unheard_queries(mac, vmr);
    let socket = small.client(1).enter(|| packet_socket("eth0", Duration::from_millis(1)))??;
    // Four times as long as a membership lives that nobody asks about: 1 s, twice, and the time to answer.
    for _ in 0..120 {
        for frame in &frames {
            nix::unistd::write(&socket, frame)?;
        }
        thread::sleep(Duration::from_millis(100));
    }
    for protocol in ["igmp", "mld"] {
        bed.until("what nobody hears is counted", || Ok(counter(router, protocol, "unheard_query") >= 360))?;
        ensure!(counter(router, protocol, "queriers_missed") == 0, "{protocol}: another querier was elected");
    }
    elected(bed, router, "acc1", VMR_ON_FIRST)?;
    both.more(bed, SOME)?;
    both.end(bed)
}
