//! The machines of a VMR together, against real gateways, in virtual time.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::{
    fib::{
        EcnMode, EngineWish, FibOp, IfIndex, Input, Interface, Link, Members, NextHop, NextHopId, Output,
        Priority, Rpf, Stream, TunnelId,
    },
    maps::{Losses, StreamCounters},
    verdict::PuntReason,
};
use vmcast_dataplane::{Punt, StreamStats};
use vmcast_proto::{
    Filter, Machine as _,
    amt::{gateway, relay},
    membership::{self, Family},
    mrib,
    policy::{Action, Effect as PolicyEffect, Policy, Rule},
    record::Budget,
};
use vmcast_wire::{amt::Message, igmp as wire, ipv4};

use super::{
    core::{Core, Effect, Queriers, Settings},
    priorities::Priorities,
    reconcile,
};
use crate::config::PriorityRule;

const OURS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 2268);
const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 2268);
const GATEWAY_END: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 40_000);
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3));
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const ANY: Stream = Stream { source: None, group: GROUP };
const LAN: IfIndex = IfIndex(7);

fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(crate::clock::now)
}

fn member(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 50_000))
}

fn hop() -> NextHop {
    NextHop {
        ifindex: IfIndex(3),
        link: Link::PLAIN,
        source_mac: [2; 6],
        destination_mac: Some([4; 6]),
        mtu: 1500,
    }
}

fn lan(accepts_sources: bool) -> Interface {
    Interface {
        ifindex: LAN,
        device: LAN,
        link: Link::PLAIN,
        peer: None,
        mac: [2, 0, 0, 0, 0, 7],
        mtu: 1500,
        accepts_sources,
        shared: false,
        engine: EngineWish::Any,
        xdp_members: None,
    }
}

/// A core, and the gateways of its members.
struct Bed {
    now: Instant,
    core: Core,
    members: Vec<(SocketAddr, gateway::Gateway)>,
    /// Effects other than datagrams to members, in order.
    seen: Vec<Effect>,
}

fn settings() -> Settings {
    Settings {
        relay: relay::Config::new([1; 16]),
        mrib: mrib::Config::default(),
        discover: false,
        relays: None,
        seed: [2; 16],
        record: None,
    }
}

impl Bed {
    /// One with a gateway that takes any source of [`GROUP`], and such a link.
    fn joined_beside_sources(prefix_len: u8) -> Self {
        let mut bed = Self::new(1);
        bed.settle();
        bed.want(0, Filter::any());
        bed.resolve(1);
        bed.hears_sources(prefix_len);
        bed
    }

    /// Gives it a link that sources are on, with a prefix of this length.
    fn hears_sources(&mut self, prefix_len: u8) {
        let ours = (IpAddr::from([198, 51, 100, 1]), prefix_len);
        self.core.set_interface(self.now, lan(true), &[ours], Queriers::default()).expect("no querier");
    }

    fn new(members: u8) -> Self {
        let now = start();
        let members = (1..=members)
            .map(|last| (member(last), gateway::Gateway::new(now, gateway::Config::new(OURS, [last; 16]))))
            .collect();
        Self { now, core: Core::new(now, settings()), members, seen: Vec::new() }
    }

