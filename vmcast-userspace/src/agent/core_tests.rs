use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use vmcast_common::hdr::{
    ipv4::{PROTO_IGMP, View},
    ipv6,
};
use vmcast_proto::amt::relay::{self, Relay};
use vmcast_wire::ipv4;

use super::*;
use crate::agent::{early::MAX_EARLY, relays::RelayInput};

const HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 22, 68);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 1, 1);
const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 1, 2);
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const OTHER_SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const AGENT: &str = "198.51.100.5:40000";
const STRANGER: &str = "203.0.113.66:2268";

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
        Candidate { endpoint: self.vmrs[index].endpoint, id: None, name: None }
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

/// Longer than a kernel holds a report back.
const REPORT_DELAY: Duration = Duration::from_millis(20);
/// Longer than an unconfirmed join counts.
const LATER: Duration = Duration::from_secs(1);

fn include(source: Ipv4Addr) -> Filter {
    Filter::Include(BTreeSet::from([source.into()]))
}

#[test]
fn a_join_has_effect_before_its_report_and_the_report_confirms_it() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"first");
    bed.run(REPORT_DELAY);
    bed.join(GROUP);
    bed.run(LATER);
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"second");
    assert_eq!(bed.data.len(), 2);
    let changes = bed.events.iter().filter(|event| matches!(event, Event::Membership(..))).count();
    assert_eq!(changes, 1, "the report changes nothing");
    assert_eq!(bed.core.wanted().len(), 1);
    assert!(bed.vmrs[1..].iter().all(|vmr| vmr.memberships.is_empty()));
}

#[test]
fn the_report_of_an_early_join_says_what_exactly_is_wanted() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.host_joined(OTHER_GROUP, &[SOURCE]);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), Some(&include(SOURCE)));
    bed.run(REPORT_DELAY);
    bed.report(5, GROUP, &[SOURCE]);
    bed.report(5, OTHER_GROUP, &[SOURCE]);
    bed.run(LATER);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&include(SOURCE)));
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), Some(&include(SOURCE)));
    bed.send("192.0.2.1:2268", OTHER_SOURCE, GROUP, b"unwanted");
    assert!(bed.data.is_empty());
}

#[test]
fn a_source_specific_group_is_joined_early_only_with_its_source() {
    let mut bed = Bed::attached();
    bed.host_joined(OTHER_GROUP, &[]);
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), None, "the source is not named yet");
    bed.run(REPORT_DELAY);
    bed.report(5, OTHER_GROUP, &[SOURCE]);
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), Some(&include(SOURCE)));
}

#[test]
fn an_early_join_that_no_report_confirms_is_withdrawn() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.run(Duration::from_millis(299));
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.run(Duration::from_millis(1));
    assert_eq!(bed.wanted_at(0, GROUP), None);
    assert!(bed.core.wanted().is_empty());
    // A report that comes after all is one like any other.
    bed.join(GROUP);
    bed.run(LATER);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
}

#[test]
fn a_leave_has_effect_before_its_report_and_the_report_changes_nothing() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.host_left(GROUP);
    assert_eq!(bed.wanted_at(0, GROUP), None, "left before the join's report");
    for (join, leave) in [(4, 3), (5, 6)] {
        let sources: &[_] = if join == 5 { &[SOURCE] } else { &[] };
        bed.report(join, GROUP, sources);
        assert!(bed.wanted_at(0, GROUP).is_some());
        bed.host_left(GROUP);
        assert_eq!(bed.wanted_at(0, GROUP), None);
        assert_eq!(bed.core.querier(Family::V4).groups(bed.now).len(), 0);
        bed.send("192.0.2.1:2268", SOURCE, GROUP, b"too late");
        bed.run(REPORT_DELAY);
        bed.report(leave, GROUP, sources);
        bed.run(LATER);
        assert_eq!(bed.wanted_at(0, GROUP), None);
        assert!(bed.core.wanted().is_empty() && bed.data.is_empty());
    }
}

