//! The machine against a model that knows only who wants what.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use vmcast_common::fib::{self, FibOp, IfIndex, Members, Rpf, Stream, TunnelId};

use super::{
    super::{Config, Event, Input, Mrib, Output},
    replay::Replay,
};
use crate::{Filter, Machine};

const GROUPS: u8 = 2;
const SOURCES: u8 = 5;

fn limits() -> Config {
    Config { learnt_sources_per_group: 3, learnt_sources: 4, ..Config::with_streams(1_000) }
}

fn group(last: u8) -> IpAddr {
    Ipv4Addr::new(232, 1, 1, last).into()
}

/// Sources 0 and 1 are on-link of interface 1, 2 and 3 of interface 2, 4 of neither.
fn source(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 1 + number / 2, 10 + number).into()
}

fn upstream(number: u8) -> TunnelId {
    TunnelId(100 + u32::from(number))
}

fn probes() -> impl Iterator<Item = (IpAddr, IpAddr, fib::Input)> {
    let inputs = [
        fib::Input::Interface(IfIndex(1)),
        fib::Input::Interface(IfIndex(2)),
        fib::Input::Tunnel(upstream(0)),
        fib::Input::Tunnel(upstream(1)),
        fib::Input::Tunnel(TunnelId(1)),
    ];
    (0..GROUPS)
        .flat_map(move |g| (0..SOURCES).flat_map(move |s| inputs.map(|input| (source(s), group(g), input))))
}

/// What somebody who reads only the rules holds.
#[derive(Clone, Default)]
struct Model {
    filters: BTreeMap<(IpAddr, fib::Output), Filter>,
    interfaces: BTreeMap<IfIndex, bool>,
    upstream: Option<TunnelId>,
    /// Of single (S,G).
    own: BTreeMap<Stream, TunnelId>,
}

impl Model {
    fn take(&mut self, input: &Input) {
        match input.clone() {
            Input::Membership { member, group, filter, .. } => {
                self.filters.insert((group, member), filter);
            }
            Input::MemberGone { member } => self.filters.retain(|(_, other), _| *other != member),
            Input::SetUpstream(upstream) => self.upstream = upstream,
            Input::SetInterface { ifindex, accepts_sources, .. } => {
                self.interfaces.insert(ifindex, accepts_sources);
            }
            Input::RemoveInterface { ifindex } => {
                self.interfaces.remove(&ifindex);
            }
            Input::SourceTunnel { stream, tunnel: Some(tunnel) } => {
                self.own.insert(stream, tunnel);
            }
            Input::SourceTunnel { stream, tunnel: None } => {
                self.own.remove(&stream);
            }
            // What is stated is tested on its own.
            Input::Stated { .. }
            | Input::StatedInput { .. }
            | Input::Refuse { .. }
            | Input::Reopen
            | Input::SetUpstreamInterface(_)
            | Input::NewSource { .. }
            | Input::StreamActive { .. } => {}
        }
        self.filters.retain(|_, filter| !filter.is_none());
    }

    fn of_group(&self, group: IpAddr) -> impl Iterator<Item = (fib::Output, &Filter)> {
        self.filters
            .iter()
            .filter(move |((g, _), _)| *g == group)
            .map(|((_, member), filter)| (*member, filter))
    }

    fn wanting(&self, source: IpAddr, group: IpAddr) -> BTreeSet<fib::Output> {
        self.of_group(group).filter(|(_, filter)| filter.wants(source)).map(|(member, _)| member).collect()
    }

    fn merged(&self, group: IpAddr) -> Filter {
        let mut merged = Filter::none();
        self.of_group(group).for_each(|(_, filter)| merged.merge(filter));
        merged
    }

    fn accepting(&self) -> BTreeSet<IfIndex> {
        self.interfaces.iter().filter(|(_, accepts)| **accepts).map(|(&ifindex, _)| ifindex).collect()
    }