    /// Carries datagrams between the core and its members until none is under way.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..self.members.len() {
                self.members[at].1.handle_timeout(self.now);
                while let Some(output) = self.members[at].1.poll_output() {
                    if let gateway::Output::Transmit { remote, bytes } = output {
                        assert_eq!(remote, OURS);
                        moved = true;
                        self.core.relay_heard(
                            self.now,
                            relay::Input::Datagram { local: OURS, remote: self.members[at].0, bytes: &bytes },
                        );
                    }
                }
            }
            while let Some(effect) = self.core.poll_effect() {
                moved = true;
                if let Effect::SendRelay { local, remote, bytes } = effect {
                    assert_eq!(local, OURS);
                    if let Some((_, gateway)) = self.members.iter_mut().find(|(end, _)| *end == remote) {
                        let input = gateway::Input::Datagram { remote: OURS, tos: 0, bytes: &bytes };
                        gateway.handle_input(self.now, input);
                    }
                } else {
                    self.seen.push(effect);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn want(&mut self, at: usize, filter: Filter) {
        let input = gateway::Input::SetMembership { group: GROUP, filter };
        self.members[at].1.handle_input(self.now, input);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.core.handle_timeout(self.now);
        self.settle();
    }

    fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.seen)
    }

    fn fib(&mut self) -> Vec<FibOp> {
        let ops = self.take().into_iter().filter_map(|effect| match effect {
            Effect::Fib(op) => Some(op),
            _ => None,
        });
        ops.collect()
    }

    fn resolve(&mut self, last: u8) {
        self.core.set_next_hop(NextHopId(1), hop());
        self.core.assign(self.now, member(last).ip(), Some(NextHopId(1)));
        self.settle();
    }

    fn with_upstream() -> Self {
        let mut bed = Self::new(1);
        bed.core.set_upstream(bed.now, Some((GATEWAY_END, UPSTREAM)));
        bed.pass(Duration::ZERO);
        bed
    }
}

#[test]
fn a_join_whose_way_changes_while_it_waits_takes_the_newest_and_stays_on_it() {
    let mut bed = Bed::new(1);
    bed.settle();
    bed.want(0, Filter::any());
    let address = member(1).ip();
    let unknown = NextHop { destination_mac: None, ..hop() };
    for id in [1, 2] {
        bed.core.set_next_hop(NextHopId(id), unknown);
        bed.core.assign(bed.now, address, Some(NextHopId(id)));
    }
    let known = |bed: &mut Bed, id| {
        bed.core.set_next_hop(NextHopId(id), hop());
        bed.core.resume(bed.now, NextHopId(id));
        bed.settle();
        let ways = bed.fib().into_iter().filter_map(|op| match op {
            FibOp::SetTunnel(_, tunnel) => Some(tunnel.next_hop),
            _ => None,
        });
        ways.collect::<Vec<_>>()
    };
    assert_eq!(known(&mut bed, 1), [], "the older way is known first and not taken");
    assert_eq!(known(&mut bed, 2), [Some(NextHopId(2))]);
    assert_eq!(known(&mut bed, 1), []);
}

// proves A7
#[test]
fn a_join_waits_for_the_way_to_its_gateway_and_then_makes_exactly_one_member() {
    let mut bed = Bed::new(2);
    bed.settle();
    bed.want(0, Filter::any());
    let gateway = member(1).ip();
    let known = [Effect::Tunnel { gateway, is_up: true }, Effect::Watch(gateway)];
    assert_eq!(bed.take(), known, "nothing is sent on a guess");
    bed.resolve(1);
    let ops = bed.fib();
    assert!(matches!(ops[0], FibOp::SetNextHop(NextHopId(1), _)));
    let FibOp::SetTunnel(id, tunnel) = ops[1] else { panic!("{ops:?}") };
    assert_eq!((tunnel.local, tunnel.remote, tunnel.accepts_sources), (OURS, member(1), false));
    assert_eq!(tunnel.next_hop, Some(NextHopId(1)));
    assert_eq!(tunnel.ecn, EcnMode::Normal, "our gateways say so (RFC 9601 §6.1.4.2)");
    let joined =
        [FibOp::SetStream(ANY, Rpf::AnyUpstream, Members::Own), FibOp::AddMember(ANY, Output::Tunnel(id))];
    assert_eq!(ops[2..], joined);
    assert_eq!(bed.core.relay.tunnel_count(), 1, "the other gateway asked for nothing");
}

