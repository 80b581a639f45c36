//! What an operator states, beside what members report.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use proptest::prelude::*;
use vmcast_common::fib::{self, FibOp, IfIndex, Members, Rpf, Stream, TunnelId};

use super::super::{Config, Event, Input, Mrib, Output};
use crate::{Filter, Machine};

const MEMBER: fib::Output = fib::Output::Interface(IfIndex(7));
const OTHER: fib::Output = fib::Output::Interface(IfIndex(8));
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 192, 0, 1));
const ANY: Stream = Stream { source: None, group: GROUP };
const TUNNEL: fib::Input = fib::Input::Tunnel(TunnelId(3));

#[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
fn feed(mrib: &mut Mrib, input: Input) -> Vec<Output> {
    mrib.handle_input(Instant::now(), input);
    let outputs = std::iter::from_fn(|| mrib.poll_output());
    let is_news = |output: &Output| matches!(output, Output::Event(Event::MembershipChanged { .. }));
    outputs.filter(|output| !is_news(output)).collect()
}

fn reported(filter: Filter) -> Input {
    Input::Membership { member: MEMBER, group: GROUP, filter, account: None }
}

fn stated(filter: Filter) -> Input {
    Input::Stated { member: MEMBER, group: GROUP, filter }
}

fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, last).into()
}

#[test]
fn a_member_that_is_stated_and_reports_is_one_member_until_both_have_ended() {
    let mut mrib = Mrib::new(Config::default());
    let joined = feed(&mut mrib, reported(Filter::any()));
    assert!(joined.contains(&Output::Fib(FibOp::AddMember(ANY, MEMBER))));
    assert_eq!(feed(&mut mrib, stated(Filter::any())), []);
    assert!(mrib.members().all(|info| info.is_stated));
    assert_eq!(feed(&mut mrib, reported(Filter::none())), []);
    let ended = feed(&mut mrib, stated(Filter::none()));
    assert!(ended.contains(&Output::Fib(FibOp::RemoveStream(ANY))), "{ended:?}");
    assert_eq!(mrib.members().count(), 0);
}

#[test]
fn a_member_that_vanishes_is_stated_no_longer() {
    let mut mrib = Mrib::new(Config::default());
    feed(&mut mrib, stated(Filter::any()));
    feed(&mut mrib, Input::MemberGone { member: MEMBER });
    assert_eq!(mrib.members().count(), 0);
    feed(&mut mrib, reported(Filter::any()));
    assert!(mrib.members().all(|info| !info.is_stated));
}

#[test]
fn a_group_is_taken_from_where_it_is_stated_to_come_and_so_is_what_is_learnt_of_it() {
    let mut mrib = Mrib::new(Config::default());
    let exactly = Rpf::Exact(TUNNEL);
    assert_eq!(feed(&mut mrib, Input::StatedInput { stream: ANY, rpf: Some(Rpf::Exact(TUNNEL)) }), []);
    let joined = feed(&mut mrib, stated(Filter::any()));
    assert_eq!(joined[0], Output::Fib(FibOp::SetStream(ANY, exactly, Members::Own)));
    let one = Stream { source: Some(source(1)), group: GROUP };
    let other = fib::Input::Interface(IfIndex(2));
    assert_eq!(feed(&mut mrib, Input::NewSource { stream: one, input: other }), []);
    assert_eq!(mrib.counters().wrong_input, 1);
    let learnt = feed(&mut mrib, Input::NewSource { stream: one, input: TUNNEL });
    assert_eq!(learnt[0], Output::Fib(FibOp::SetStream(one, exactly, Members::OfAnySource)));
    // Both go back to what routes say.
    let ended = feed(&mut mrib, Input::StatedInput { stream: ANY, rpf: None });
    let set = |stream, members| Output::Fib(FibOp::SetStream(stream, Rpf::AnyUpstream, members));
    assert_eq!(ended, [set(ANY, Members::Own), set(one, Members::OfAnySource)]);
}