    fn rpf(&self, source: IpAddr, group: IpAddr) -> Rpf {
        let IpAddr::V4(v4) = source else { unreachable!() };
        let link = IfIndex(u32::from(v4.octets()[2]));
        if self.interfaces.get(&link) == Some(&true) {
            return Rpf::Exact(fib::Input::Interface(link));
        }
        let own = self.own.get(&Stream { source: Some(source), group }).copied();
        own.or(self.upstream).map_or(Rpf::AnyUpstream, |upstream| Rpf::Exact(fib::Input::Tunnel(upstream)))
    }

    fn is_right(&self, source: IpAddr, group: IpAddr, input: fib::Input) -> bool {
        match (self.rpf(source, group), input) {
            (Rpf::Exact(right), input) => right == input,
            (Rpf::AnyUpstream, fib::Input::Interface(ifindex)) => self.accepting().contains(&ifindex),
            (Rpf::AnyUpstream, fib::Input::Tunnel(id)) => id.0 >= 100,
        }
    }

    /// The streams that membership alone asks for.
    fn streams(&self) -> BTreeSet<Stream> {
        let mut streams = BTreeSet::new();
        for ((group, _), filter) in &self.filters {
            let (any, named) = match filter {
                Filter::Include(named) => (false, named),
                Filter::Exclude(named) => (true, named),
            };
            streams.extend(any.then_some(Stream { source: None, group: *group }));
            streams.extend(named.iter().map(|s| Stream { source: Some(*s), group: *group }));
        }
        streams
    }
}

#[derive(Clone, Debug)]
enum Step {
    Input(Input),
    Wait(u64),
}

fn filter() -> impl Strategy<Value = Filter> {
    let list = || proptest::collection::btree_set((0..SOURCES).prop_map(source), 0..4);
    prop_oneof![
        1 => Just(Filter::none()),
        3 => Just(Filter::any()),
        3 => list().prop_map(Filter::Include),
        3 => list().prop_map(Filter::Exclude),
    ]
}

fn member() -> impl Strategy<Value = fib::Output> {
    prop_oneof![
        (0u32..5).prop_map(|id| fib::Output::Tunnel(TunnelId(id))),
        (1u32..3).prop_map(|ifindex| fib::Output::Interface(IfIndex(ifindex))),
    ]
}

fn stream() -> impl Strategy<Value = Stream> {
    (0..SOURCES, 0..GROUPS).prop_map(|(s, g)| Stream { source: Some(source(s)), group: group(g) })
}

fn fib_input() -> impl Strategy<Value = fib::Input> {
    prop_oneof![
        (1u32..3).prop_map(|ifindex| fib::Input::Interface(IfIndex(ifindex))),
        (0u8..2).prop_map(|number| fib::Input::Tunnel(upstream(number))),
    ]
}

