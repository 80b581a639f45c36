//! One group: its members, its streams, their merged filter.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::fib::{self, Members, Rpf, Stream};

use super::{
    info::{GroupInfo, MemberInfo, StreamInfo},
    list::Stored,
    output::{Event, Outputs},
    routes::{NOWHERE, Routes},
    timer::{Timer, Timers},
};
use crate::{Few, Filter};

/// A group with its members.
#[derive(Debug)]
pub(super) struct Group {
    address: IpAddr,
    /// By the number of the output, which takes half its space.
    members: Few<u32, Stored>,
    /// Members in EXCLUDE mode; (*,G) exists while there is one.
    exclude_mode: usize,
    listed: BTreeMap<IpAddr, Listed>,
    learnt: BTreeMap<IpAddr, Learnt>,
    interest: Filter,
    /// That of (*,G), while it exists.
    any_rpf: Rpf,
    /// Whether (*,G) takes nothing: only sources with an (S,G) are forwarded.
    is_closed: bool,
}

/// An (S,G) whose S some member's list names.
#[derive(Debug)]
struct Listed {
    /// Members whose INCLUDE list names it.
    include: usize,
    /// Members whose EXCLUDE list names it.
    exclude: usize,
    rpf: Rpf,
}

/// An (S,G) that shares the members of (*,G).
#[derive(Debug)]
struct Learnt {
    rpf: Rpf,
    packets: u64,
    silent_at: Instant,
}

/// What of the machine a change of a group touches.
pub(super) struct Context<'a> {
    pub(super) routes: &'a Routes,
    pub(super) timers: &'a mut Timers,
    pub(super) outputs: &'a mut Outputs,
}

/// A member's filter before and after.
struct Change<'a> {
    member: fib::Output,
    old: Option<&'a Stored>,
    new: Option<&'a Stored>,
}

impl Change<'_> {
    fn was_exclude(&self) -> bool {
        self.old.is_some_and(Stored::is_exclude)
    }

    fn is_exclude(&self) -> bool {
        self.new.is_some_and(Stored::is_exclude)
    }

    fn wanted(&self, source: IpAddr) -> bool {
        self.old.is_some_and(|filter| filter.wants(source))
    }

    fn wants(&self, source: IpAddr) -> bool {
        self.new.is_some_and(|filter| filter.wants(source))
    }

    fn old_sources(&self) -> &[IpAddr] {
        self.old.map_or(&[], Stored::sources)
    }

    fn new_sources(&self) -> &[IpAddr] {
        self.new.map_or(&[], Stored::sources)
    }
}

impl Group {
    pub(super) const fn new(address: IpAddr) -> Self {
        Self {
            address,
            members: Few::new(),
            exclude_mode: 0,
            listed: BTreeMap::new(),
            learnt: BTreeMap::new(),
            interest: Filter::none(),
            any_rpf: Rpf::AnyUpstream,
            is_closed: false,
        }
    }

    pub(super) const fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Replaces a member's filter, `None` being no membership, and returns the old one. What `above` has in INCLUDE mode
    /// is no interest.
    pub(super) fn replace(
        &mut self,
        member: fib::Output,
        new: Option<Stored>,
        above: Option<fib::Output>,
        context: &mut Context<'_>,
    ) -> Option<Stored> {
        let old = match new.clone() {
            Some(filter) => self.members.insert(member.number(), filter),
            None => self.members.remove(&member.number()),
        };
        if old == new {
            return old;
        }
        let filter = |stored: &Option<Stored>| stored.as_ref().map_or_else(Filter::none, Stored::filter);
        context.outputs.event(Event::MembershipChanged {
            group: self.address,
            member,
            old: filter(&old),
            new: filter(&new),
        });
        let change = Change { member, old: old.as_ref(), new: new.as_ref() };
        let had_any_source = self.exclude_mode > 0;
        let fresh = self.recount(&change, context.routes);
        for &source in &fresh {
            self.open(source, had_any_source, &change, context);
        }
        self.place_in_listed(&change, &fresh, context.outputs);
        self.place_in_any_source(&change, had_any_source, context);
        self.close(&change, had_any_source, context);
        self.update_interest(above, context.outputs);
        old
    }

