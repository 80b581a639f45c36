//! What is sent below goes to the network above (RFC 4605 §4.2).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use vmcast_common::fib::{self, IfIndex, Rpf, Stream, TunnelId};

use super::{
    super::{Account, Config, Input, Mrib, Output},
    replay::Replay,
};
use crate::{Filter, Machine, membership::AddressRange};

const ABOVE: IfIndex = IfIndex(1);
const BELOW: IfIndex = IfIndex(2);
const OTHER: IfIndex = IfIndex(3);

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn group(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(239, 1, 1, last).into(),
            Self::V6 => Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, last.into()).into(),
        }
    }

    /// A host of the network of an interface; of no network that is known where there is none.
    fn host(self, of: Option<IfIndex>, last: u8) -> IpAddr {
        let network = of.map_or(9, |of| of.0 as u8);
        match self {
            Self::V4 => Ipv4Addr::new(10, 0, network, last).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, network.into(), 0, 0, 0, last.into()).into(),
        }
    }

    fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }
}

/// A proxy of three networks that may all send.
struct Bed {
    mrib: Mrib,
    now: Instant,
    replay: Replay,
    /// What is asked for by group, as it was last said.
    interests: Vec<(IpAddr, Filter)>,
}

impl Bed {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn new(config: Config) -> Self {
        let mut replay = Replay::default();
        replay.accepting.extend([ABOVE, BELOW, OTHER]);
        replay.upstreams.insert(TunnelId(7));
        let mut bed = Self { mrib: Mrib::new(config), now: Instant::now(), replay, interests: Vec::new() };
        for ifindex in [ABOVE, BELOW, OTHER] {
            bed.set_interface(ifindex);
        }
        bed.feed(Input::SetUpstreamInterface(Some(ABOVE)));
        bed
    }

    fn set_interface(&mut self, ifindex: IfIndex) {
        let on_link = Family::ALL.map(|family| (family.host(Some(ifindex), 1), family.prefix()));
        self.feed(Input::SetInterface { ifindex, on_link: on_link.to_vec(), accepts_sources: true });
    }

    fn feed(&mut self, input: Input) {
        self.mrib.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.mrib.poll_output() {
            match output {
                Output::Fib(op) => self.replay.apply(op),
                Output::Interest { group, filter } => {
                    self.interests.retain(|(of, _)| *of != group);
                    self.interests.push((group, filter));
                }
                Output::Event(_) => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.mrib.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.mrib.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }

    fn want(&mut self, member: IfIndex, group: IpAddr, filter: Filter) {
        let account = Some(Account::Interface(member));
        self.feed(Input::Membership { member: fib::Output::Interface(member), group, filter, account });
    }

    /// What becomes of a packet: who gets it, and whether the machine is told of its source as it would be.
    fn send(&mut self, source: IpAddr, group: IpAddr, input: fib::Input) -> Vec<u32> {
        let stream = Stream { source: Some(source), group };
        let has_entry = self.replay.streams.contains_key(&stream);
        let has_any = self.replay.streams.contains_key(&Stream { source: None, group });
        let mut receivers = self.replay.receivers(source, group, input);
        let is_refused = has_entry && receivers.is_empty();
        let is_told = match (has_entry, has_any) {
            (true, _) => is_refused && self.mrib.goes_up(stream, input),
            (false, true) => true,
            (false, false) => self.mrib.goes_up(stream, input),
        };
        if is_told {
            self.feed(Input::NewSource { stream, input });
        }
        // The data plane never returns a packet to where it came from.
        if let fib::Input::Interface(ifindex) = input {
            receivers.remove(&fib::Output::Interface(ifindex));
        }
        receivers
            .iter()
            .map(|receiver| match receiver {
                fib::Output::Interface(ifindex) => ifindex.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn interest(&self, group: IpAddr) -> Filter {
        let last = self.interests.iter().find(|(of, _)| *of == group);
        last.map_or_else(Filter::none, |(_, filter)| filter.clone())
    }
}

fn on(ifindex: IfIndex) -> fib::Input {
    fib::Input::Interface(ifindex)
}

// proves RFC 4605 §4.2: whoever has joined or not, and never back to where it came from
#[test]
fn what_is_sent_below_goes_up_and_to_the_networks_that_joined_and_nowhere_else() {
    for family in Family::ALL {
        let mut bed = Bed::new(Config::default());
        let (group, source) = (family.group(1), family.host(Some(BELOW), 9));
        assert_eq!(bed.send(source, group, on(BELOW)), [], "the first one tells of the source");
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0]);
        assert_eq!(bed.interest(group), Filter::none(), "nobody is asked for what is here");
        bed.want(OTHER, group, Filter::any());
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0, OTHER.0]);
        // Whoever has joined where it is sent has it already.
        bed.want(BELOW, group, Filter::any());
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0, OTHER.0]);
        bed.want(OTHER, group, Filter::none());
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0]);
        // It may not come from another network, and the group's other sources go as ever.
        assert_eq!(bed.send(source, group, on(ABOVE)), []);
        assert_eq!(bed.send(source, group, on(OTHER)), []);
        let there = family.host(Some(ABOVE), 9);
        bed.send(there, group, on(ABOVE));
        assert_eq!(bed.send(there, group, on(ABOVE)), [BELOW.0]);
        assert_eq!(bed.interest(group), Filter::any());
    }
}