#[test]
fn leaving_and_joining_again_within_the_kernels_delay_ends_joined() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.run(REPORT_DELAY);
    bed.join(GROUP);
    bed.host_left(GROUP);
    bed.host_joined(GROUP, &[]);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.run(REPORT_DELAY);
    // The kernel may still tell of the leave, or leave it out.
    bed.leave(GROUP);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.join(GROUP);
    bed.run(LATER);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
}

#[test]
fn only_groups_that_leave_the_link_are_joined_early_and_none_after_the_end() {
    let mut bed = Bed::attached();
    for group in
        [Ipv4Addr::new(239, 255, 255, 250), Ipv4Addr::new(224, 0, 0, 251), SOURCE, Ipv4Addr::UNSPECIFIED]
    {
        bed.host_joined(group, &[]);
        bed.host_left(group);
    }
    bed.input(Input::Stop);
    bed.host_joined(GROUP, &[]);
    assert!(bed.core.wanted().is_empty());
    assert!(bed.vmrs.iter().all(|vmr| vmr.memberships.is_empty() && vmr.tunnels == 0));
}

#[test]
fn a_flood_of_joins_is_early_up_to_a_bound_and_beyond_it_by_report() {
    let mut bed = Bed::attached();
    let group = |number: u32| Ipv4Addr::from(Ipv4Addr::new(239, 192, 0, 0).to_bits() + number);
    let flood = 10_000;
    for number in 0..flood {
        bed.host_joined(group(number), &[]);
    }
    assert_eq!(bed.core.wanted().len(), MAX_EARLY);
    bed.join(group(flood - 1));
    assert_eq!(bed.wanted_at(0, group(flood - 1)), Some(&Filter::any()));
    // A confirmed join makes room for another.
    bed.join(group(0));
    bed.host_joined(group(flood - 2), &[]);
    assert_eq!(bed.core.wanted().len(), MAX_EARLY + 2);
    bed.run(LATER);
    assert_eq!(bed.core.wanted().len(), 2);
}

#[test]
fn a_vmr_that_was_restarted_is_noticed_by_the_pace_of_the_stream() {
    // proves E3
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.restart(0);
    bed.flow(Duration::from_millis(700));
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    assert!(!bed.events.contains(&Event::Silent(bed.candidate(0))));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert!(bed.vmrs[1..].iter().all(|vmr| vmr.memberships.is_empty()));
}

#[test]
fn a_vmr_that_was_restarted_before_anything_flowed_is_asked_again_after_three_seconds_of_silence() {
    // proves E3
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.run(Duration::from_millis(100));
    bed.restart(0);
    bed.run(Duration::from_millis(3700));
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    assert!(bed.events.contains(&Event::Silent(bed.candidate(0))));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert!(bed.vmrs[1..].iter().all(|vmr| vmr.memberships.is_empty()));
}

#[test]
fn a_vmr_that_dies_under_a_stream_is_replaced_within_a_second() {
    // proves A7, E3
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.vmrs[0].alive = false;
    bed.flow(Duration::from_millis(600));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint), "it was given time to answer");
    let before = bed.data.len();
    bed.flow(Duration::from_millis(400));
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    assert!(bed.data.len() > before, "the stream flows again 1 s after the death");
    let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
    assert_eq!(downs, 1);
    assert!(bed.vmrs[2].memberships.is_empty());
}

#[test]
fn a_second_vmr_that_is_dead_too_holds_a_stream_up_two_seconds_more() {
    // proves A7, E3
    let mut bed = Bed::attached();
    bed.offer(&[0, 1, 2]);
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.vmrs[0].alive = false;
    bed.vmrs[1].alive = false;
    bed.flow(Duration::from_secs(8));
    assert_eq!(bed.core.state().0, UpstreamState::Up);
    assert_eq!(bed.current(), Some(bed.vmrs[2].endpoint));
    assert_eq!(bed.wanted_at(2, GROUP), Some(&Filter::any()));
}