    /// Takes the change into the counts; returns the sources that no list named before, ascending.
    fn recount(&mut self, change: &Change<'_>, routes: &Routes) -> Vec<IpAddr> {
        match (change.was_exclude(), change.is_exclude()) {
            (false, true) => self.exclude_mode += 1,
            (true, false) => self.exclude_mode -= 1,
            (false, false) | (true, true) => {}
        }
        let mut fresh = Vec::new();
        let group = self.address;
        for &source in change.new_sources() {
            let listed = self.listed.entry(source).or_insert_with(|| {
                fresh.push(source);
                let rpf = routes.rpf_of(Stream { source: Some(source), group });
                Listed { include: 0, exclude: 0, rpf }
            });
            *listed.count(change.is_exclude()) += 1;
        }
        for source in change.old_sources() {
            if let Some(listed) = self.listed.get_mut(source) {
                *listed.count(change.was_exclude()) -= 1;
            }
        }
        fresh
    }

    /// Makes the (S,G) of a source that was not listed. Whoever had S from (*,G) has it throughout:
    /// the entry shares the members of (*,G) until its own are complete.
    fn open(&mut self, source: IpAddr, had_any_source: bool, change: &Change<'_>, context: &mut Context<'_>) {
        let stream = self.stream(source);
        let Some(rpf) = self.listed.get(&source).map(|listed| listed.rpf) else { return };
        let was_learnt = self.forget(source, context.timers);
        let nobody = self.count(source) == 0;
        let shares = had_any_source && !nobody;
        if shares && !was_learnt {
            context.outputs.set_stream(stream, rpf, Members::OfAnySource);
        }
        if !shares {
            context.outputs.set_stream(stream, rpf, Members::Own);
        }
        if self.exclude_mode > 0 {
            for member in self.wanting(source) {
                context.outputs.add_member(stream, member);
            }
        } else if change.wants(source) {
            context.outputs.add_member(stream, change.member);
        }
        if shares {
            context.outputs.set_stream(stream, rpf, Members::Own);
        }
    }

    /// Adds the member to listed streams that it now wants, and removes it from those that it no
    /// longer does. A new mode concerns every listed source, new lists only those in them.
    fn place_in_listed(&self, change: &Change<'_>, fresh: &[IpAddr], outputs: &mut Outputs) {
        let mut place = |source: IpAddr| {
            if fresh.binary_search(&source).is_ok() {
                return;
            }
            let stream = self.stream(source);
            match (change.wanted(source), change.wants(source)) {
                (true, false) => outputs.remove_member(stream, change.member),
                // A stream that goes leaves the member to (*,G).
                (false, true) if self.is_listed(source) => outputs.add_member(stream, change.member),
                (false, true) | (true, true) | (false, false) => {}
            }
        };
        if change.was_exclude() == change.is_exclude() {
            change.old_sources().iter().copied().for_each(&mut place);
            for &source in change.new_sources() {
                if change.old_sources().binary_search(&source).is_err() {
                    place(source);
                }
            }
        } else {
            self.listed.keys().copied().for_each(place);
        }
    }

    fn place_in_any_source(&mut self, change: &Change<'_>, had_any_source: bool, context: &mut Context<'_>) {
        let stream = self.any_source();
        match (change.was_exclude(), change.is_exclude()) {
            (false, true) => {
                if !had_any_source {
                    self.any_rpf = self.any_rpf(context.routes);
                    context.outputs.set_stream(stream, self.any_rpf, Members::Own);
                }
                context.outputs.add_member(stream, change.member);
            }
            (true, false) => context.outputs.remove_member(stream, change.member),
            (false, false) | (true, true) => {}
        }
    }

    /// Removes the streams that have no reason any more.
    fn close(&mut self, change: &Change<'_>, had_any_source: bool, context: &mut Context<'_>) {
        for &source in change.old_sources() {
            if !self.is_listed(source) && self.listed.remove(&source).is_some() {
                context.outputs.remove_stream(self.stream(source));
            }
        }
        if had_any_source && self.exclude_mode == 0 {
            for (source, learnt) in std::mem::take(&mut self.learnt) {
                let stream = self.stream(source);
                context.timers.stop(learnt.silent_at, Timer::Keepalive(stream));
                context.outputs.remove_stream(stream);
            }
            context.outputs.remove_stream(self.any_source());
        }
    }