// proves E6: no packet leaves without its mark
#[test]
fn a_stream_is_marked_as_the_operator_states_before_it_has_a_member() {
    let mut bed = Bed::new(1);
    let rules: Vec<PriorityRule> =
        vec![toml::from_str("groups = [\"239.1.0.0/16\"]\ndscp = \"af41\"\npcp = 4").unwrap()];
    bed.core.prioritize(Priorities::new(&rules));
    bed.settle();
    bed.want(0, Filter::any());
    bed.resolve(1);
    let ops = bed.fib();
    let id = bed.core.relay.tunnels().next().unwrap().id;
    let priority = Priority { dscp: Some(34), pcp: 4, ..Priority::default() };
    let joined = [
        FibOp::SetStream(ANY, Rpf::AnyUpstream, Members::Own),
        FibOp::SetPriority(ANY, priority),
        FibOp::AddMember(ANY, Output::Tunnel(TunnelId(id))),
    ];
    assert_eq!(ops[2..], joined);
    assert_eq!(reconcile::wanted(&bed.core).streams[&ANY].priority, priority);
}

#[test]
fn a_join_waits_for_the_neighbour_too_and_none_of_its_copies_is_dropped_for_want_of_it() {
    let mut bed = Bed::new(1);
    bed.settle();
    bed.want(0, Filter::any());
    bed.core.set_next_hop(NextHopId(1), NextHop { destination_mac: None, ..hop() });
    bed.core.assign(bed.now, member(1).ip(), Some(NextHopId(1)));
    bed.core.resume(bed.now, NextHopId(1));
    bed.settle();
    assert!(bed.fib().iter().all(|op| !matches!(op, FibOp::AddMember(..))));
    bed.core.set_next_hop(NextHopId(1), hop());
    bed.core.resume(bed.now, NextHopId(1));
    bed.settle();
    let joined = bed.fib().iter().filter(|op| matches!(op, FibOp::AddMember(..))).count();
    assert_eq!(joined, 1);
}

#[test]
fn who_leaves_while_its_way_is_looked_up_becomes_no_member() {
    let mut bed = Bed::new(1);
    bed.settle();
    bed.want(0, Filter::any());
    bed.want(0, Filter::none());
    bed.take();
    bed.resolve(1);
    assert!(bed.fib().iter().all(|op| !matches!(op, FibOp::AddMember(..))));
}

// proves A7
#[test]
fn a_leave_ends_the_stream_at_once_and_the_tunnel_after_a_while() {
    let mut bed = Bed::new(1);
    bed.settle();
    bed.want(0, Filter::any());
    bed.resolve(1);
    bed.take();
    bed.want(0, Filter::none());
    let member = Output::Tunnel(TunnelId(1));
    assert_eq!(bed.fib(), [FibOp::RemoveMember(ANY, member), FibOp::RemoveStream(ANY)]);
    bed.pass(Duration::from_secs(60));
    let end = bed.take();
    assert!(end.contains(&Effect::Fib(FibOp::RemoveTunnel(TunnelId(1)))), "{end:?}");
    assert!(end.contains(&Effect::Unwatch(self::member(1).ip())), "{end:?}");
}

#[test]
fn a_lost_way_is_told_to_the_data_plane_for_every_tunnel_behind_it() {
    let mut bed = Bed::new(1);
    bed.settle();
    bed.want(0, Filter::any());
    bed.resolve(1);
    bed.take();
    bed.core.assign(bed.now, member(1).ip(), None);
    bed.settle();
    let ops = bed.fib();
    let [FibOp::SetTunnel(TunnelId(1), tunnel)] = ops[..] else { panic!("{ops:?}") };
    assert_eq!(tunnel.next_hop, None);
}