#[test]
fn a_source_that_pauses_moves_no_stream_and_is_asked_for_ever_more_rarely() {
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    let requests = |bed: &Bed| bed.core.gateway_counters().expect("a tunnel").requests;
    let before = requests(&bed);
    for _ in 0..6 {
        bed.run(Duration::from_secs(100));
        bed.join(GROUP);
    }
    let asked = bed.events.iter().filter(|event| matches!(event, Event::Silent(_))).count();
    assert!((8..=10).contains(&asked), "{asked} times in ten minutes");
    // The handshakes of every 30 s come on top.
    assert!(requests(&bed) - before <= 10 + 22, "{}", requests(&bed) - before);
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert!(!bed.events.iter().any(|event| matches!(event, Event::Down(..))));
    assert_eq!(bed.vmrs[0].tunnels, 1);
    let before = bed.data.len();
    bed.flow(LATER);
    assert!(bed.data.len() > before, "and flows again when the source does");
}

#[test]
fn the_only_vmr_is_not_given_up_early_and_its_death_is_still_said_once() {
    let mut bed = Bed::new();
    bed.offer(&[0]);
    bed.run(LATER);
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.vmrs[0].alive = false;
    bed.flow(Duration::from_secs(8));
    assert_eq!(bed.core.state().0, UpstreamState::Up, "nobody else could do better");
    bed.flow(Duration::from_secs(60));
    let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
    assert_eq!((bed.core.state().0, downs), (UpstreamState::Down, 1));
    let silences = bed.events.iter().filter(|event| matches!(event, Event::Silent(_))).count();
    assert_eq!(silences, 1, "to ask again would start the repetitions over");
    bed.restart(0);
    bed.flow(MAX_RETRANSMISSION + LATER);
    assert_eq!(bed.core.state().0, UpstreamState::Up);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
}

#[test]
fn nothing_is_looked_after_while_nothing_is_wanted() {
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(LATER);
    bed.leave(GROUP);
    bed.run(Duration::from_secs(100));
    assert!(!bed.events.iter().any(|event| matches!(event, Event::Silent(_))));
    assert_eq!(bed.core.watch.next(), None);
}

/// The group of E2's example, on IPv6.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 0x1234);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
/// The host's own address on the interface.
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

impl Bed {
    /// The host sends an MLD message, as its kernel does (RFC 9777 §5).
    fn mld(&mut self, to: Ipv6Addr, message: &mld::Message) {
        let payload = message.emit(HOST_V6, to);
        let packet = vmcast_wire::ipv6::encapsulate(HOST_V6, to, 1, 0, mld::NEXT_ICMPV6, true, &payload);
        self.input(Input::FromHost(&packet));
    }

    fn mld_report(&mut self, record_type: RecordType) {
        let records = vec![mld::Record { record_type, group: GROUP_V6, sources: vec![SOURCE_V6] }];
        self.mld(mld::ALL_MLDV2_ROUTERS, &mld::Message::ReportV2 { records });
    }
}

// proves E2
#[test]
fn the_agent_is_the_mld_router_of_its_interface_too() {
    let mut bed = Bed::new();
    assert_eq!((bed.queries, bed.mld_queries), (1, 1), "both families are asked at once");
    bed.mld_report(RecordType::AllowNewSources);
    let wanted = Filter::Include(BTreeSet::from([IpAddr::from(SOURCE_V6)]));
    assert_eq!(bed.events, [Event::Membership(GROUP_V6.into(), wanted)]);
    bed.mld_report(RecordType::BlockOldSources);
    assert_eq!(bed.events.last(), Some(&Event::Membership(GROUP_V6.into(), Filter::none())), "at once");
    assert!(bed.core.wanted().is_empty());
    let counters = bed.core.querier(Family::V6).counters();
    assert_eq!((counters.reports_received, counters.queries_sent), (2, 1));
}

