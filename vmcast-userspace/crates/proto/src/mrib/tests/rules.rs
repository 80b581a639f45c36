//! Each rule on its own.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use vmcast_common::fib::{self, FibOp, IfIndex, Members, Rpf, Stream, TunnelId};

use super::super::{Config, Counters, Event, Input, Mrib, Output};
use crate::{Filter, Machine};

const UPSTREAM: TunnelId = TunnelId(900);
const RPF: Rpf = Rpf::Exact(fib::Input::Tunnel(UPSTREAM));

fn group() -> IpAddr {
    Ipv4Addr::new(239, 192, 0, 1).into()
}

fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, last).into()
}

fn member(id: u32) -> fib::Output {
    fib::Output::Tunnel(TunnelId(id))
}

fn any() -> Stream {
    Stream { source: None, group: group() }
}

fn of(last: u8) -> Stream {
    Stream { source: Some(source(last)), group: group() }
}

fn include(sources: &[u8]) -> Filter {
    Filter::Include(sources.iter().copied().map(source).collect())
}

fn exclude(sources: &[u8]) -> Filter {
    Filter::Exclude(sources.iter().copied().map(source).collect())
}

fn set(stream: Stream, members: Members) -> Output {
    let rpf = if stream.source.is_some() { RPF } else { Rpf::AnyUpstream };
    Output::Fib(FibOp::SetStream(stream, rpf, members))
}

fn own(stream: Stream) -> Output {
    set(stream, Members::Own)
}

fn shared(stream: Stream) -> Output {
    set(stream, Members::OfAnySource)
}

fn gone(stream: Stream) -> Output {
    Output::Fib(FibOp::RemoveStream(stream))
}

fn add(stream: Stream, id: u32) -> Output {
    Output::Fib(FibOp::AddMember(stream, member(id)))
}

fn remove(stream: Stream, id: u32) -> Output {
    Output::Fib(FibOp::RemoveMember(stream, member(id)))
}

fn interest(filter: Filter) -> Output {
    Output::Interest { group: group(), filter }
}

fn learnt(stream: Stream) -> Output {
    Output::Event(Event::SourceLearnt { stream, input: fib::Input::Tunnel(UPSTREAM) })
}

struct Bench {
    mrib: Mrib,
    now: Instant,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only way to make an Instant; it is passed in from here"
    )]
    fn new() -> Self {
        let config = Config { learnt_sources_per_group: 2, learnt_sources: 3, ..Config::default() };
        let mut bench = Self { mrib: Mrib::new(config), now: Instant::now() };
        assert_eq!(bench.input(Input::SetUpstream(Some(UPSTREAM))), []);
        bench
    }

    /// What comes out, but for the news of memberships.
    fn drain(&mut self) -> Vec<Output> {
        let outputs = std::iter::from_fn(|| self.mrib.poll_output());
        let is_news = |output: &Output| matches!(output, Output::Event(Event::MembershipChanged { .. }));
        outputs.filter(|output| !is_news(output)).collect()
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.mrib.handle_input(self.now, input);
        self.drain()
    }

    fn join(&mut self, id: u32, filter: Filter) -> Vec<Output> {
        self.input(Input::Membership { member: member(id), group: group(), filter, account: None })
    }

    fn leave(&mut self, id: u32) -> Vec<Output> {
        self.join(id, Filter::none())
    }

    fn packet(&mut self, stream: Stream) -> Vec<Output> {
        self.input(Input::NewSource { stream, input: fib::Input::Tunnel(UPSTREAM) })
    }

    fn active(&mut self, stream: Stream, packets: u64) {
        assert_eq!(self.input(Input::StreamActive { stream, packets }), []);
    }

    fn wait(&mut self, seconds: u64) -> Vec<Output> {
        self.now += Duration::from_secs(seconds);
        self.mrib.handle_timeout(self.now);
        self.drain()
    }
}