// proves A6
#[test]
fn what_members_want_is_asked_of_the_upstream_and_data_is_taken_from_its_tunnel_only() {
    let mut bed = Bed::with_upstream();
    let hello = bed.take();
    assert!(hello.contains(&Effect::Fib(FibOp::SetEndpoint(GATEWAY_END))));
    let request = hello.iter().find_map(|effect| match effect {
        Effect::SendGateway { remote, bytes, .. } => Some((*remote, bytes.clone())),
        _ => None,
    });
    let (remote, request) = request.expect("a Request");
    assert_eq!(remote, UPSTREAM);
    // The upstream answers.
    let mut above = relay::Relay::new(bed.now, relay::Config::new([9; 16]));
    let input = relay::Input::Datagram { local: UPSTREAM, remote: GATEWAY_END, bytes: &request };
    above.handle_input(bed.now, input);
    let Some(relay::Output::Transmit { bytes, .. }) = above.poll_output() else { panic!("no Query") };
    bed.core.gateway_heard(bed.now, gateway::Input::Datagram { remote: UPSTREAM, tos: 0, bytes: &bytes });
    bed.settle();
    let up = bed.take();
    let id = bed.core.upstream.as_ref().expect("an upstream").id;
    assert!(up.contains(&Effect::UpstreamUp(UPSTREAM)));
    let accepts = up.iter().any(|effect| {
        matches!(effect, Effect::Fib(FibOp::SetTunnel(of, tunnel)) if *of == id && tunnel.accepts_sources)
    });
    assert!(accepts, "{up:?}");

    bed.want(0, Filter::Include([SOURCE].into()));
    bed.resolve(1);
    let effects = bed.take();
    let stream = Stream { source: Some(SOURCE), group: GROUP };
    let set = FibOp::SetStream(stream, Rpf::Exact(Input::Tunnel(id)), Members::Own);
    assert!(effects.contains(&Effect::Fib(set)), "{effects:?}");
    for effect in effects {
        if let Effect::SendGateway { bytes, .. } = effect {
            above.handle_input(
                bed.now,
                relay::Input::Datagram { local: UPSTREAM, remote: GATEWAY_END, bytes: &bytes },
            );
        }
    }
    let asked = std::iter::from_fn(|| above.poll_output()).any(|output| {
        matches!(output, relay::Output::Event(relay::Event::Membership { group, filter, .. })
            if group == GROUP && filter == Filter::Include([SOURCE].into()))
    });
    assert!(asked, "the upstream knows what is wanted");

    // Data that the data plane left to the socket is counted, and goes no further.
    let (IpAddr::V4(from), IpAddr::V4(to)) = (SOURCE, GROUP) else { panic!("both are of IPv4") };
    let packet = ipv4::encapsulate(from, to, 9, 0, 17, false, b"data");
    let bytes = Message::MulticastData { packet: &packet }.to_vec();
    bed.core.gateway_heard(bed.now, gateway::Input::Datagram { remote: UPSTREAM, tos: 0, bytes: &bytes });
    bed.settle();
    assert_eq!((bed.core.data_at_socket, bed.fib()), (1, vec![]));
}

#[test]
fn another_upstream_is_told_all_that_is_wanted_and_the_old_one_is_left() {
    let mut bed = Bed::with_upstream();
    bed.want(0, Filter::any());
    bed.resolve(1);
    bed.take();
    let old = bed.core.upstream.as_ref().expect("an upstream").id;
    let other = SocketAddr::from(([203, 0, 113, 2], 2268));
    let end = SocketAddr::from(([192, 0, 2, 1], 40_001));
    bed.core.set_upstream(bed.now, Some((end, other)));
    bed.pass(Duration::ZERO);
    let new = bed.core.upstream.as_ref().expect("an upstream").id;
    assert_ne!(new, old);
    let ops = bed.fib();
    assert!(ops.contains(&FibOp::RemoveTunnel(old)), "{ops:?}");
    assert!(ops.contains(&FibOp::RemoveEndpoint(GATEWAY_END)), "{ops:?}");
    assert!(ops.contains(&FibOp::SetEndpoint(end)), "{ops:?}");
}

