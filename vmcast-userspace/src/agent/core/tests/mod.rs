mod early;
mod moves;
mod pace;
mod refusals;
mod relays;
mod v6;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use vmcast_api::StandIn;
use vmcast_common::hdr::{
    ipv4::{PROTO_IGMP, View},
    ipv6,
};
use vmcast_proto::amt::{
    gateway::DownReason,
    relay::{self, Relay},
};
use vmcast_wire::{ipv4, membership::RecordType, mld};

use super::{
    vmr::{MAX_REQUEST_INTERVAL, MAX_RETRANSMISSION},
    *,
};
use crate::{
    agent::{
        early::{GRACE, MAX_EARLY},
        relays::RelayInput,
    },
    link::RefusedGroups,
    relays::RelayEffect,
};

const HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 22, 68);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 1, 1);
const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 1, 2);
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const OTHER_SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const AGENT: &str = "198.51.100.5:40000";
const STRANGER: &str = "203.0.113.66:2268";

/// Longer than an unconfirmed join counts.
const LATER: Duration = Duration::from_secs(1);

fn include(source: Ipv4Addr) -> Filter {
    Filter::Include(BTreeSet::from([source.into()]))
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

/// One VMR: a relay that may be dead.
struct Vmr {
    endpoint: SocketAddr,
    relay: Relay,
    alive: bool,
    tunnels: u32,
    memberships: BTreeMap<IpAddr, Filter>,
}

/// The agent's core, three VMRs, and a host that keeps what it is handed.
struct Bed {
    now: Instant,
    core: Core,
    vmrs: Vec<Vmr>,
    data: Vec<Vec<u8>>,
    queries: usize,
    mld_queries: usize,
    events: Vec<Event>,
    relays: Vec<RelayEffect>,
}

impl Bed {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn new() -> Self {
        let now = Instant::now();
        let core =
            Core::new(now, membership::Config::new(Family::V4), membership::Config::new(Family::V6), [7; 16])
                .expect("a core");
        let vmrs = ["192.0.2.1:2268", "192.0.2.2:2268", "192.0.2.3:2268"].map(|endpoint| Vmr {
            endpoint: at(endpoint),
            relay: Relay::new(now, relay::Config::new([9; 16])),
            alive: true,
            tunnels: 0,
            memberships: BTreeMap::new(),
        });
        let mut bed = Self {
            now,
            core,
            vmrs: vmrs.into(),
            data: vec![],
            queries: 0,
            mld_queries: 0,
            events: vec![],
            relays: vec![],
        };
        bed.drain();
        bed
    }

    fn attached() -> Self {
        let mut bed = Self::new();
        bed.offer(&[0, 1]);
        bed.run(Duration::from_secs(1));
        assert_eq!(bed.core.state().0, UpstreamState::Up);
        bed
    }

    fn candidate(&self, index: usize) -> Candidate {
        Candidate { endpoint: self.vmrs[index].endpoint, id: None, name: None, stands_in: None }
    }

    fn offer(&mut self, vmrs: &[usize]) {
        let candidates = vmrs.iter().map(|index| self.candidate(*index)).collect();
        self.input(Input::Candidates(candidates));
    }

    fn input(&mut self, input: Input<'_>) {
        self.core.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::ToHost(packet) => {
                    if let Some(view) = ipv6::View::parse(packet.as_slice(), 0) {
                        assert_eq!(view.hop_limit, 1);
                        self.mld_queries += 1;
                        continue;
                    }
                    let view = View::parse(packet.as_slice(), 0).expect("IPv4");
                    if view.protocol == PROTO_IGMP {
                        assert_eq!((view.source, view.ttl), (Ipv4Addr::UNSPECIFIED, 1));
                        self.queries += 1;
                    } else {
                        self.data.push(packet);
                    }
                }
                Output::ToTunnel { remote, bytes } => self.deliver(remote, &bytes),
                Output::Relay(output) => self.relays.push(output),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    fn deliver(&mut self, remote: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let Some(vmr) = self.vmrs.iter_mut().find(|vmr| vmr.endpoint == remote && vmr.alive) else {
            return;
        };
        vmr.relay.handle_input(now, relay::Input::Datagram { local: remote, remote: at(AGENT), bytes });
        let mut answers = Vec::new();
        while let Some(output) = vmr.relay.poll_output() {
            match output {
                relay::Output::Transmit { bytes, .. } => answers.push(bytes),
                relay::Output::Event(relay::Event::TunnelUp { .. }) => vmr.tunnels += 1,
                relay::Output::Event(relay::Event::Membership { group, filter, .. }) => {
                    if filter.is_none() {
                        vmr.memberships.remove(&group);
                    } else {
                        vmr.memberships.insert(group, filter);
                    }
                }
                relay::Output::Event(relay::Event::Ecn { .. } | relay::Event::TunnelDown { .. }) => {}
            }
        }
        for bytes in answers {
            self.core.handle_input(now, Input::FromTunnel { remote, tos: 0, bytes: &bytes });
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// The host reports with one record of IGMPv3.
    fn report(&mut self, kind: u8, group: Ipv4Addr, sources: &[Ipv4Addr]) {
        let mut message = vec![0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, sources.len() as u8];
        message.extend(group.octets());
        sources.iter().for_each(|source| message.extend(source.octets()));
        let words = message.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = vmcast_common::checksum::fold(words.sum());
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let all_routers = Ipv4Addr::new(224, 0, 0, 22);
        let packet = ipv4::encapsulate(HOST, all_routers, 1, 0xc0, PROTO_IGMP, true, &message);
        self.input(Input::FromHost(&packet));
    }

    fn join(&mut self, group: Ipv4Addr) {
        self.report(4, group, &[]);
    }

    /// The host's kernel tells of a group's first member.
    fn host_joined(&mut self, group: Ipv4Addr, sources: &[Ipv4Addr]) {
        let sources = sources.iter().copied().map(IpAddr::from).collect();
        self.input(Input::HostJoined { group: group.into(), sources });
    }

    fn host_left(&mut self, group: Ipv4Addr) {
        self.input(Input::HostLeft(group.into()));
    }

    /// The VMR comes up again and knows nothing of before.
    fn restart(&mut self, index: usize) {
        let vmr = &mut self.vmrs[index];
        vmr.relay = Relay::new(self.now, relay::Config::new([11; 16]));
        vmr.alive = true;
        vmr.memberships.clear();
    }

    /// A stream to `GROUP` flows from whichever VMR has been asked for it.
    fn flow(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let from = |vmr: &&Vmr| vmr.alive && vmr.memberships.contains_key(&GROUP.into());
            if let Some(endpoint) = self.vmrs.iter().find(from).map(|vmr| vmr.endpoint) {
                self.send(&endpoint.to_string(), SOURCE, GROUP, b"a stream");
            }
            self.run(Duration::from_millis(100));
        }
    }

    fn wanted_at(&self, index: usize, group: Ipv4Addr) -> Option<&Filter> {
        self.vmrs[index].memberships.get(&group.into())
    }

    fn current(&self) -> Option<SocketAddr> {
        self.core.upstream().map(|(candidate, _)| candidate.endpoint)
    }

    fn leave(&mut self, group: Ipv4Addr) {
        self.report(3, group, &[]);
    }

    /// AMT data (RFC 7450 §5.1.6) from `remote`.
    fn send(&mut self, remote: &str, source: Ipv4Addr, group: Ipv4Addr, payload: &[u8]) {
        let mut bytes = vec![6, 0];
        bytes.extend(packet(source, group, payload));
        self.input(Input::FromTunnel { remote: at(remote), tos: 0, bytes: &bytes });
    }
}

fn packet(source: Ipv4Addr, group: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ipv4::encapsulate(source, group, 61, 0, 17, false, payload)
}

#[test]
fn a_join_becomes_a_tunnel_and_data_reaches_the_host_unchanged_and_in_order() {
    // proves A7, A14, E2
    let mut bed = Bed::attached();
    assert_eq!(bed.queries, 1, "the agent is the querier");
    assert_eq!(bed.vmrs[0].tunnels, 0, "nothing is joined yet");
    bed.report(5, GROUP, &[SOURCE]);
    let wanted = Filter::Include(BTreeSet::from([SOURCE.into()]));
    assert_eq!(bed.vmrs[0].memberships, BTreeMap::from([(GROUP.into(), wanted)]));
    assert_eq!((bed.vmrs[0].tunnels, bed.vmrs[1].tunnels), (1, 0));
    for n in 0..10 {
        bed.send("192.0.2.1:2268", SOURCE, GROUP, &[n; 100]);
    }
    let sent: Vec<_> = (0..10).map(|n| packet(SOURCE, GROUP, &[n; 100])).collect();
    assert_eq!(bed.data, sent, "the time to live is left as it is");
    let traffic = bed.core.streams()[&(GROUP.into(), SOURCE.into())];
    assert_eq!((traffic.packets, traffic.bytes), (10, 1200));
}

#[test]
fn data_for_another_group_or_source_or_from_a_stranger_does_not_reach_the_host() {
    let mut bed = Bed::attached();
    bed.report(5, GROUP, &[SOURCE]);
    bed.send("192.0.2.1:2268", SOURCE, OTHER_GROUP, b"not joined");
    bed.send("192.0.2.1:2268", OTHER_SOURCE, GROUP, b"another source");
    bed.send("192.0.2.2:2268", SOURCE, GROUP, b"a VMR that was not asked");
    bed.send(STRANGER, SOURCE, GROUP, b"a stranger");
    bed.send("192.0.2.1:2268", SOURCE, HOST, b"unicast");
    bed.input(Input::FromTunnel { remote: at("192.0.2.1:2268"), tos: 0, bytes: &[6, 0, 0x45, 0] });
    bed.input(Input::FromTunnel { remote: at("192.0.2.1:2268"), tos: 0, bytes: &[] });
    assert_eq!(bed.data, Vec::<Vec<u8>>::new());
    let counters = bed.core.gateway_counters().expect("a gateway");
    assert_eq!((counters.unwanted_data, counters.stranger, counters.bad_data), (2, 2, 2));
    assert_eq!(counters.malformed, 1);
    assert!(bed.core.streams().is_empty());
}

#[test]
fn a_leave_ends_the_membership_at_once_because_one_host_is_on_the_link() {
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.report(5, OTHER_GROUP, &[SOURCE]);
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"one");
    bed.leave(GROUP);
    assert_eq!(bed.vmrs[0].memberships.keys().collect::<Vec<_>>(), [&IpAddr::from(OTHER_GROUP)]);
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"two");
    assert_eq!(bed.data.len(), 1);
    assert!(bed.core.streams().is_empty(), "its counters go with it");
}

#[test]
fn a_join_before_any_vmr_is_known_is_told_to_the_first_one() {
    let mut bed = Bed::new();
    bed.join(GROUP);
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"nobody asked");
    assert_eq!(bed.core.drops().of(Drop::NoUpstream), 1);
    assert_eq!(bed.core.state().0, UpstreamState::Finding);
    bed.offer(&[]);
    assert_eq!(bed.core.state().0, UpstreamState::Finding);
    bed.offer(&[1]);
    bed.run(Duration::from_secs(1));
    assert_eq!(bed.vmrs[1].memberships.len(), 1);
    assert_eq!(bed.vmrs[0].memberships.len(), 0);
}