// proves RFC 4605 §4.2: a source that has an entry since a list names it
#[test]
fn a_source_below_that_a_member_asks_for_by_its_address_goes_up_as_well_and_is_not_asked_for_there() {
    for family in Family::ALL {
        let mut bed = Bed::new(Config::default());
        let (group, source) = (family.group(1), family.host(Some(BELOW), 9));
        let above = family.host(Some(ABOVE), 9);
        bed.want(OTHER, group, Filter::Include([source, above].into()));
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0, OTHER.0]);
        assert_eq!(bed.send(above, group, on(ABOVE)), [OTHER.0]);
        assert_eq!(bed.interest(group), Filter::Include([source, above].into()), "somebody does want both");
        // One who wants all but it: it goes up all the same.
        bed.want(OTHER, group, Filter::Exclude([source].into()));
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0]);
        assert_eq!(bed.interest(group), Filter::Exclude([source].into()));
        // It is kept as long as it is named, however silent it is.
        bed.pass(Duration::from_secs(1_000));
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0]);
        bed.want(OTHER, group, Filter::none());
        bed.pass(Duration::from_secs(211));
        assert_eq!(bed.mrib.members().count(), 0);
        assert!(bed.replay.streams.is_empty(), "{:?}", bed.replay);
        assert_eq!(bed.mrib.poll_timeout(), None);
    }
}

// proves RFC 4605 §4.2: downstream is any interface that is not upstream, whosever the source's address is
#[test]
fn a_source_behind_a_router_below_goes_up_when_it_is_heard_there_and_is_taken_from_above_alone_before() {
    for family in Family::ALL {
        let mut bed = Bed::new(Config::default());
        let (group, source) = (family.group(1), family.host(None, 9));
        let stream = Stream { source: Some(source), group };
        bed.want(OTHER, group, Filter::Include([source].into()));
        assert_eq!(bed.replay.streams[&stream].rpf, Rpf::Exact(on(ABOVE)));
        assert_eq!(bed.send(source, group, on(ABOVE)), [OTHER.0], "nothing is heard below");
        assert_eq!(bed.replay.streams[&stream].rpf, Rpf::Exact(on(ABOVE)));
        bed.send(source, group, on(BELOW));
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0, OTHER.0]);
        // A forged one costs the real one nothing.
        assert_eq!(bed.send(source, group, on(ABOVE)), [OTHER.0]);
        // With (*,G) too.
        let (group, source) = (family.group(2), family.host(None, 8));
        bed.want(OTHER, group, Filter::any());
        assert_eq!(bed.send(source, group, on(BELOW)), [OTHER.0]);
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0, OTHER.0]);
        // A tunnel is no network below: what comes out of it goes to members.
        let (group, source) = (family.group(3), family.host(None, 7));
        bed.want(OTHER, group, Filter::Include([source].into()));
        let tunnel = fib::Input::Tunnel(TunnelId(7));
        assert_eq!(bed.send(source, group, tunnel), []);
        assert_eq!(bed.send(source, group, tunnel), [OTHER.0]);
    }
}