#[test]
fn hosts_on_a_querier_interface_become_native_members_and_leave_with_it() {
    let mut bed = Bed::new(0);
    let addresses = [(IpAddr::from([192, 0, 2, 65]), 26)];
    let querier = membership::Config { address: addresses[0].0, ..membership::Config::default() };
    bed.core
        .set_interface(
            bed.now,
            lan(false),
            &addresses,
            Queriers { configs: vec![querier], ..Queriers::default() },
        )
        .expect("a good configuration");
    bed.settle();
    let seen = bed.take();
    assert!(seen.contains(&Effect::Fib(FibOp::SetInterface(lan(false)))));
    let asks = seen.iter().any(|effect| matches!(effect, Effect::SendMembership { ifindex: LAN, .. }));
    assert!(asks, "a querier asks at once: {seen:?}");

    let record = wire::Record {
        record_type: wire::RecordType::ChangeToExcludeMode,
        group: Ipv4Addr::new(239, 1, 2, 3),
        sources: Vec::new(),
    };
    let report = wire::Message::ReportV3 { records: vec![record] }.emit();
    let input = membership::Input::Datagram {
        source: Ipv4Addr::new(192, 0, 2, 66).into(),
        link_source: None,
        link_unicast: false,
        stranger: false,
        destination: wire::ALL_IGMPV3_ROUTERS.into(),
        ttl: 1,
        router_alert: true,
        payload: &report,
    };
    bed.core.membership_input(bed.now, LAN, Family::V4, input);
    bed.settle();
    let counted = bed.core.querier_counters(Family::V4);
    assert_eq!((counted.reports_received, counted.queries_sent), (1, 1));
    let native = Output::Interface(LAN);
    let joined = [FibOp::SetStream(ANY, Rpf::AnyUpstream, Members::Own), FibOp::AddMember(ANY, native)];
    assert_eq!(bed.fib(), joined);
    bed.core.remove_interface(bed.now, LAN);
    bed.settle();
    let left = [FibOp::RemoveMember(ANY, native), FibOp::RemoveStream(ANY), FibOp::RemoveInterface(LAN)];
    assert_eq!(bed.fib(), left);
    // What was counted is not lost with it, and goes on when it comes back.
    assert_eq!(bed.core.querier_counters(Family::V4), counted);
    assert_eq!(bed.core.querier_counters(Family::V6), membership::Counters::default());
    bed.lan(false);
    let again = bed.core.querier_counters(Family::V4);
    assert_eq!((again.reports_received, again.queries_sent), (1, 2));
}

impl Bed {
    fn lan(&mut self, beside_querier: bool) {
        let addresses = [(IpAddr::from([192, 0, 2, 65]), 26)];
        let querier = membership::Config { address: addresses[0].0, ..membership::Config::default() };
        let queriers = Queriers { configs: vec![querier], beside_querier, ..Queriers::default() };
        self.core.set_interface(self.now, lan(false), &addresses, queriers).expect("a good configuration");
        self.settle();
        self.take();
    }

    /// What a neighbour on the LAN says by IGMP.
    fn igmp(&mut self, from: u8, destination: Ipv4Addr, message: &wire::Message) -> Vec<FibOp> {
        let input = membership::Input::Datagram {
            source: [192, 0, 2, from].into(),
            link_source: None,
            link_unicast: false,
            stranger: false,
            destination: destination.into(),
            ttl: 1,
            router_alert: true,
            payload: &message.emit(),
        };
        self.core.membership_input(self.now, LAN, Family::V4, input);
        self.settle();
        self.fib()
    }
}

