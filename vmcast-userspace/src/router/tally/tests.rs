//! What is shown of members against what each of them was sent, packet by packet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;
use vmcast_common::fib::{FibOp, IfIndex, Input, Members, Output, Rpf, Stream, TunnelId};
use vmcast_proto::{
    Filter, Machine as _,
    mrib::{self, Event, Mrib},
};

use super::*;

const GROUPS: u8 = 2;
const SOURCES: u8 = 4;
const UPSTREAM: TunnelId = TunnelId(900);

fn group(number: u8) -> IpAddr {
    Ipv4Addr::new(239, 1, 1, number).into()
}

/// Source 0 is on the link of interface 1, source 1 on that of interface 2.
fn source(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 1 + number, 9).into()
}

fn member() -> impl Strategy<Value = Output> {
    prop_oneof![
        (1u32..4).prop_map(|id| Output::Tunnel(TunnelId(id))),
        (1u32..3).prop_map(|ifindex| Output::Interface(IfIndex(ifindex))),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8, Output, Filter),
    /// To a group from a source, so many of this length; on the way to one member they are lost.
    Packets(u8, u8, u8, u16, Option<Output>),
    /// The data plane tells of a source.
    Punt(u8, u8),
    /// Whether an interface accepts sources.
    Interface(u32, bool),
    /// So that learnt sources are forgotten.
    Silence,
}

fn step() -> impl Strategy<Value = Step> {
    let filter = (any::<bool>(), proptest::collection::btree_set(0u8..SOURCES, 0..3)).prop_map(
        |(include, sources)| {
            let sources = sources.into_iter().map(source).collect();
            if include { Filter::Include(sources) } else { Filter::Exclude(sources) }
        },
    );
    prop_oneof![
        6 => (0..GROUPS, member(), filter).prop_map(|(group, member, filter)| Step::Want(group, member, filter)),
        6 => (0..GROUPS, 0..SOURCES, 1u8..9, 20u16..1500, proptest::option::of(member())).prop_map(
            |(group, source, count, length, loses)| Step::Packets(group, source, count, length, loses)
        ),
        2 => (0..GROUPS, 0..SOURCES).prop_map(|(group, source)| Step::Punt(group, source)),
        1 => (1u32..3, any::<bool>()).prop_map(|(ifindex, accepts)| Step::Interface(ifindex, accepts)),
        1 => Just(Step::Silence),
    ]
}

/// A data plane that counts, and what each member was really sent, or not.
#[derive(Default)]
struct Plane {
    streams: BTreeMap<Stream, (Rpf, Members, BTreeSet<Output>, Amount)>,
    /// What it says that members of a stream have missed.
    missed: BTreeMap<(Stream, Output), Amount>,
    sent: BTreeMap<(IpAddr, Output), Amount>,
    dropped: BTreeMap<(IpAddr, Output), Amount>,
}

impl Readings for Plane {
    fn now(&self, stream: Stream) -> Amount {
        self.streams.get(&stream).map_or_else(Amount::default, |(.., counted)| *counted)
    }

    fn last(&self, _: Stream) -> Amount {
        unreachable!("so many streams are in no group here")
    }

    fn missed(&self, stream: Stream, member: Output) -> Amount {
        self.missed.get(&(stream, member)).copied().unwrap_or_default()
    }
}