#[test]
fn what_else_of_ipv6_the_host_sends_is_dropped_with_a_reason() {
    let mut bed = Bed::new();
    let wrap = |to: Ipv6Addr, protocol| {
        vmcast_wire::ipv6::encapsulate(HOST_V6, to, 1, 0, protocol, false, b"12345678")
    };
    for packet in [
        wrap(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), 17),
        wrap(GROUP_V6, 17),
        wrap(SOURCE_V6, 17),
        // MLD without Router Alert is no MLD.
        wrap(mld::ALL_MLDV2_ROUTERS, 58),
        vmcast_wire::ipv6::encapsulate(HOST_V6, GROUP_V6, 1, 0, 44, true, b"12345678"),
        vec![0x60; 39],
    ] {
        bed.input(Input::FromHost(&packet));
    }
    let drops: Vec<_> = bed.core.drops().iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        drops,
        [
            (Drop::Malformed, 1),
            (Drop::BadMembership, 1),
            (Drop::NotMulticast, 1),
            (Drop::LinkLocalGroup, 2),
            (Drop::SendingNotSupported, 1),
        ]
    );
}

#[test]
fn a_leave_heard_of_by_other_means_ends_an_ipv6_group_at_once() {
    let mut bed = Bed::new();
    bed.mld_report(RecordType::AllowNewSources);
    bed.input(Input::HostLeft(GROUP_V6.into()));
    assert!(bed.core.wanted().is_empty());
    bed.mld_report(RecordType::BlockOldSources);
    assert!(bed.core.wanted().is_empty());
}

// proves A6 (RFC 8777): the VMR is asked for the rest, and data of a source is taken from its relay alone
#[test]
fn a_source_with_a_relay_of_its_own_is_had_from_there_and_the_rest_from_the_vmr() {
    use vmcast_proto::amt::discovery::{self, Answer, Question};
    struct Everywhere;
    impl discovery::Routes for Everywhere {
        fn source(&self, _: IpAddr) -> Option<IpAddr> {
            Some([198, 51, 100, 5].into())
        }
    }
    let mut bed = Bed::new();
    bed.core.find_relays(discovery::Config::new([3; 16]));
    bed.offer(&[0]);
    bed.run(Duration::from_secs(1));
    for group in [OTHER_GROUP, GROUP] {
        bed.report(3, group, &[SOURCE, OTHER_SOURCE]);
    }
    let mut queries: Vec<(u64, IpAddr)> = Vec::new();
    for output in bed.relays.drain(..) {
        if let RelayEffect::Query { query, question: Question::Relays(source) } = output {
            queries.push((query, source));
        }
    }
    assert_eq!(queries.len(), 2, "one question for a source, whatever its groups");
    let relay = at("192.0.2.3:2268");
    let record = vec![vec![10, 0x81, 192, 0, 2, 3]];
    for (query, source) in queries {
        let ttl = Duration::from_secs(60);
        let answer = if source == IpAddr::from(SOURCE) {
            Answer::Records { data: &record, ttl }
        } else {
            Answer::Nothing { ttl: None }
        };
        bed.core.relay_input(bed.now, RelayInput::Answer { query, answer, routes: &Everywhere });
        bed.drain();
    }
    // What is sent by the tunnel's own port goes to the third VMR, which takes it for another gateway's.
    let end = at("198.51.100.5:41000");
    for _ in 0..6 {
        for output in std::mem::take(&mut bed.relays) {
            let RelayEffect::Send { tunnel, remote, bytes } = output else { continue };
            assert_eq!(remote, relay);
            let vmr = &mut bed.vmrs[2].relay;
            vmr.handle_input(bed.now, relay::Input::Datagram { local: relay, remote: end, bytes: &bytes });
            let mut answers = Vec::new();
            while let Some(output) = vmr.poll_output() {
                if let relay::Output::Transmit { bytes, .. } = output {
                    answers.push(bytes);
                }
            }
            for bytes in answers {
                let input = RelayInput::Datagram { tunnel, remote: relay, tos: 0, bytes: &bytes };
                bed.core.relay_input(bed.now, input);
                bed.drain();
            }
        }
        bed.run(Duration::from_millis(300));
    }
    let wanted: Vec<_> = bed.vmrs[2].relay.tunnels().flat_map(|tunnel| tunnel.groups.clone()).collect();
    assert_eq!(wanted.len(), 2, "both groups: {wanted:?}");
    let only = |source: Ipv4Addr| Filter::Include([source.into()].into());
    for group in [OTHER_GROUP, GROUP] {
        assert_eq!(bed.vmrs[0].memberships[&group.into()], only(OTHER_SOURCE));
    }
    // Data of the source counts from its own relay, and not from the VMR.
    let packet = ipv4::encapsulate(SOURCE, GROUP, 16, 0, 17, false, b"data");
    let bytes = vmcast_wire::amt::Message::MulticastData { packet: &packet }.to_vec();
    let before = bed.data.len();
    bed.input(Input::FromTunnel { remote: at("192.0.2.1:2268"), tos: 0, bytes: &bytes });
    assert_eq!(bed.data.len(), before);
    bed.core.relay_input(bed.now, RelayInput::Datagram { tunnel: 0, remote: relay, tos: 0, bytes: &bytes });
    bed.drain();
    assert_eq!(bed.data.len(), before + 1);
}