#[test]
fn machines_are_recorded_each_under_its_name_also_when_it_is_gone() {
    let mut bed = Bed::new(0);
    assert_eq!(bed.core.take_recordings(), [], "nobody asked for it");
    bed.core = Core::new(bed.now, Settings { record: Some(Budget::new(100_000)), ..settings() });
    bed.lan(false);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let report = wire::Message::ReportV2 { group };
    bed.igmp(66, group, &report);
    bed.core.advertise(bed.now, vec![OURS.ip()]);
    let recorded: BTreeMap<_, _> =
        bed.core.take_recordings().into_iter().map(|recorded| (recorded.name, recorded.text)).collect();
    let igmp = format!("igmp-{}", LAN.0);
    assert_eq!(recorded.keys().collect::<Vec<_>>(), [&igmp, "relay"]);
    assert!(recorded["relay"].ends_with(&format!("0 start\n0 advertise {}\n", OURS.ip())));
    assert!(recorded[&igmp].ends_with("\n  membership 239.1.2.3 exclude{}\n"), "{recorded:?}");
    assert_eq!(bed.core.take_recordings(), [], "nothing new");
    bed.igmp(67, group, &report);
    bed.core.remove_interface(bed.now, LAN);
    let last = bed.core.take_recordings();
    assert_eq!(last.iter().map(|recorded| &recorded.name).collect::<Vec<_>>(), [&igmp]);
}

// proves A10 and RFC 4605 §3, §4.2
#[test]
fn of_two_routers_on_a_link_only_the_querier_serves_its_members() {
    let native = Output::Interface(LAN);
    let joined = [FibOp::SetStream(ANY, Rpf::AnyUpstream, Members::Own), FibOp::AddMember(ANY, native)];
    let left = [FibOp::RemoveMember(ANY, native), FibOp::RemoveStream(ANY)];
    let report = wire::Message::ReportV2 { group: Ipv4Addr::new(239, 1, 2, 3) };
    let (group, everybody) = (Ipv4Addr::new(239, 1, 2, 3), wire::ALL_SYSTEMS);
    let query =
        wire::Message::QueryV2 { max_resp_time: Duration::from_secs(10), group: Ipv4Addr::UNSPECIFIED };

    let mut bed = Bed::new(0);
    bed.lan(false);
    assert_eq!(bed.igmp(66, group, &report), joined);
    for _ in 0..3 {
        assert_eq!(bed.igmp(1, everybody, &query), [], "it may be forged, or gone again soon");
        bed.pass(Duration::from_secs(100));
        assert_eq!(bed.igmp(66, group, &report), []);
    }
    assert_eq!(bed.igmp(1, everybody, &query), left, "the lower address serves them now");
    bed.pass(Duration::from_secs(200));
    assert_eq!(bed.igmp(66, group, &report), [], "we know of them, for the day it falls silent");
    bed.pass(Duration::from_secs(60));
    assert_eq!(bed.fib(), joined);

    let mut bed = Bed::new(0);
    bed.lan(true);
    assert_eq!(bed.igmp(1, everybody, &query), []);
    assert_eq!(bed.igmp(66, group, &report), joined, "as the operator wants it");
}

#[test]
fn a_source_network_is_asked_as_a_host_for_what_is_wanted_also_when_it_comes_later() {
    let mut bed = Bed::new(1);
    bed.settle();
    bed.want(0, Filter::any());
    bed.resolve(1);
    bed.take();
    bed.core.set_interface(bed.now, lan(true), &[], Queriers::default()).expect("no querier");
    bed.settle();
    let group = GROUP;
    let asked = Effect::HostMembership { ifindex: LAN, group, filter: Filter::any() };
    assert!(bed.take().contains(&asked));
    bed.want(0, Filter::none());
    let left = Effect::HostMembership { ifindex: LAN, group, filter: Filter::none() };
    assert!(bed.take().contains(&left));
}