// proves A12 in part
#[test]
fn an_any_source_join_is_one_add_and_a_leave_one_remove_and_the_last_takes_the_stream_along() {
    let mut bench = Bench::new();
    assert_eq!(bench.join(1, Filter::any()), [own(any()), add(any(), 1), interest(Filter::any())]);
    assert_eq!(bench.join(2, Filter::any()), [add(any(), 2)]);
    assert_eq!(bench.join(2, Filter::any()), []);
    assert_eq!(bench.leave(1), [remove(any(), 1)]);
    assert_eq!(bench.leave(1), []);
    assert_eq!(bench.leave(2), [remove(any(), 2), gone(any()), interest(Filter::none())]);
    assert_eq!(bench.mrib.groups().count(), 0);
}

#[test]
fn a_source_specific_join_makes_the_source_s_stream_and_no_other() {
    let mut bench = Bench::new();
    assert_eq!(bench.join(1, include(&[1])), [own(of(1)), add(of(1), 1), interest(include(&[1]))]);
    assert_eq!(bench.join(2, include(&[1])), [add(of(1), 2)]);
    assert_eq!(bench.join(2, include(&[1, 2])), [own(of(2)), add(of(2), 2), interest(include(&[1, 2]))]);
    assert_eq!(bench.join(2, include(&[2])), [remove(of(1), 2)]);
    assert_eq!(bench.leave(1), [remove(of(1), 1), gone(of(1)), interest(include(&[2]))]);
    assert_eq!(bench.leave(2), [remove(of(2), 2), gone(of(2)), interest(Filter::none())]);
}

#[test]
fn a_source_that_all_exclude_has_a_stream_without_members() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.join(1, exclude(&[1])),
        [own(of(1)), own(any()), add(any(), 1), interest(exclude(&[1]))]
    );
    // The next one wants it, so that upstream has to send it.
    assert_eq!(bench.join(2, Filter::any()), [add(of(1), 2), add(any(), 2), interest(Filter::any())]);
    assert_eq!(bench.leave(2), [remove(of(1), 2), remove(any(), 2), interest(exclude(&[1]))]);
    assert_eq!(bench.leave(1), [remove(any(), 1), gone(of(1)), gone(any()), interest(Filter::none())]);
}

#[test]
fn an_excluded_source_takes_its_own_members_before_it_stops_sharing() {
    let mut bench = Bench::new();
    for id in 1..=3 {
        bench.join(id, Filter::any());
    }
    assert_eq!(bench.join(2, exclude(&[1])), [shared(of(1)), add(of(1), 1), add(of(1), 3), own(of(1))]);
    // Once no list names it, (*,G) serves it again.
    assert_eq!(bench.join(2, Filter::any()), [gone(of(1))]);
}

#[test]
fn a_member_that_narrows_to_a_source_keeps_it_and_one_that_widens_too() {
    let mut bench = Bench::new();
    bench.join(1, Filter::any());
    assert_eq!(
        bench.join(1, include(&[1])),
        [shared(of(1)), add(of(1), 1), own(of(1)), remove(any(), 1), gone(any()), interest(include(&[1]))]
    );
    assert_eq!(
        bench.join(1, exclude(&[2])),
        [own(of(2)), own(any()), add(any(), 1), gone(of(1)), interest(exclude(&[2]))]
    );
}

#[test]
fn a_live_source_gets_its_own_counters_and_shares_the_members() {
    let mut bench = Bench::new();
    assert_eq!(bench.packet(of(1)), []);
    bench.join(1, Filter::any());
    assert_eq!(bench.packet(of(1)), [shared(of(1)), learnt(of(1))]);
    assert_eq!(bench.packet(of(1)), []);
    // A join still is one operation.
    assert_eq!(bench.join(2, Filter::any()), [add(any(), 2)]);
    assert_eq!(bench.join(2, exclude(&[1])), [add(of(1), 1), own(of(1))]);
    assert_eq!(bench.packet(of(1)), []);
    assert_eq!(bench.mrib.poll_timeout(), None);
    assert_eq!(bench.mrib.counters(), Counters { not_needed: 3, ..Counters::default() });
}

#[test]
fn a_learnt_source_that_everybody_excludes_stops_in_one_step() {
    let mut bench = Bench::new();
    bench.join(1, Filter::any());
    bench.packet(of(1));
    assert_eq!(bench.join(1, exclude(&[1])), [own(of(1)), interest(exclude(&[1]))]);
}