#[test]
fn a_source_that_is_refused_is_taken_from_nowhere_and_stays_so_while_it_sends() {
    let mut mrib = Mrib::new(Config::default());
    let one = Stream { source: Some(source(1)), group: GROUP };
    let input = fib::Input::Interface(IfIndex(2));
    let link =
        Input::SetInterface { ifindex: IfIndex(2), on_link: vec![(source(0), 24)], accepts_sources: true };
    feed(&mut mrib, link);
    feed(&mut mrib, reported(Filter::any()));
    let rpf = |outputs: &[Output]| match outputs {
        [Output::Fib(FibOp::SetStream(stream, rpf, Members::OfAnySource)), ..] if *stream == one => *rpf,
        other => panic!("{other:?}"),
    };
    assert_eq!(feed(&mut mrib, Input::Refuse { stream: one, refused: true }), []);
    let nowhere = rpf(&feed(&mut mrib, Input::NewSource { stream: one, input }));
    assert!(matches!(nowhere, Rpf::Exact(fib::Input::Tunnel(_))), "{nowhere:?}");
    assert_eq!(mrib.refused().collect::<Vec<_>>(), [one]);
    // Of its packets none counts, and yet its entry does not go.
    for _ in 0..3 {
        let silent = mrib.poll_timeout().expect("a keepalive timer");
        mrib.handle_timeout(silent);
        assert_eq!(mrib.poll_output(), None);
    }
    // Nor is there a moment in which it passes when the group is left and joined again.
    feed(&mut mrib, reported(Filter::none()));
    let again = feed(&mut mrib, reported(Filter::any()));
    let set = again.contains(&Output::Fib(FibOp::SetStream(one, nowhere, Members::OfAnySource)));
    assert!(set, "{again:?}");
    let taken = rpf(&feed(&mut mrib, Input::Refuse { stream: one, refused: false }));
    assert_eq!(taken, Rpf::Exact(input));
}

/// One that learns two sources of a group and so many in all, where somebody takes any source of [`GROUP`]; and where
/// sources are heard.
fn learning(learnt_sources: usize) -> (Mrib, fib::Input) {
    let mut mrib = Mrib::new(Config { learnt_sources_per_group: 2, learnt_sources, ..Config::default() });
    let (ifindex, on_link) = (IfIndex(2), vec![(source(0), 24)]);
    feed(&mut mrib, Input::SetInterface { ifindex, on_link, accepts_sources: true });
    feed(&mut mrib, reported(Filter::any()));
    (mrib, fib::Input::Interface(ifindex))
}

// proves D4: what may not send is cut at once, also where sources that may have taken all the room
#[test]
fn a_source_that_is_refused_is_cut_though_its_group_has_as_many_as_are_learnt() {
    let (mut mrib, input) = learning(3);
    let of = |last| Stream { source: Some(source(last)), group: GROUP };
    let set = |outputs: &[Output]| {
        let set = outputs.iter().filter_map(|output| match output {
            Output::Fib(FibOp::SetStream(stream, rpf, Members::OfAnySource)) => {
                Some((*stream, *rpf == Rpf::Exact(input)))
            }
            _ => None,
        });
        set.collect::<Vec<_>>()
    };
    for last in [1, 2] {
        assert_eq!(set(&feed(&mut mrib, Input::NewSource { stream: of(last), input })), [(of(last), true)]);
    }
    for last in [3, 4, 5] {
        assert_eq!(feed(&mut mrib, Input::NewSource { stream: of(last), input }), []);
    }
    assert_eq!(mrib.passing().collect::<Vec<_>>(), [3, 4, 5].map(of));
    // The policy changes: each that flows gets an entry that takes nothing, and the others keep theirs.
    for last in [3, 4] {
        assert_eq!(
            set(&feed(&mut mrib, Input::Refuse { stream: of(last), refused: true })),
            [(of(last), false)]
        );
    }
    // There is no end to those who forge sources, but to what is kept of them: from here on nobody is taken who is not
    // known.
    let any = Stream { source: None, group: GROUP };
    let closed = feed(&mut mrib, Input::Refuse { stream: of(5), refused: true });
    let [Output::Fib(FibOp::SetStream(stream, nowhere, Members::Own)), Output::Event(event)] = &closed[..]
    else {
        panic!("{closed:?}")
    };
    assert_eq!((*stream, event), (any, &Event::AnySourceClosed { group: GROUP }));
    assert!(matches!(nowhere, Rpf::Exact(fib::Input::Tunnel(_))), "{nowhere:?}");
    assert!(!mrib.is_refused(of(5)) && mrib.is_refused(of(4)));
    let counters = mrib.counters();
    assert_eq!((counters.group_limit, counters.refused_limit, counters.closed), (3, 1, 1));
    assert_eq!(mrib.passing().count(), 0, "nobody flows without an entry");
    assert!(mrib.awaits_source(of(5)) && !mrib.awaits_source(of(1)) && !mrib.awaits_source(of(4)));
    assert_eq!(feed(&mut mrib, Input::Refuse { stream: of(6), refused: true }), [], "it is closed already");
    // Whoever leaves and comes back finds it closed from the first, as those who are refused have all the room.
    feed(&mut mrib, reported(Filter::none()));
    let again = feed(&mut mrib, reported(Filter::any()));
    let open = Output::Fib(FibOp::SetStream(any, Rpf::AnyUpstream, Members::Own));
    assert!(again.contains(&Output::Fib(FibOp::SetStream(any, *nowhere, Members::Own))), "{again:?}");
    assert!(!again.contains(&open), "{again:?}");
    // Another policy that changes nothing for them leaves it so; one that allows them opens it.
    assert_eq!(feed(&mut mrib, Input::Reopen), []);
    feed(&mut mrib, Input::Refuse { stream: of(4), refused: false });
    assert_eq!(feed(&mut mrib, Input::Reopen), [open]);
    assert!(!mrib.awaits_source(of(5)));
}