    /// Gives out the merged filter if it is another one than before (RFC 9776 §3.2).
    fn update_interest(&mut self, above: Option<fib::Output>, outputs: &mut Outputs) {
        let exclude = self.exclude_mode > 0;
        let above = above.and_then(|member| self.members.get(&member.number()));
        let above = above.filter(|filter| !filter.is_exclude());
        let merged = || {
            self.listed.iter().filter_map(|(source, listed)| {
                let include = listed.include - usize::from(above.is_some_and(|filter| filter.wants(*source)));
                let named =
                    if exclude { listed.exclude == self.exclude_mode && include == 0 } else { include > 0 };
                named.then_some(source)
            })
        };
        let same = match &self.interest {
            Filter::Include(sources) => !exclude && merged().eq(sources),
            Filter::Exclude(sources) => exclude && merged().eq(sources),
        };
        if !same {
            let sources = merged().copied().collect();
            self.interest = if exclude { Filter::Exclude(sources) } else { Filter::Include(sources) };
            outputs.interest(self.address, self.interest.clone());
        }
    }

    /// Whether (*,G) serves `source` without an (S,G), so that it could be learnt.
    pub(super) fn is_new(&self, source: IpAddr) -> bool {
        self.exclude_mode > 0 && !self.is_listed(source) && !self.learnt.contains_key(&source)
    }

    /// How many sources are learnt.
    pub(super) fn learnt(&self) -> usize {
        self.learnt.len()
    }

    /// Gives a new source its (S,G) under (*,G)'s members.
    pub(super) fn learn(&mut self, source: IpAddr, rpf: Rpf, silent_at: Instant, context: &mut Context<'_>) {
        let stream = self.stream(source);
        self.learnt.insert(source, Learnt { rpf, packets: 0, silent_at });
        context.timers.start(silent_at, Timer::Keepalive(stream));
        context.outputs.set_stream(stream, rpf, Members::OfAnySource);
    }

    /// Restarts the keepalive timer of a learnt source whose counter moved.
    pub(super) fn on_active(
        &mut self,
        source: IpAddr,
        packets: u64,
        now: Instant,
        keepalive_period: Duration,
        timers: &mut Timers,
    ) {
        let stream = self.stream(source);
        let Some(learnt) = self.learnt.get_mut(&source) else { return };
        if learnt.packets != packets {
            learnt.packets = packets;
            timers.stop(learnt.silent_at, Timer::Keepalive(stream));
            learnt.silent_at = now + keepalive_period;
            timers.start(learnt.silent_at, Timer::Keepalive(stream));
        }
    }

    /// Keeps a learnt source until a later time.
    pub(super) fn stay(&mut self, source: IpAddr, silent_at: Instant, timers: &mut Timers) {
        let stream = self.stream(source);
        let Some(learnt) = self.learnt.get_mut(&source) else { return };
        timers.stop(learnt.silent_at, Timer::Keepalive(stream));
        learnt.silent_at = silent_at;
        timers.start(silent_at, Timer::Keepalive(stream));
    }

    /// Forgets a learnt source and its timer; says whether there was one.
    pub(super) fn forget(&mut self, source: IpAddr, timers: &mut Timers) -> bool {
        let Some(learnt) = self.learnt.remove(&source) else { return false };
        timers.stop(learnt.silent_at, Timer::Keepalive(self.stream(source)));
        true
    }

    fn any_rpf(&self, routes: &Routes) -> Rpf {
        if self.is_closed { NOWHERE } else { routes.rpf_of(self.any_source()) }
    }

    /// Whether (*,G) takes nothing.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Has (*,G) take nothing, or what it takes otherwise; says whether it was not so.
    pub(super) fn set_closed(&mut self, closed: bool, context: &mut Context<'_>) -> bool {
        let changes = self.is_closed != closed;
        if changes {
            self.is_closed = closed;
            self.reroute(context);
        }
        changes
    }

    /// Whether (*,G) exists.
    pub(super) const fn takes_any(&self) -> bool {
        self.exclude_mode > 0
    }