#[test]
fn learnt_sources_go_before_the_members_that_they_share() {
    let mut bench = Bench::new();
    bench.join(1, Filter::any());
    bench.packet(of(1));
    assert_eq!(bench.leave(1), [remove(any(), 1), gone(of(1)), gone(any()), interest(Filter::none())]);
    assert_eq!(bench.mrib.poll_timeout(), None);
}

#[test]
fn a_source_is_forgotten_when_its_counter_stands_still_for_the_keepalive_period() {
    let mut bench = Bench::new();
    bench.join(1, Filter::any());
    bench.packet(of(1));
    bench.packet(of(2));
    assert_eq!(bench.wait(200), []);
    bench.active(of(1), 7);
    bench.active(of(2), 0);
    bench.active(any(), 7);
    assert_eq!(bench.wait(9), []);
    assert_eq!(bench.wait(1), [gone(of(2)), Output::Event(Event::SourceSilent { stream: of(2) })]);
    bench.active(of(1), 7);
    assert_eq!(bench.mrib.poll_timeout(), Some(bench.now + Duration::from_secs(200)));
    assert_eq!(bench.wait(200), [gone(of(1)), Output::Event(Event::SourceSilent { stream: of(1) })]);
    assert_eq!(bench.mrib.poll_timeout(), None);
}

#[test]
fn sources_beyond_the_limits_stay_under_the_any_source_stream_and_are_counted() {
    let mut bench = Bench::new();
    let other = |last: u8| Stream { group: Ipv4Addr::new(239, 192, 0, 2).into(), ..of(last) };
    bench.join(1, Filter::any());
    bench.input(Input::Membership {
        member: member(1),
        group: other(1).group,
        filter: Filter::any(),
        account: None,
    });
    for stream in [of(1), of(2), other(1)] {
        assert_eq!(bench.packet(stream), [shared(stream), learnt(stream)]);
    }
    assert_eq!(bench.packet(of(3)), []);
    assert_eq!(bench.packet(other(2)), []);
    let counters = bench.mrib.counters();
    assert_eq!(counters, Counters { group_limit: 1, total_limit: 1, ..Counters::default() });
    // A source that a list names gives its place back.
    bench.join(2, exclude(&[1]));
    assert_eq!(bench.packet(of(3)), [shared(of(3)), learnt(of(3))]);
}

// proves A11 in part
#[test]
fn a_source_is_learnt_only_from_where_it_is_reached() {
    let mut bench = Bench::new();
    let lan = IfIndex(3);
    let set_lan = |accepts_sources| Input::SetInterface {
        ifindex: lan,
        on_link: vec![(source(254), 25)],
        accepts_sources,
    };
    bench.input(set_lan(true));
    bench.join(1, Filter::any());
    // 198.51.100.1 is behind the upstream, .129 on the link.
    let on_link = of(129);
    let natively = |stream| Input::NewSource { stream, input: fib::Input::Interface(lan) };
    assert_eq!(bench.packet(on_link), []);
    assert_eq!(bench.input(natively(of(1))), []);
    assert_eq!(bench.mrib.counters().wrong_input, 2);
    let exact = Rpf::Exact(fib::Input::Interface(lan));
    let learn = |rpf| Output::Fib(FibOp::SetStream(on_link, rpf, Members::OfAnySource));
    assert_eq!(
        bench.input(natively(on_link)),
        [
            learn(exact),
            Output::Event(Event::SourceLearnt { stream: on_link, input: fib::Input::Interface(lan) })
        ]
    );
    // No longer accepted there, it can only come from upstream.
    assert_eq!(bench.input(set_lan(false)), [learn(RPF)]);
    assert_eq!(bench.input(set_lan(false)), []);
}

#[test]
fn without_an_upstream_a_source_is_learnt_from_whatever_accepts_sources() {
    let mut bench = Bench::new();
    bench.input(Input::SetUpstream(None));
    for (ifindex, accepts_sources) in [(3, true), (4, false)] {
        bench.input(Input::SetInterface { ifindex: IfIndex(ifindex), on_link: Vec::new(), accepts_sources });
    }
    bench.join(1, Filter::any());
    let from = |ifindex| Input::NewSource { stream: of(1), input: fib::Input::Interface(IfIndex(ifindex)) };
    assert_eq!(bench.input(from(4)), []);
    assert_eq!(bench.input(from(5)), []);
    let set = FibOp::SetStream(of(1), Rpf::AnyUpstream, Members::OfAnySource);
    assert_eq!(bench.input(from(3))[0], Output::Fib(set));
}