// proves D4: what may send is forwarded though the group takes nobody who is not known, and nothing that may not is,
// whatever entry it had before
#[test]
fn a_closed_group_takes_those_who_may_send_when_they_are_heard_and_nobody_else() {
    let (mut mrib, input) = learning(9);
    let of = |last| Stream { source: Some(source(last)), group: GROUP };
    for last in [1, 2] {
        feed(&mut mrib, Input::NewSource { stream: of(last), input });
    }
    for last in [3, 4] {
        feed(&mut mrib, Input::Refuse { stream: of(last), refused: true });
    }
    // One that flows is forbidden, and there is no room to say so of it alone.
    let closed = feed(&mut mrib, Input::Refuse { stream: of(1), refused: true });
    assert!(closed.contains(&Output::Fib(FibOp::RemoveStream(of(1)))), "{closed:?}");
    let learnt = feed(&mut mrib, Input::NewSource { stream: of(5), input });
    assert_eq!(learnt[0], Output::Fib(FibOp::SetStream(of(5), Rpf::Exact(input), Members::OfAnySource)));
    // One that a stated list names has an entry of its own, by which it is refused.
    let excluding = Filter::Exclude([source(6)].into());
    feed(&mut mrib, Input::Membership { member: OTHER, group: GROUP, filter: Filter::any(), account: None });
    feed(&mut mrib, reported(Filter::none()));
    feed(&mut mrib, stated(excluding));
    let cut = feed(&mut mrib, Input::Refuse { stream: of(6), refused: true });
    assert!(
        matches!(cut[..], [Output::Fib(FibOp::SetStream(cut, Rpf::Exact(_), Members::Own))] if cut == of(6))
    );
    let streams: Vec<_> = mrib.streams(GROUP).map(|info| (info.stream.source, info.rpf)).collect();
    let open = streams.iter().filter(|(_, rpf)| *rpf == Rpf::Exact(input)).map(|(source, _)| *source);
    assert_eq!(open.collect::<Vec<_>>(), [Some(source(2)), Some(source(5))], "{streams:?}");
    // Nor is what is kept of those who are refused without end.
    for last in 10..200 {
        feed(&mut mrib, Input::Refuse { stream: of(last), refused: true });
    }
    assert_eq!(mrib.refused().count(), 3);
    assert_eq!(mrib.counters().closed, 1);
}

fn filter() -> impl Strategy<Value = Filter> {
    (any::<bool>(), proptest::collection::btree_set(0u8..4, 0..3)).prop_map(|(include, sources)| {
        let sources = sources.into_iter().map(source).collect();
        if include { Filter::Include(sources) } else { Filter::Exclude(sources) }
    })
}

proptest! {
    #[test]
    fn in_any_order_a_member_has_what_is_stated_and_what_it_reports(
        steps in proptest::collection::vec((any::<bool>(), filter()), 1..20)
    ) {
        let mut mrib = Mrib::new(Config::default());
        let (mut says, mut is_said) = (Filter::none(), Filter::none());
        for (reports, filter) in steps {
            if reports { says = filter.clone() } else { is_said = filter.clone() }
            feed(&mut mrib, if reports { reported(filter) } else { stated(filter) });
            let given = mrib.members().next().map_or_else(Filter::none, |info| info.filter);
            for source in (0..5).map(source) {
                prop_assert_eq!(given.wants(source), says.wants(source) || is_said.wants(source));
            }
        }
    }
}