fn set_interface() -> impl Strategy<Value = Input> {
    (1u32..3, any::<bool>()).prop_map(|(ifindex, accepts_sources)| Input::SetInterface {
        ifindex: IfIndex(ifindex),
        on_link: vec![(Ipv4Addr::new(10, 0, u8::try_from(ifindex).unwrap(), 1).into(), 24)],
        accepts_sources,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (member(), 0..GROUPS, filter())
            .prop_map(|(member, g, filter)| Step::Input(Input::Membership { member, group: group(g), filter, account: None })),
        1 => member().prop_map(|member| Step::Input(Input::MemberGone { member })),
        1 => proptest::option::of((0u8..2).prop_map(upstream)).prop_map(|to| Step::Input(Input::SetUpstream(to))),
        2 => (stream(), proptest::option::of((0u8..2).prop_map(upstream)))
            .prop_map(|(stream, tunnel)| Step::Input(Input::SourceTunnel { stream, tunnel })),
        2 => set_interface().prop_map(Step::Input),
        1 => (1u32..3).prop_map(|i| Step::Input(Input::RemoveInterface { ifindex: IfIndex(i) })),
        8 => (stream(), fib_input()).prop_map(|(stream, input)| Step::Input(Input::NewSource { stream, input })),
        3 => (stream(), 0u64..3).prop_map(|(stream, packets)| Step::Input(Input::StreamActive { stream, packets })),
        2 => (0u64..150).prop_map(Step::Wait),
    ]
}

struct Run {
    mrib: Mrib,
    model: Model,
    fib: Replay,
    interests: BTreeMap<IpAddr, Filter>,
    now: Instant,
}

impl Run {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only way to make an Instant; it is passed in from here"
    )]
    fn new() -> Self {
        let fib = Replay { upstreams: [upstream(0), upstream(1)].into(), ..Replay::default() };
        Self {
            mrib: Mrib::new(limits()),
            model: Model::default(),
            fib,
            interests: BTreeMap::new(),
            now: Instant::now(),
        }
    }

    fn step(&mut self, step: &Step) {
        let before = self.model.clone();
        match step {
            Step::Input(input) => {
                self.model.take(input);
                self.mrib.handle_input(self.now, input.clone());
            }
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(*seconds);
                self.mrib.handle_timeout(self.now);
            }
        }
        self.fib.accepting = self.model.accepting();
        let mut told = before.filters.clone();
        let mut changing = BTreeSet::new();
        while let Some(output) = self.mrib.poll_output() {
            match output {
                Output::Fib(op) => {
                    if let FibOp::AddMember(stream, member) = op {
                        // A member changes a stream after it was told of; others only where (S,G) are made.
                        let key = (stream.group, member);
                        assert!(changing.contains(&key) || before.filters.contains_key(&key), "{op:?}");
                    }
                    self.fib.apply(op);
                    self.check_interim(&before);
                }
                Output::Interest { group, filter } => {
                    let old = self.interests.insert(group, filter.clone()).unwrap_or_default();
                    assert_ne!(old, filter, "an interest that did not change");
                }
                Output::Event(Event::MembershipChanged { group, member, old, new }) => {
                    assert_ne!(old, new, "a membership that did not change");
                    changing.insert((group, member));
                    assert_eq!(told.insert((group, member), new).unwrap_or_default(), old);
                }
                Output::Event(Event::NoRoom { .. } | Event::AnySourceClosed { .. }) => {
                    panic!("there is room for all")
                }
                Output::Event(Event::SourceLearnt { .. } | Event::SourceSilent { .. }) => {}
            }
        }
        told.retain(|_, filter| !filter.is_none());
        assert_eq!(told, self.model.filters);
        self.check_end();
    }

    /// Between two operations nobody loses what it keeps, nor gets what it never wanted.
    fn check_interim(&self, before: &Model) {
        let stays = &before.streams() & &self.model.streams();
        for (source, group, input) in probes() {
            let old = before.wanting(source, group);
            let new = self.model.wanting(source, group);
            let got = self.fib.receivers(source, group, input);
            assert!(got.iter().all(|member| old.contains(member) || new.contains(member)), "{got:?}");
            if before.is_right(source, group, input) && self.model.is_right(source, group, input) {
                assert!(old.intersection(&new).all(|member| got.contains(member)), "{got:?}");
            }
            let named = Stream { source: Some(source), group };
            let right = before.is_right(source, group, input) || self.model.is_right(source, group, input);
            if !right && stays.contains(&named) {
                assert!(got.is_empty(), "{named} from {input:?} went to {got:?}");
            }
        }
    }

    fn check_end(&self) {
        for (source, group, input) in probes() {
            let wanting = self.model.wanting(source, group);
            let got = self.fib.receivers(source, group, input);
            if self.model.is_right(source, group, input) {
                assert_eq!(got, wanting, "({source},{group}) from {input:?}");
            } else if self.fib.streams.contains_key(&Stream { source: Some(source), group }) {
                assert!(got.is_empty(), "({source},{group}) from the wrong {input:?}: {got:?}");
            } else {
                assert!(got.is_subset(&wanting), "({source},{group}) from {input:?}: {got:?}");
            }
        }
        for group in (0..GROUPS).map(group) {
            let merged = self.model.merged(group);
            assert_eq!(self.interests.get(&group).cloned().unwrap_or_default(), merged);
            assert_eq!(self.mrib.group(group).map(|info| info.interest.clone()).unwrap_or_default(), merged);
        }
        self.check_streams();
        let members: BTreeMap<_, _> =
            self.mrib.members().map(|info| ((info.group, info.member), info.filter)).collect();
        assert_eq!(members, self.model.filters);
        let gone = self.model.filters.is_empty();
        assert_eq!(self.mrib.groups().count() == 0, gone);
        self.mrib.check_nothing_is_left(&self.model.filters.values().cloned().collect::<Vec<_>>());
    }

    /// Named streams are all there, others are learnt ones within their limits, and the operator is
    /// shown what the plane has.
    fn check_streams(&self) {
        let named = self.model.streams();
        let mut all = 0;
        for group in (0..GROUPS).map(group) {
            let of_group = || self.fib.streams.iter().filter(|(stream, _)| stream.group == group);
            let learnt = of_group().filter(|(stream, _)| !named.contains(stream)).count();
            assert!(learnt <= limits().learnt_sources_per_group);
            all += learnt;
            let shown: BTreeMap<_, _> = self
                .mrib
                .streams(group)
                .map(|info| (info.stream, (info.rpf, info.source, info.members)))
                .collect();
            let has: BTreeMap<_, _> = of_group()
                .map(|(&stream, entry)| {
                    let members = match entry.members {
                        Members::Own => &entry.own,
                        Members::OfAnySource => &self.fib.streams[&Stream { source: None, group }].own,
                    };
                    assert_eq!(&self.mrib.receivers(stream).collect::<BTreeSet<_>>(), members);
                    assert_eq!(entry.members == Members::Own, named.contains(&stream));
                    let right =
                        stream.source.map_or(Rpf::AnyUpstream, |source| self.model.rpf(source, group));
                    assert_eq!(entry.rpf, right);
                    (stream, (entry.rpf, entry.members, members.len()))
                })
                .collect();
            assert_eq!(shown, has);
        }
        assert!(all <= limits().learnt_sources);
        assert!(named.iter().all(|stream| self.fib.streams.contains_key(stream)));
        assert_eq!(self.mrib.poll_timeout().is_some(), all > 0);
    }
}