impl Plane {
    fn apply(&mut self, op: FibOp) {
        match op {
            FibOp::SetStream(stream, rpf, members) => {
                let entry = (rpf, members, BTreeSet::new(), Amount::default());
                let known = self.streams.entry(stream).or_insert(entry);
                (known.0, known.1) = (rpf, members);
            }
            FibOp::RemoveStream(stream) => {
                self.streams.remove(&stream);
                self.missed.retain(|(of, _), _| *of != stream);
            }
            FibOp::AddMember(stream, member) => {
                self.streams.get_mut(&stream).expect("a stream").2.insert(member);
            }
            FibOp::RemoveMember(stream, member) => {
                self.streams.get_mut(&stream).expect("a stream").2.remove(&member);
                self.missed.remove(&(stream, member));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Sends packets, which are lost on the way to one member.
    fn send(&mut self, stream: Stream, amount: Amount, loses: Option<Output>) {
        let any = Stream { source: None, ..stream };
        let key = if self.streams.contains_key(&stream) { stream } else { any };
        let Some((rpf, members, own, counted)) = self.streams.get_mut(&key) else { return };
        *counted = counted.plus(amount);
        let rpf = *rpf;
        let (owner, to) = match members {
            Members::Own => (key, own.clone()),
            Members::OfAnySource => (any, self.streams[&any].2.clone()),
        };
        for member in to {
            let back = matches!((rpf, member), (Rpf::Exact(Input::Interface(from)), Output::Interface(to)) if from == to);
            if back {
                continue;
            }
            if loses == Some(member) {
                for dropped in [
                    self.missed.entry((owner, member)).or_default(),
                    self.dropped.entry((stream.group, member)).or_default(),
                ] {
                    *dropped = dropped.plus(amount);
                }
            } else {
                let sent = self.sent.entry((stream.group, member)).or_default();
                *sent = sent.plus(amount);
            }
        }
    }
}

struct Run {
    now: Instant,
    mrib: Mrib,
    plane: Plane,
    tally: Tally,
}

impl Run {
    fn new() -> Self {
        let now = crate::clock::now();
        let mut run = Self {
            now,
            mrib: Mrib::new(mrib::Config::default()),
            plane: Plane::default(),
            tally: Tally::default(),
        };
        run.input(mrib::Input::SetUpstream(Some(UPSTREAM)));
        run
    }

    fn input(&mut self, input: mrib::Input) {
        self.mrib.handle_input(self.now, input);
        self.drain();
    }

    /// As the router does.
    fn drain(&mut self) {
        while let Some(output) = self.mrib.poll_output() {
            match output {
                mrib::Output::Fib(op) => {
                    if let FibOp::RemoveMember(stream, member) = op {
                        let missed = self.plane.missed(stream, member);
                        self.tally.keep_missed(stream.group, member, missed);
                    }
                    if let FibOp::RemoveStream(stream) = op {
                        for ((of, member), missed) in &self.plane.missed {
                            if *of == stream {
                                self.tally.keep_missed(stream.group, *member, *missed);
                            }
                        }
                        let counted = self.plane.now(stream);
                        let filter_of = |member| self.mrib.filter_of(stream.group, member);
                        self.tally.remove_stream(stream, counted, filter_of);
                    }
                    self.plane.apply(op);
                    if let FibOp::SetStream(stream, rpf, _) = op {
                        let filter_of = |member| self.mrib.filter_of(stream.group, member);
                        self.tally.set_stream(stream, rpf, filter_of, &self.plane);
                    }
                }
                mrib::Output::Event(Event::MembershipChanged { group, member, old, new }) => {
                    if new.is_none() {
                        self.tally.leave(group, member);
                        self.plane.sent.remove(&(group, member));
                        self.plane.dropped.remove(&(group, member));
                    } else if old.is_none() {
                        self.tally.join(self.now, group, member, &new, &self.plane);
                    } else {
                        self.tally.change(group, member, (&old, &new), &self.plane);
                    }
                }
                mrib::Output::Interest { .. } | mrib::Output::Event(_) => {}
            }
        }
    }

    fn step(&mut self, step: Step) {
        let stream = |of, from| Stream { source: Some(source(from)), group: group(of) };
        match step {
            Step::Want(of, member, filter) => {
                self.input(mrib::Input::Membership { member, group: group(of), filter, account: None });
            }
            Step::Packets(of, from, count, length, loses) => {
                let (count, length) = (u64::from(count), u64::from(length));
                self.plane.send(stream(of, from), Amount { packets: count, bytes: count * length }, loses);
            }
            Step::Punt(of, from) => {
                let stream = stream(of, from);
                for input in [Input::Tunnel(UPSTREAM), Input::Interface(IfIndex(u32::from(from) + 1))] {
                    self.input(mrib::Input::NewSource { stream, input });
                }
            }
            Step::Interface(ifindex, accepts_sources) => {
                let link = IpAddr::from([10, 0, u8::try_from(ifindex).expect("a small number"), 0]);
                let on_link = vec![(link, 24)];
                let ifindex = IfIndex(ifindex);
                self.input(mrib::Input::SetInterface { ifindex, on_link, accepts_sources });
            }
            Step::Silence => {
                self.now += mrib::Config::default().keepalive_period;
                self.mrib.handle_timeout(self.now);
                self.drain();
            }
        }
    }

    fn check(&self) {
        let mut members = 0;
        for info in self.mrib.members() {
            members += 1;
            let joined = self.tally.joined(info.group, info.member, &info.filter, &self.plane);
            let sent = self.plane.sent.get(&(info.group, info.member)).copied().unwrap_or_default();
            assert_eq!(joined.map(|joined| joined.sent), Some(sent), "{info:?}");
            let dropped = self.plane.dropped.get(&(info.group, info.member)).copied().unwrap_or_default();
            assert_eq!(joined.map(|joined| joined.dropped), Some(dropped), "{info:?}");
        }
        assert_eq!(self.tally.joins.len(), members);
        assert!(self.tally.missed.len() <= members);
        let in_use: BTreeSet<IpAddr> = self.plane.streams.keys().map(|stream| stream.group).collect();
        assert_eq!(self.tally.groups.len(), in_use.len());
    }
}

proptest! {
    #[test]
    fn each_member_is_shown_what_it_was_sent_since_it_joined(steps in proptest::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.check();
        }
    }
}

#[test]
fn a_join_is_shown_to_a_tenth_of_a_second_and_a_second_one_does_not_change_it() {
    let (mut tally, plane, start) = (Tally::default(), Plane::default(), crate::clock::now());
    let (member, any) = (Output::Interface(IfIndex(1)), Filter::any());
    let after = |millis| start + std::time::Duration::from_millis(millis);
    tally.join(after(0), group(1), Output::Interface(IfIndex(2)), &any, &plane);
    tally.join(after(1_250), group(1), member, &any, &plane);
    tally.join(after(9_000), group(1), member, &any, &plane);
    let joined = tally.joined(group(1), member, &any, &plane).expect("a join");
    assert_eq!(joined.at, after(1_200));
    tally.leave(group(1), member);
    assert_eq!(tally.joined(group(1), member, &any, &plane), None);
}

/// Readings that say whether they were of now.
struct Stale;

impl Readings for Stale {
    fn now(&self, _: Stream) -> Amount {
        Amount { packets: 1, bytes: 100 }
    }

    fn last(&self, _: Stream) -> Amount {
        Amount::default()
    }

    fn missed(&self, _: Stream, _: Output) -> Amount {
        Amount::default()
    }
}

#[test]
fn a_join_to_a_group_of_very_many_streams_reads_none_of_them() {
    let (mut tally, member, any) = (Tally::default(), Output::Interface(IfIndex(1)), Filter::any());
    for number in 0..=READ_AT_ONCE {
        let source = Some(IpAddr::from([10, 9, 9, number as u8]));
        let stream = Stream { source, group: group(1) };
        tally.set_stream(stream, Rpf::AnyUpstream, |_| any.clone(), &Stale);
        tally.join(crate::clock::now(), group(1), member, &any, &Stale);
        let sent = tally.joined(group(1), member, &any, &Stale).expect("a join").sent.packets;
        // The first counts nothing since, the others before the join count for nobody.
        let readings = if number < READ_AT_ONCE { number as u64 } else { 0 };
        assert_eq!(sent, readings);
    }
}