// proves RFC 4605 §4.2: state ends, and is kept while packets pass
#[test]
fn a_source_below_is_forgotten_when_it_is_silent_and_not_before() {
    let mut bed = Bed::new(Config::default());
    let (group, source) = (Family::V4.group(1), Family::V4.host(Some(BELOW), 9));
    let stream = Stream { source: Some(source), group };
    bed.send(source, group, on(BELOW));
    for packets in 1..5 {
        bed.pass(Duration::from_secs(200));
        bed.feed(Input::StreamActive { stream, packets });
        assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0]);
    }
    bed.feed(Input::StreamActive { stream, packets: 4 });
    bed.pass(Duration::from_secs(211));
    assert!(bed.replay.streams.is_empty(), "{:?}", bed.replay);
    assert_eq!(bed.mrib.poll_timeout(), None);
    bed.send(source, group, on(BELOW));
    assert_eq!(bed.send(source, group, on(BELOW)), [ABOVE.0]);
}

#[test]
fn of_forged_sources_and_groups_a_bounded_number_goes_up_and_members_keep_room() {
    let limits = Config { learnt_sources_per_group: 3, learnt_sources: 20, ..Config::with_streams(100) };
    let mut bed = Bed::new(limits);
    for number in 0..200u8 {
        bed.send(Family::V4.host(Some(BELOW), number), Family::V4.group(1), on(BELOW));
        bed.send(Family::V4.host(Some(BELOW), 9), Family::V4.group(number), on(BELOW));
    }
    assert_eq!(bed.replay.streams.len(), 20);
    let of_one = bed.mrib.streams(Family::V4.group(1)).count();
    assert_eq!(of_one, 3);
    let counters = bed.mrib.counters();
    assert!(counters.group_limit > 0 && counters.total_limit > 0, "{counters:?}");
    bed.want(OTHER, Family::V4.group(250), Filter::any());
    let there = Family::V4.host(Some(ABOVE), 9);
    assert_eq!(bed.send(there, Family::V4.group(250), on(ABOVE)), [OTHER.0]);
}

#[test]
fn only_groups_that_may_go_up_and_sources_that_may_send() {
    let range = AddressRange { address: Family::V4.group(8), prefix: 29 };
    let mut bed = Bed::new(Config { groups_up: Some(vec![range]), ..Config::default() });
    let source = Family::V4.host(Some(BELOW), 9);
    for (last, goes) in [(1, false), (8, true), (15, true), (16, false)] {
        let group = Family::V4.group(last);
        bed.send(source, group, on(BELOW));
        assert_eq!(bed.send(source, group, on(BELOW)) == [ABOVE.0], goes, "{group}");
        bed.want(OTHER, group, Filter::any());
        assert!(bed.send(source, group, on(BELOW)).contains(&OTHER.0), "{group}");
    }
    let refused = Stream { source: Some(Family::V4.host(Some(BELOW), 8)), group: Family::V4.group(9) };
    bed.feed(Input::Refuse { stream: refused, refused: true });
    assert!(!bed.mrib.goes_up(refused, on(BELOW)));
    // What comes in by unicast goes where it is stated to.
    let unicast = Stream { source: None, group: Family::V4.group(10) };
    bed.feed(Input::StatedInput { stream: unicast, rpf: Some(Rpf::AnyUpstream) });
    assert!(!bed.mrib.goes_up(Stream { source: Some(source), ..unicast }, on(BELOW)));
    // Nor does what an interface brings that accepts no sources.
    let on_link = vec![(Family::V4.host(Some(OTHER), 1), 24)];
    bed.feed(Input::SetInterface { ifindex: OTHER, on_link, accepts_sources: false });
    let mute = Stream { source: Some(Family::V4.host(Some(OTHER), 9)), group: Family::V4.group(11) };
    assert!(!bed.mrib.goes_up(mute, on(OTHER)));
}