#[test]
fn a_new_source_gets_counters_of_its_own_and_goes_when_it_is_silent() {
    let mut bed = Bed::joined_beside_sources(24);
    bed.settle();
    bed.take();
    let stream = Stream { source: Some(SOURCE), group: GROUP };
    let input = Input::Interface(LAN);
    bed.core.punt(bed.now, Punt { reason: PuntReason::NewSource, input, stream });
    bed.settle();
    assert_eq!(bed.fib(), [FibOp::SetStream(stream, Rpf::Exact(input), Members::OfAnySource)]);
    let counters = |packets| {
        [StreamStats {
            stream,
            counters: StreamCounters { packets, ..StreamCounters::default() },
            losses: Losses::NONE,
        }]
    };
    bed.pass(Duration::from_secs(200));
    bed.core.stream_counters(bed.now, &counters(5));
    bed.pass(Duration::from_secs(200));
    assert!(!bed.fib().contains(&FibOp::RemoveStream(stream)), "it sent in the meantime");
    bed.pass(Duration::from_secs(211));
    assert!(bed.fib().contains(&FibOp::RemoveStream(stream)));
}

// proves D4: who sent before the join is told apart, and judged, with the join
#[test]
fn a_source_that_sends_before_the_group_is_joined_gets_its_entry_with_the_join() {
    let mut bed = Bed::new(1);
    bed.hears_sources(24);
    bed.settle();
    let input = Input::Interface(LAN);
    let stream = Stream { source: Some(SOURCE), group: GROUP };
    bed.core.punt(bed.now, Punt { reason: PuntReason::UnknownGroup, input, stream });
    bed.want(0, Filter::any());
    bed.resolve(1);
    let set = FibOp::SetStream(stream, Rpf::Exact(input), Members::OfAnySource);
    assert_eq!(bed.fib().iter().filter(|op| **op == set).count(), 1);
}

// proves D4: it takes effect with the change itself, and those who may send notice nothing
#[test]
fn a_source_under_any_source_that_becomes_forbidden_is_cut_with_the_change_and_no_other() {
    let mut bed = Bed::joined_beside_sources(24);
    let other = IpAddr::from([198, 51, 100, 8]);
    let of = |source| Stream { source: Some(source), group: GROUP };
    let input = Input::Interface(LAN);
    for source in [SOURCE, other] {
        bed.core.punt(bed.now, Punt { reason: PuntReason::NewSource, input, stream: of(source) });
    }
    bed.settle();
    bed.take();
    let rule = Rule {
        who: Some("198.51.100.7/32".parse().expect("a prefix")),
        ..Rule::new(1, PolicyEffect::Deny, Action::Send)
    };
    let deny = Policy { version: 1, rules: vec![rule], ..Policy::default() };
    assert!(bed.core.set_policy(bed.now, deny));
    bed.settle();
    let ops = bed.fib();
    let [FibOp::SetStream(cut, Rpf::Exact(Input::Tunnel(_)), Members::OfAnySource)] = ops[..] else {
        panic!("{ops:?}")
    };
    assert_eq!(cut, of(SOURCE));
    assert!(bed.core.set_policy(bed.now, Policy { version: 2, ..Policy::default() }));
    bed.settle();
    assert_eq!(bed.fib(), [FibOp::SetStream(of(SOURCE), Rpf::Exact(input), Members::OfAnySource)]);
}