proptest! {
    // proves A11, A12 in part, and RFC 4605 §4.1: upstream is asked for what all want together
    #[test]
    fn at_every_moment_exactly_those_receive_who_want_a_source(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        // Everybody leaves, and nothing stays behind.
        let members: BTreeSet<_> = run.model.filters.keys().map(|(_, member)| *member).collect();
        for member in members {
            run.step(&Step::Input(Input::MemberGone { member }));
        }
        prop_assert!(run.fib.streams.is_empty());
        prop_assert!(run.interests.values().all(Filter::is_none));
    }
}

#[test]
fn a_flood_of_new_sources_leaves_bounded_state_and_the_members_served() {
    let mut run = Run::new();
    run.step(&Step::Input(Input::SetUpstream(Some(upstream(0)))));
    for g in 0..GROUPS {
        let (member, filter) = (fib::Output::Tunnel(TunnelId(1)), Filter::any());
        run.step(&Step::Input(Input::Membership { member, group: group(g), filter, account: None }));
    }
    let mut streams = 0;
    for number in 0..20_000u32 {
        let stream = Stream {
            source: Some(Ipv4Addr::from_bits(0x0b00_0000 + number).into()),
            group: group(u8::from(number % 3 == 0)),
        };
        let input = fib::Input::Tunnel(upstream(0));
        run.mrib.handle_input(run.now, Input::NewSource { stream, input });
        while let Some(output) = run.mrib.poll_output() {
            streams += usize::from(matches!(output, Output::Fib(op) if {
                run.fib.apply(op);
                true
            }));
        }
    }
    assert_eq!(streams, limits().learnt_sources);
    let counters = run.mrib.counters();
    assert_eq!(counters.group_limit + counters.total_limit, 20_000 - streams as u64);
    run.check_end();
    run.step(&Step::Wait(210));
    assert_eq!(run.fib.streams.len(), usize::from(GROUPS));
}