#[test]
fn a_dead_vmr_is_replaced_by_the_next_and_every_group_is_joined_again() {
    // proves A7
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.report(5, OTHER_GROUP, &[SOURCE]);
    bed.vmrs[0].alive = false;
    bed.run(MAX_REQUEST_INTERVAL + Duration::from_secs(8));
    let down = Event::Down(bed.candidate(0), DownReason::NoAnswer);
    assert!(bed.events.contains(&down), "{:?}", bed.events);
    assert_eq!(bed.core.state().0, UpstreamState::Up);
    assert_eq!(bed.vmrs[1].memberships.len(), 2);
    bed.send("192.0.2.2:2268", SOURCE, GROUP, b"from the second");
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"late, from the first");
    assert_eq!(bed.data, [packet(SOURCE, GROUP, b"from the second")]);

    // The first is the best again, but a stream that flows is not moved.
    bed.vmrs[0].alive = true;
    bed.offer(&[0, 1]);
    bed.run(Duration::from_secs(300));
    assert_eq!(bed.core.upstream().map(|(candidate, _)| candidate.endpoint), Some(bed.vmrs[1].endpoint));
}

#[test]
fn the_only_vmr_is_tried_until_it_comes_back() {
    let mut bed = Bed::new();
    bed.vmrs[0].alive = false;
    bed.offer(&[0]);
    bed.run(Duration::from_secs(600));
    assert_eq!(bed.core.state().0, UpstreamState::Down);
    let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
    assert_eq!(downs, 1, "said once, not with every attempt");
    // The host's first report has aged by now.
    bed.join(GROUP);
    bed.vmrs[0].alive = true;
    bed.run(MAX_RETRANSMISSION);
    assert_eq!(bed.core.state().0, UpstreamState::Up);
    assert_eq!(bed.vmrs[0].memberships.len(), 1);
}