// proves D4: what may not send is not forwarded, however much of it there is, and what may send is
#[test]
fn of_more_sources_than_can_be_refused_one_by_one_only_those_flow_that_may_send() {
    let mut bed = Bed::joined_beside_sources(16);
    bed.settle();
    let rule = Rule {
        who: Some("198.51.0.0/19".parse().expect("a prefix")),
        ..Rule::new(1, PolicyEffect::Deny, Action::Send)
    };
    assert!(bed.core.set_policy(bed.now, Policy { version: 1, rules: vec![rule], ..Policy::default() }));
    let input = Input::Interface(LAN);
    let of = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Stream { source: Some([198, 51, high, low].into()), group: GROUP }
    };
    let any = Stream { source: None, group: GROUP };
    // What the data plane takes by (*,G), by the last word on each entry.
    let taken = |bed: &mut Bed, entries: &mut BTreeMap<Stream, Rpf>| {
        bed.settle();
        for op in bed.fib() {
            match op {
                FibOp::SetStream(stream, rpf, _) => drop(entries.insert(stream, rpf)),
                FibOp::RemoveStream(stream) => drop(entries.remove(&stream)),
                _ => {}
            }
        }
        entries
            .iter()
            .filter(|(_, rpf)| matches!(rpf, Rpf::AnyUpstream) || **rpf == Rpf::Exact(input))
            .count()
    };
    let mut entries = BTreeMap::new();
    entries.insert(any, Rpf::AnyUpstream);
    for number in 2..302 {
        // As the data plane tells of it, by what its (*,G) is then.
        let reason = match entries[&any] {
            Rpf::AnyUpstream => PuntReason::NewSource,
            Rpf::Exact(_) => PuntReason::WrongInput,
        };
        bed.core.punt(bed.now, Punt { reason, input, stream: of(number) });
        assert!(taken(&mut bed, &mut entries) <= 1, "only (*,G), until it is closed");
    }
    assert_eq!(taken(&mut bed, &mut entries), 0, "nothing that may not send flows");
    assert!(entries.len() <= 257, "what is kept of them has an end: {}", entries.len());
    let counters = bed.core.mrib.counters();
    assert_eq!((counters.closed, counters.refused_limit), (1, 300 - 256));
    // One that may is forwarded from when it is heard, and one that comes by another way is not.
    let allowed = 0x2001;
    bed.core.punt(bed.now, Punt { reason: PuntReason::WrongInput, input, stream: of(allowed) });
    assert_eq!(taken(&mut bed, &mut entries), 1);
    assert_eq!(entries[&of(allowed)], Rpf::Exact(input));
    let astray = Input::Tunnel(TunnelId(77));
    bed.core.punt(bed.now, Punt { reason: PuntReason::WrongInput, input: astray, stream: of(allowed + 1) });
    bed.core.punt(bed.now, Punt { reason: PuntReason::WrongInput, input: astray, stream: of(allowed) });
    assert_eq!(taken(&mut bed, &mut entries), 1);
    // With a policy that allows all, all flow again.
    assert!(bed.core.set_policy(bed.now, Policy { version: 2, ..Policy::default() }));
    taken(&mut bed, &mut entries);
    assert_eq!(entries[&any], Rpf::AnyUpstream);
    assert!(entries.values().all(|rpf| matches!(rpf, Rpf::AnyUpstream) || *rpf == Rpf::Exact(input)));
}

#[test]
fn garbage_on_every_input_changes_nothing() {
    let mut bed = Bed::with_upstream();
    bed.take();
    for length in 0..64 {
        for first in 0..=255u8 {
            let mut bytes = vec![first; length];
            bed.core.relay_heard(
                bed.now,
                relay::Input::Datagram { local: OURS, remote: member(9), bytes: &bytes },
            );
            bed.core
                .gateway_heard(bed.now, gateway::Input::Datagram { remote: UPSTREAM, tos: 0, bytes: &bytes });
            bytes.reverse();
            let input = membership::Input::Datagram {
                source: Ipv4Addr::new(192, 0, 2, 66).into(),
                link_source: None,
                link_unicast: false,
                stranger: false,
                destination: Ipv4Addr::new(224, 0, 0, 22).into(),
                ttl: 1,
                router_alert: true,
                payload: &bytes,
            };
            bed.core.membership_input(bed.now, LAN, Family::V4, input);
        }
    }
    bed.settle();
    assert_eq!(bed.fib(), []);
    assert_eq!(bed.core.relay.tunnel_count(), 0);
}

#[path = "above_tests.rs"]
mod above;
#[path = "failover_tests.rs"]
mod failover;

#[path = "policy_tests.rs"]
mod policy;