impl Bed {
    /// A numbered stream flows from both of the first VMRs where it was asked for; the second is so many packets
    /// ahead, or behind.
    fn flow_numbered(&mut self, numbers: std::ops::Range<i32>, ahead: i32) {
        let end = numbers.end;
        for number in numbers {
            for (index, number) in [(0, number), (1, number + ahead)] {
                let vmr = &self.vmrs[index];
                let asked = vmr.alive && vmr.memberships.contains_key(&GROUP.into());
                if asked && (0..end).contains(&number) {
                    let endpoint = vmr.endpoint.to_string();
                    self.send(&endpoint, SOURCE, GROUP, &number.to_be_bytes());
                }
            }
            self.run(Duration::from_millis(10));
        }
    }

    fn drain_vmrs(&mut self, vmrs: &[usize]) {
        let ids = vmrs.iter().map(|index| id(*index)).collect();
        self.input(Input::Draining(ids));
    }

    /// An agent at the first of two VMRs that the admin has named.
    fn named() -> Self {
        let mut bed = Self::new();
        let named = |index| Candidate { id: Some(id(index)), ..bed.candidate(index) };
        let candidates = vec![named(0), named(1)];
        bed.input(Input::Candidates(candidates));
        bed.run(Duration::from_secs(1));
        bed.join(GROUP);
        bed
    }

    fn numbers(&self) -> Vec<i32> {
        let number = |packet: &Vec<u8>| i32::from_be_bytes(*packet.last_chunk().expect("a number"));
        self.data.iter().map(number).collect()
    }
}

fn id(index: usize) -> NodeId {
    format!("v{index}").parse().expect("an id")
}

#[test]
fn an_agent_leaves_a_vmr_that_goes_without_losing_or_doubling_a_packet_or_changing_their_order() {
    // proves A7, E3
    for ahead in [-20, -3, -1, 0, 1, 3, 20] {
        let mut bed = Bed::named();
        bed.flow_numbered(0..100, ahead);
        bed.drain_vmrs(&[0]);
        bed.flow_numbered(100..400, ahead);
        assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint), "ahead {ahead}");
        assert!(bed.vmrs[0].memberships.is_empty(), "the VMR that goes has no member");
        let last = bed.numbers().last().copied().expect("packets") + 1;
        assert!(last >= 380, "ahead {ahead}: the stream flows on to {last}");
        assert_eq!(bed.numbers(), (0..last).collect::<Vec<_>>(), "ahead {ahead}");
        let left = bed.events.iter().filter(|event| matches!(event, Event::Left(_))).count();
        let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
        assert_eq!((left, downs), (1, 0));
        assert!(bed.vmrs[2].memberships.is_empty() && bed.vmrs[2].tunnels == 0);
    }
}

#[test]
fn an_agent_stays_at_a_vmr_that_goes_until_another_one_answers() {
    // proves A7, E3
    let mut bed = Bed::named();
    bed.vmrs[1].alive = false;
    bed.flow_numbered(0..100, 0);
    bed.drain_vmrs(&[0]);
    bed.flow_numbered(100..2_000, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert_eq!(bed.numbers(), (0..2_000).collect::<Vec<_>>());
    bed.restart(1);
    bed.flow_numbered(2_000..20_000, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint), "the other one is tried again");
    assert_eq!(bed.numbers(), (0..20_000).collect::<Vec<_>>());
}