#[test]
fn what_the_host_sends_otherwise_is_dropped_with_a_reason() {
    let mut bed = Bed::attached();
    let data = packet(HOST, GROUP, b"an application sends");
    let local = packet(HOST, Ipv4Addr::new(224, 0, 0, 251), b"mDNS");
    let ssdp = packet(HOST, Ipv4Addr::new(239, 255, 255, 250), b"SSDP");
    let unicast = packet(HOST, SOURCE, b"unicast");
    let igmp = ipv4::encapsulate(HOST, GROUP, 1, 0, PROTO_IGMP, false, b"");
    for packet in [&data[..], &local, &ssdp, &unicast, &igmp, &[0x50; 40], &[0x45; 3], &[]] {
        bed.input(Input::FromHost(packet));
    }
    // A fragment is no control message.
    let mut fragment = ipv4::encapsulate(HOST, GROUP, 1, 0, PROTO_IGMP, false, b"12345678");
    fragment[6..8].copy_from_slice(&[0x20, 0]);
    bed.input(Input::FromHost(&fragment));
    let drops: Vec<_> = bed.core.drops().iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        drops,
        [
            (Drop::NotIp, 2),
            (Drop::Malformed, 1),
            (Drop::BadMembership, 1),
            (Drop::NotMulticast, 1),
            (Drop::LinkLocalGroup, 2),
            (Drop::SendingNotSupported, 1),
        ]
    );
    assert_eq!(bed.core.querier(Family::V4).counters().refused(membership::Refusal::Malformed), 1);
    assert_eq!(bed.vmrs[0].tunnels + bed.vmrs[1].tunnels, 0);
    assert!(bed.data.is_empty());
}