#[test]
fn the_network_above_comes_and_goes() {
    for family in Family::ALL {
        let mut bed = Bed::new(Config::default());
        let (group, source) = (family.group(1), family.host(Some(BELOW), 9));
        bed.want(OTHER, group, Filter::Include([source].into()));
        bed.send(source, family.group(2), on(BELOW));
        assert_eq!(bed.send(source, family.group(2), on(BELOW)), [ABOVE.0]);
        bed.feed(Input::MemberGone { member: fib::Output::Interface(ABOVE) });
        bed.feed(Input::RemoveInterface { ifindex: ABOVE });
        assert_eq!(bed.send(source, group, on(BELOW)), [OTHER.0]);
        assert_eq!(bed.send(source, family.group(2), on(BELOW)), []);
        assert_eq!(bed.mrib.poll_timeout(), None);
        // A session that was dialled again has another number.
        let again = IfIndex(8);
        bed.replay.accepting.insert(again);
        let on_link = vec![(family.host(Some(ABOVE), 1), family.prefix())];
        bed.feed(Input::SetInterface { ifindex: again, on_link, accepts_sources: true });
        bed.feed(Input::SetUpstreamInterface(Some(again)));
        assert_eq!(bed.send(source, group, on(BELOW)), [OTHER.0, again.0]);
        bed.send(source, family.group(2), on(BELOW));
        assert_eq!(bed.send(source, family.group(2), on(BELOW)), [again.0]);
        bed.feed(Input::SetUpstreamInterface(None));
        assert_eq!(bed.send(source, group, on(BELOW)), [OTHER.0]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Want { member: u32, group: u8, exclude: bool, sources: BTreeSet<u8> },
    Send { source: u8, group: u8 },
    Flap(u32),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let sources = proptest::collection::btree_set(0u8..4, 0..3);
    prop_oneof![
        3 => (2u32..4, 0u8..2, any::<bool>(), sources)
            .prop_map(|(member, group, exclude, sources)| Step::Want { member, group, exclude, sources }),
        4 => (0u8..4, 0u8..2).prop_map(|(source, group)| Step::Send { source, group }),
        1 => (1u32..4).prop_map(Step::Flap),
        1 => (1u16..300).prop_map(Step::Wait),
    ]
}

/// Where source `number` is: one above, two below on one network and one on the other.
fn place(number: u8) -> IfIndex {
    [ABOVE, BELOW, BELOW, OTHER][usize::from(number)]
}

proptest! {
    // proves RFC 4605 §4.1, §4.2: after any history, against what one expects who knows only who wants what
    #[test]
    fn a_packet_goes_up_if_it_is_from_below_and_down_to_whoever_wants_it_after_any_history(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let mut bed = Bed::new(Config::default());
        let mut wanted: Vec<(IfIndex, u8, Filter)> = Vec::new();
        let host = |number: u8| Family::V4.host(Some(place(number)), 10 + number);
        for step in steps {
            match step {
                Step::Want { member, group, exclude, sources } => {
                    let sources = sources.into_iter().map(host).collect();
                    let filter = if exclude { Filter::Exclude(sources) } else { Filter::Include(sources) };
                    wanted.retain(|(of, what, _)| (of.0, *what) != (member, group));
                    wanted.push((IfIndex(member), group, filter.clone()));
                    bed.want(IfIndex(member), Family::V4.group(group), filter);
                }
                Step::Send { source, group } => {
                    bed.send(host(source), Family::V4.group(group), on(place(source)));
                }
                Step::Flap(ifindex) => {
                    let ifindex = IfIndex(ifindex);
                    wanted.retain(|(of, ..)| *of != ifindex);
                    bed.feed(Input::MemberGone { member: fib::Output::Interface(ifindex) });
                    bed.feed(Input::RemoveInterface { ifindex });
                    bed.set_interface(ifindex);
                    if ifindex == ABOVE {
                        bed.feed(Input::SetUpstreamInterface(Some(ABOVE)));
                    }
                }
                Step::Wait(seconds) => bed.pass(Duration::from_secs(seconds.into())),
            }
            for group in 0..2 {
                let mut merged = Filter::none();
                let of_group = wanted.iter().filter(|(_, what, _)| *what == group);
                of_group.for_each(|(_, _, filter)| merged.merge(filter));
                prop_assert_eq!(bed.interest(Family::V4.group(group)), merged);
            }
        }
        for (number, group) in (0..4).flat_map(|number| (0..2).map(move |group| (number, group))) {
            let (source, address) = (host(number), Family::V4.group(group));
            bed.send(source, address, on(place(number)));
            let got: BTreeSet<u32> = bed.send(source, address, on(place(number))).into_iter().collect();
            let wants = wanted.iter().filter(|(_, what, filter)| *what == group && filter.wants(source));
            let mut expected: BTreeSet<u32> = wants.map(|(member, ..)| member.0).collect();
            expected.insert(ABOVE.0);
            expected.remove(&place(number).0);
            prop_assert_eq!(got, expected, "source {} of group {}", number, group);
        }
        // Nothing outlives those who want it and those who send.
        for (member, group, _) in wanted {
            bed.want(member, Family::V4.group(group), Filter::none());
        }
        bed.pass(Duration::from_secs(500));
        prop_assert!(bed.replay.streams.is_empty());
        prop_assert_eq!(bed.mrib.poll_timeout(), None);
    }
}