#[test]
fn another_upstream_sets_the_rpf_of_its_streams_and_leaves_the_rest() {
    let mut bench = Bench::new();
    let lan = IfIndex(3);
    bench.input(Input::SetInterface {
        ifindex: lan,
        on_link: vec![(source(254), 25)],
        accepts_sources: true,
    });
    bench.join(1, include(&[1, 129]));
    bench.join(2, Filter::any());
    bench.packet(of(2));
    let to = |rpf| {
        [
            Output::Fib(FibOp::SetStream(of(1), rpf, Members::Own)),
            Output::Fib(FibOp::SetStream(of(2), rpf, Members::OfAnySource)),
        ]
    };
    let other = TunnelId(901);
    assert_eq!(bench.input(Input::SetUpstream(Some(other))), to(Rpf::Exact(fib::Input::Tunnel(other))));
    assert_eq!(bench.input(Input::SetUpstream(Some(other))), []);
    assert_eq!(bench.input(Input::SetUpstream(None)), to(Rpf::AnyUpstream));
    assert_eq!(
        bench.input(Input::RemoveInterface { ifindex: lan }),
        [Output::Fib(FibOp::SetStream(of(129), Rpf::AnyUpstream, Members::Own))]
    );
}

#[test]
fn a_member_that_vanishes_leaves_all_its_groups_and_nobody_else_does() {
    let mut bench = Bench::new();
    let groups: Vec<IpAddr> = (1..=3).map(|last| Ipv4Addr::new(239, 192, 0, last).into()).collect();
    for &group in &groups {
        bench.input(Input::Membership { member: member(1), group, filter: Filter::any(), account: None });
    }
    bench.join(2, include(&[1]));
    let outputs = bench.input(Input::MemberGone { member: member(1) });
    let stream = |group| Stream { source: None, group };
    let mut expected = vec![remove(of(1), 1), remove(any(), 1), gone(any()), interest(include(&[1]))];
    for &group in &groups[1..] {
        expected.extend([
            remove(stream(group), 1),
            gone(stream(group)),
            Output::Interest { group, filter: Filter::none() },
        ]);
    }
    assert_eq!(outputs, expected);
    let left: Vec<_> = bench.mrib.members().map(|info| (info.group, info.member)).collect();
    assert_eq!(left, [(group(), member(2))]);
    assert_eq!(bench.input(Input::MemberGone { member: member(1) }), []);
}

#[test]
fn an_operator_sees_groups_streams_and_members() {
    let mut bench = Bench::new();
    bench.join(1, Filter::any());
    bench.join(2, exclude(&[1]));
    bench.join(3, include(&[1, 2]));
    bench.packet(of(4));
    let info = bench.mrib.group(group()).unwrap();
    assert_eq!((info.members, info.exclude_mode), (3, 2));
    assert_eq!(info.interest, &Filter::any());
    assert_eq!(bench.mrib.groups().collect::<Vec<_>>(), [info]);
    let streams: Vec<_> =
        bench.mrib.streams(group()).map(|info| (info.stream, info.rpf, info.source, info.members)).collect();
    assert_eq!(
        streams,
        [
            (any(), Rpf::AnyUpstream, Members::Own, 2),
            (of(1), RPF, Members::Own, 2),
            (of(2), RPF, Members::Own, 3),
            (of(4), RPF, Members::OfAnySource, 2),
        ]
    );
    let receivers = |stream| bench.mrib.receivers(stream).collect::<Vec<_>>();
    assert_eq!(receivers(any()), [member(1), member(2)]);
    assert_eq!(receivers(of(1)), [member(1), member(3)]);
    assert_eq!(receivers(of(4)), [member(1), member(2)]);
    let members: Vec<_> = bench.mrib.members().map(|info| (info.member, info.filter)).collect();
    assert_eq!(
        members,
        [(member(1), Filter::any()), (member(2), exclude(&[1])), (member(3), include(&[1, 2]))]
    );
    assert_eq!(bench.mrib.members_of(group()).count(), 3);
    assert_eq!(bench.mrib.members_of(source(1)).count(), 0);
}