#[test]
fn groups_that_stay_on_their_link_are_not_asked_for() {
    let mut bed = Bed::attached();
    bed.join(Ipv4Addr::new(239, 255, 255, 250));
    bed.join(Ipv4Addr::new(224, 0, 0, 251));
    assert!(bed.core.wanted().is_empty());
    assert_eq!(bed.vmrs[0].tunnels, 0);
}

#[test]
fn stopping_leaves_every_group_at_the_vmr_and_then_is_finished() {
    // proves A7
    let mut bed = Bed::attached();
    bed.join(GROUP);
    assert_eq!(bed.vmrs[0].memberships.len(), 1);
    bed.input(Input::Stop);
    assert!(bed.vmrs[0].memberships.is_empty());
    bed.run(Duration::from_secs(2));
    assert!(bed.core.is_finished());
    assert_eq!(bed.core.poll_timeout(), None);
    bed.offer(&[1]);
    assert!(bed.core.is_finished(), "nothing begins after the end");
}

#[test]
fn the_host_is_asked_again_and_a_report_that_fails_to_come_ends_the_membership() {
    // proves E2
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.run(Duration::from_secs(250));
    assert!(bed.queries >= 3, "{} queries", bed.queries);
    assert_eq!(bed.core.wanted().len(), 1);
    bed.run(Duration::from_secs(20));
    assert!(bed.core.wanted().is_empty(), "260 s without a report (RFC 9776 §8.4)");
    assert!(bed.vmrs[0].memberships.is_empty());
}