    /// Looks up the RPF of every stream anew and sets those that differ.
    pub(super) fn reroute(&mut self, context: &mut Context<'_>) {
        let any_source = self.any_source();
        let now = self.any_rpf(context.routes);
        if self.exclude_mode > 0 && self.any_rpf != now {
            self.any_rpf = now;
            context.outputs.set_stream(any_source, now, Members::Own);
        }
        let listed = self.listed.iter_mut().map(|(source, s)| (source, &mut s.rpf, Members::Own));
        let learnt = self.learnt.iter_mut().map(|(source, s)| (source, &mut s.rpf, Members::OfAnySource));
        for (&source, rpf, members) in listed.chain(learnt) {
            let stream = Stream { source: Some(source), group: self.address };
            let now = context.routes.rpf_of(stream);
            if *rpf != now {
                *rpf = now;
                context.outputs.set_stream(stream, now, members);
            }
        }
    }

    pub(super) fn info(&self) -> GroupInfo<'_> {
        GroupInfo {
            group: self.address,
            members: self.members.len(),
            exclude_mode: self.exclude_mode,
            interest: &self.interest,
        }
    }

    /// Every stream: (*,G), then listed sources, then learnt ones.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamInfo> {
        let any_source = (self.exclude_mode > 0).then(|| StreamInfo {
            stream: self.any_source(),
            rpf: self.any_rpf,
            source: Members::Own,
            members: self.exclude_mode,
        });
        let listed = self.listed.iter().map(|(&source, listed)| StreamInfo {
            stream: self.stream(source),
            rpf: listed.rpf,
            source: Members::Own,
            members: self.count(source),
        });
        let learnt = self.learnt.iter().map(|(&source, learnt)| StreamInfo {
            stream: self.stream(source),
            rpf: learnt.rpf,
            source: Members::OfAnySource,
            members: self.exclude_mode,
        });
        any_source.into_iter().chain(listed).chain(learnt)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = MemberInfo> {
        self.filters().map(|(member, filter)| MemberInfo {
            group: self.address,
            member,
            filter: filter.filter(),
            is_stated: false,
            waits: false,
        })
    }

    /// What a member wants.
    pub(super) fn filter_of(&self, member: fib::Output) -> Filter {
        self.members.get(&member.number()).map_or_else(Filter::none, Stored::filter)
    }

    pub(super) fn has_member(&self, member: fib::Output) -> bool {
        self.members.contains_key(&member.number())
    }

    /// The members that want a source.
    pub(super) fn wanting(&self, source: IpAddr) -> impl Iterator<Item = fib::Output> {
        self.filters().filter(move |(_, filter)| filter.wants(source)).map(|(member, _)| member)
    }

    /// The members that want every source which has no (S,G).
    pub(super) fn wanting_any(&self) -> impl Iterator<Item = fib::Output> {
        self.filters().filter(|(_, filter)| filter.is_exclude()).map(|(member, _)| member)
    }

    fn filters(&self) -> impl Iterator<Item = (fib::Output, &Stored)> {
        self.members.iter().filter_map(|(&number, filter)| Some((fib::Output::from_number(number)?, filter)))
    }

    /// How many members want a source.
    fn count(&self, source: IpAddr) -> usize {
        self.listed
            .get(&source)
            .map_or(self.exclude_mode, |listed| self.exclude_mode - listed.exclude + listed.include)
    }

    /// The sources that members' lists name.
    pub(super) fn listed(&self) -> impl Iterator<Item = IpAddr> {
        self.listed.keys().copied()
    }

    /// Whether a list of somebody else than this member names a source.
    pub(super) fn is_listed_beside(&self, member: fib::Output, source: IpAddr) -> bool {
        let own = self.members.get(&member.number());
        let own = own.is_some_and(|filter| filter.sources().binary_search(&source).is_ok());
        self.listed.get(&source).is_some_and(|listed| listed.include + listed.exclude > usize::from(own))
    }

    /// Whether some member's list names a source.
    pub(super) fn is_listed(&self, source: IpAddr) -> bool {
        self.listed.get(&source).is_some_and(|listed| listed.include + listed.exclude > 0)
    }

    const fn stream(&self, source: IpAddr) -> Stream {
        Stream { source: Some(source), group: self.address }
    }

    const fn any_source(&self) -> Stream {
        Stream { source: None, group: self.address }
    }
}

impl Listed {
    fn count(&mut self, exclude: bool) -> &mut usize {
        if exclude { &mut self.exclude } else { &mut self.include }
    }
}