#[test]
fn a_vmr_that_dies_while_it_is_left_interrupts_nothing_that_comes_from_the_other() {
    // proves A7, E3
    let mut bed = Bed::named();
    bed.flow_numbered(0..100, 0);
    bed.drain_vmrs(&[0]);
    bed.vmrs[0].alive = false;
    bed.flow_numbered(100..200, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    let numbers = bed.numbers();
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order, each once");
    assert_eq!(numbers.last(), Some(&199));
}

#[test]
fn where_nothing_flows_a_vmr_that_goes_is_left_at_once_and_what_is_joined_meanwhile_goes_along() {
    // proves A7
    let mut bed = Bed::named();
    bed.drain_vmrs(&[0]);
    bed.report(3, OTHER_GROUP, &[SOURCE]);
    bed.run(Duration::from_secs(1));
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    assert_eq!(bed.wanted_at(1, OTHER_GROUP), Some(&include(SOURCE)));
    assert!(bed.vmrs[0].memberships.is_empty());
    // One that is back in service is a VMR like others.
    bed.drain_vmrs(&[]);
    bed.vmrs[1].alive = false;
    bed.run(Duration::from_secs(60));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
}

// proves D4: what does not come is asked for, and its reason is shown as long as it holds and the host wants the group
#[test]
fn what_does_not_come_is_asked_for_and_a_refusal_is_shown_until_it_ends() {
    let (group, other) = (IpAddr::from(GROUP), IpAddr::from(OTHER_GROUP));
    let mut bed = Bed::new();
    let named = Candidate { id: Some("core".parse().expect("an id")), ..bed.candidate(0) };
    bed.join(GROUP);
    assert_eq!(bed.core.missing(bed.now), None, "there is no VMR");
    bed.input(Input::Candidates(vec![named]));
    bed.run(Duration::from_secs(1));
    let missing = |bed: &Bed| {
        let question = bed.core.missing(bed.now).expect("a VMR that an admin has named");
        assert_eq!((question.vmr.as_str(), question.tunnel), ("core", at(AGENT)));
        Vec::from_iter(question.missing)
    };
    assert_eq!(missing(&bed), [group]);
    bed.flow(Duration::from_secs(1));
    assert!(missing(&bed).is_empty(), "it comes");
    // Of two sources one does.
    bed.report(5, OTHER_GROUP, &[SOURCE, OTHER_SOURCE]);
    bed.run(Duration::from_secs(1));
    bed.send("192.0.2.1:2268", SOURCE, OTHER_GROUP, b"one");
    assert_eq!(missing(&bed), [other]);
    bed.send("192.0.2.1:2268", OTHER_SOURCE, OTHER_GROUP, b"the other");
    assert!(missing(&bed).is_empty());
    bed.run(Duration::from_secs(6));
    assert_eq!(missing(&bed), [other, group], "nothing comes any more");

    bed.events.clear();
    let refusal = |reason: &str| {
        RefusedGroups::from([(other, reason.to_owned()), ([239, 9, 9, 9].into(), "x".to_owned())])
    };
    for _ in 0..2 {
        bed.input(Input::Refused(refusal("a rule")));
    }
    assert_eq!(bed.core.refused_groups().collect::<Vec<_>>(), [(other, "a rule")], "of what is wanted");
    bed.input(Input::Refused(refusal("another rule")));
    bed.input(Input::Refused(RefusedGroups::new()));
    assert_eq!(
        bed.events,
        [
            Event::Refused(other, "a rule".to_owned()),
            Event::Refused(other, "another rule".to_owned()),
            Event::NoLongerRefused(other)
        ]
    );
    assert_eq!(bed.core.refusals_told(), 2);
    bed.input(Input::Refused(refusal("a rule")));
    bed.leave(OTHER_GROUP);
    bed.report(6, OTHER_GROUP, &[SOURCE, OTHER_SOURCE]);
    assert_eq!(bed.core.refused_groups().count(), 0, "it is left");
}
