//! The machine.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::fib::{self, IfIndex, Rpf, Stream};

use super::{
    config::Config,
    group::{Context, Group},
    groups::Groups,
    info::{Counters, GroupInfo, MemberInfo, StreamInfo},
    input::Input,
    list::Lists,
    output::{Event, Output, Outputs},
    routes::Routes,
    shares::{Account, NoRoom},
    stated::Stated,
    timer::{Timer, Timers},
    waiting::{Membership, Waiting},
};
use crate::{Filter, Machine};

/// The multicast routing information base; see the [module](super) for its rules.
///
/// A member costs about 35 bytes, also with a source list that others have too.
#[derive(Debug)]
pub struct Mrib {
    config: Config,
    groups: Groups,
    lists: Lists,
    routes: Routes,
    stated: Stated,
    timers: Timers,
    outputs: Outputs,
    counters: Counters,
    /// Memberships for whose streams there was no room.
    waiting: Waiting,
    /// When it is tried whether there is now, or tried with those that have not been looked at.
    retry_at: Option<Instant>,
    /// New sources that stay under (*,G) for want of room, by group and source, and where each came in.
    passing: BTreeMap<(IpAddr, IpAddr), fib::Input>,
}

/// Such sources that are remembered.
const PASSING: usize = 1024;

/// How long after a stream ended those who wait are looked at: many may end at a time.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long after some were looked at the next ones are: nobody else is kept waiting by those who wait.
const TURN_INTERVAL: Duration = Duration::from_millis(50);

impl Mrib {
    /// Makes one without groups, interfaces or upstream.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            outputs: Outputs::new(config.streams),
            config,
            groups: Groups::default(),
            lists: Lists::default(),
            routes: Routes::default(),
            stated: Stated::default(),
            timers: Timers::default(),
            counters: Counters::default(),
            waiting: Waiting::default(),
            retry_at: None,
            passing: BTreeMap::new(),
        }
    }

    /// Every group with members, ascending; what a new upstream has to be told of.
    pub fn groups(&self) -> impl Iterator<Item = GroupInfo<'_>> {
        self.groups.iter().map(Group::info)
    }

    /// One group, `None` if it has no members.
    #[must_use]
    pub fn group(&self, group: IpAddr) -> Option<GroupInfo<'_>> {
        self.groups.get(group).map(Group::info)
    }

    /// The streams of a group: (*,G), then sources that lists name, then learnt ones.
    pub fn streams(&self, group: IpAddr) -> impl Iterator<Item = StreamInfo> {
        self.groups.get(group).into_iter().flat_map(Group::streams)
    }

    /// Who receives a stream: of (*,G) those in EXCLUDE mode, of (S,G) those who want S.
    pub fn receivers(&self, stream: Stream) -> impl Iterator<Item = fib::Output> {
        let group = self.groups.get(stream.group).into_iter();
        let any = group.clone().filter(move |_| stream.source.is_none()).flat_map(Group::wanting_any);
        let of_source = stream.source.into_iter();
        any.chain(
            of_source.flat_map(move |source| group.clone().flat_map(move |group| group.wanting(source))),
        )
    }

    /// Every member of every group, ascending by group, then by member.
    pub fn members(&self) -> impl Iterator<Item = MemberInfo> {
        self.groups.iter().flat_map(|group| self.told_of(group))
    }

    /// The members of one group.
    pub fn members_of(&self, group: IpAddr) -> impl Iterator<Item = MemberInfo> {
        self.groups.get(group).into_iter().flat_map(|group| self.told_of(group))
    }

    /// Memberships that wait for room and get nothing until then, ascending by group; those that get a part
    /// are among [`Mrib::members`].
    pub fn waiting(&self) -> impl Iterator<Item = MemberInfo> {
        self.waiting.iter().filter_map(|(&(group, number), waiting)| {
            let member = fib::Output::from_number(number)?;
            if !self.filter_of(group, member).is_none() {
                return None;
            }
            let is_stated = self.stated.contains(member, group);
            Some(MemberInfo { group, member, filter: waiting.filter.clone(), is_stated, waits: true })
        })
    }

    /// What a member is given of a group, [`Filter::none`] if it is none.
    #[must_use]
    pub fn filter_of(&self, group: IpAddr, member: fib::Output) -> Filter {
        self.groups.get(group).map_or_else(Filter::none, |group| group.filter_of(member))
    }

    /// The networks, with their prefix lengths in bits, whose sources are on-link.
    #[must_use]
    pub fn native_sources(&self) -> Vec<(IpAddr, u8)> {
        self.routes.native().collect()
    }

    /// The interface of the network above.
    #[must_use]
    pub fn upstream_interface(&self) -> Option<IfIndex> {
        self.routes.below.above()
    }

    /// The (S,G) that are accepted from nowhere.
    pub fn refused(&self) -> impl Iterator<Item = Stream> {
        self.routes.refused()
    }

    /// Whether an (S,G) is accepted from nowhere.
    #[must_use]
    pub fn is_refused(&self, stream: Stream) -> bool {
        self.routes.is_refused(stream)
    }

    /// Sources that flow under (*,G), as there was no room for an (S,G) of their own when they were last heard; not all
    /// of them, if there are many.
    pub fn passing(&self) -> impl Iterator<Item = Stream> {
        self.passing.keys().map(|&(group, source)| Stream { source: Some(source), group })
    }

    /// Whether a source that the data plane refuses under (*,G) is to be reported by [`Input::NewSource`]: the group takes
    /// only sources that are known, and this one is not.
    #[must_use]
    pub fn awaits_source(&self, stream: Stream) -> bool {
        self.is_closed(stream.group) && self.lacks_entry(stream)
    }

    /// Whether an (S,G) that comes in here is to be reported by [`Input::NewSource`] as one from below: it goes to the
    /// network above, or is accepted from here after all.
    #[must_use]
    pub fn goes_up(&self, stream: Stream, input: fib::Input) -> bool {
        let is_new = |source| !self.routes.below.contains(stream.group, source);
        let is_wanted = || self.is_allowed_up(stream.group) || self.routes.is_presumed_above(stream);
        let is_link = matches!(input, fib::Input::Interface(_)) || self.routes.is_presumed_above(stream);
        stream.source.is_some_and(is_new)
            && is_link
            && is_wanted()
            && self.routes.is_from_below(stream, input)
    }

    /// Whether an (S,G) would be served by (*,G), as it has no entry of its own.
    #[must_use]
    pub fn lacks_entry(&self, stream: Stream) -> bool {
        let group = self.groups.get(stream.group);
        group.zip(stream.source).is_some_and(|(group, source)| group.is_new(source))
    }

    fn told_of<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = MemberInfo> + 'a {
        group.members().map(|info| MemberInfo {
            is_stated: self.stated.contains(info.member, info.group),
            waits: self.waiting.contains(&(info.group, info.member.number())),
            ..info
        })
    }

    /// What was refused, by reason.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Checks that no list outlives the members that have it.
    #[cfg(test)]
    pub(super) fn check_nothing_is_left(&self, filters: &[Filter]) {
        let mut lists: Vec<&Filter> = Vec::new();
        for filter in filters.iter().filter(|filter| **filter != Filter::any()) {
            if !lists.contains(&filter) {
                lists.push(filter);
            }
        }
        assert_eq!(self.lists.len(), lists.len());
    }

    /// A member wants this from here on; it waits for what there is no room for.
    fn on_membership(
        &mut self,
        member: fib::Output,
        address: IpAddr,
        filter: &Filter,
        account: Option<Account>,
    ) {
        let key = (address, member.number());
        let waited = self.waiting.remove(&key);
        self.outputs.shares.charge(account);
        let Err(refusal) = self.outputs.shares.room(account, address, filter) else {
            return self.admit(member, address, filter);
        };
        // Who waits already and wants the same is no news.
        if waited.is_none_or(|waited| waited.filter != *filter) {
            let counter = match refusal {
                NoRoom::Full => &mut self.counters.streams_full,
                NoRoom::Share => &mut self.counters.share_exceeded,
            };
            *counter += 1;
            let (held, streams) = (self.outputs.shares.held(account), self.outputs.shares.len());
            self.outputs.event(Event::NoRoom { group: address, member, account, held, streams });
        }
        self.waiting.insert(key, Membership { filter: filter.clone(), account });
        let old = self.filter_of(address, member);
        let part = self.outputs.shares.without_new(address, &old, filter);
        self.admit(member, address, &part);
    }

    /// Tries whether there is room for those who wait, if a stream has ended since the last time.
    fn plan_retry(&mut self, now: Instant) {
        let is_planned = self.retry_at.is_some();
        if !is_planned && self.outputs.shares.take_freed() && !self.waiting.is_empty() {
            self.retry_at = Some(now + RETRY_INTERVAL);
        }
    }

    fn retry(&mut self, now: Instant) {
        if !self.waiting.is_in_round() {
            // What ends from here on is for the next round.
            self.outputs.shares.take_freed();
            self.waiting.start_round();
        }
        for (group, number) in self.waiting.take_turn() {
            let Some(Membership { filter, account }) = self.waiting.get(&(group, number)) else { continue };
            let account = *account;
            if let Some(member) = fib::Output::from_number(number)
                && self.outputs.shares.room(account, group, filter).is_ok()
            {
                let filter = filter.clone();
                self.on_membership(member, group, &filter, account);
            }
        }
        self.retry_at = self.waiting.is_in_round().then(|| now + TURN_INTERVAL);
    }

    /// Gives a member a filter whose streams there is room for.
    fn admit(&mut self, member: fib::Output, address: IpAddr, filter: &Filter) {
        let new = self.lists.store(filter);
        if new.is_none() && self.groups.get(address).is_none() {
            return;
        }
        let joins = new.is_some();
        // Where sources could not be refused when they are heard, none is taken before it is judged.
        let closes = match self.groups.get(address) {
            Some(group) if group.takes_any() => None,
            Some(_) | None => Some(!self.has_room_to_refuse(address)),
        };
        // What is stated is asked for, whoever gets it.
        let above = self.routes.below.member().filter(|above| !self.stated.contains(*above, address));
        let mut context =
            Context { routes: &self.routes, timers: &mut self.timers, outputs: &mut self.outputs };
        let group = self.groups.make(address);
        if let Some(closes) = closes {
            group.set_closed(closes, &mut context);
        }
        let old = group.replace(member, new, above, &mut context);
        if closes == Some(true) && group.takes_any() {
            self.counters.closed += 1;
            self.outputs.event(Event::AnySourceClosed { group: address });
        }
        if !joins {
            self.groups.drop_empty(address);
            if self.groups.get(address).is_none() {
                self.routes.forget_refused_beyond(address, self.config.learnt_sources_per_group);
            }
            if !self.passing.is_empty() && self.groups.get(address).is_none() {
                self.passing.retain(|(group, _), _| *group != address);
            }
        }
        if let Some(old) = old {
            self.lists.release(old);
        }
    }

    fn on_stated(&mut self, member: fib::Output, address: IpAddr, filter: &Filter) {
        let groups = &self.groups;
        let reported = || groups.get(address).map_or_else(Filter::none, |group| group.filter_of(member));
        let merged = self.stated.state(member, address, filter, reported);
        self.on_membership(member, address, &merged, None);
    }

    fn on_stated_input(&mut self, stream: Stream, rpf: Option<Rpf>) {
        self.routes.state(stream, rpf);
        self.reroute(stream.group);
    }

    fn reroute(&mut self, group: IpAddr) {
        let mut context =
            Context { routes: &self.routes, timers: &mut self.timers, outputs: &mut self.outputs };
        if let Some(group) = self.groups.get_mut(group) {
            group.reroute(&mut context);
        }
    }

    fn on_member_gone(&mut self, member: fib::Output) {
        if self.routes.below.member() == Some(member) {
            self.routes.below.set_above(None, &mut self.timers);
        }
        self.stated.forget(member);
        self.waiting.forget(member.number());
        let groups: Vec<_> = self.groups.of_member(member).collect();
        for group in groups {
            self.admit(member, group, &Filter::none());
        }
    }

    fn on_routes_changed(&mut self, now: Instant) {
        let mut context =
            Context { routes: &self.routes, timers: &mut self.timers, outputs: &mut self.outputs };
        for group in self.groups.iter_mut() {
            group.reroute(&mut context);
        }
        if self.routes.below.above().is_some() {
            let listed =
                self.groups.iter().flat_map(|group| group.listed().map(|source| (group.address(), source)));
            let listed: Vec<_> =
                listed.filter(|(group, source)| !self.routes.below.contains(*group, *source)).collect();
            for (group, source) in listed {
                self.hear_on_link(now, Stream { source: Some(source), group });
            }
        }
    }

    /// Another network is above, or none. What went up to the one before goes there no longer.
    fn on_upstream_interface(&mut self, now: Instant, above: Option<IfIndex>) {
        if self.routes.below.above() == above {
            return;
        }
        let before = self.routes.below.member();
        let groups: Vec<_> = before.into_iter().flat_map(|before| self.groups.of_member(before)).collect();
        self.routes.below.set_above(above, &mut self.timers);
        if let Some(before) = before {
            for group in groups {
                self.report(before, group, &Filter::none(), None);
            }
        }
        self.on_routes_changed(now);
    }

    /// A member reports what it wants, beside what is stated of it.
    fn report(&mut self, member: fib::Output, group: IpAddr, filter: &Filter, account: Option<Account>) {
        let merged = self.stated.report(member, group, filter);
        self.on_membership(member, group, merged.as_ref().unwrap_or(filter), account);
    }

    /// Sources that lists name send, as far as is known, if they are on-link below: the data plane does not tell of
    /// those that have an entry.
    fn hear_named(&mut self, now: Instant, group: IpAddr, filter: &Filter) {
        if self.routes.below.above().is_none() {
            return;
        }
        let (Filter::Include(sources) | Filter::Exclude(sources)) = filter;
        for &source in sources {
            if !self.routes.below.contains(group, source) {
                self.hear_on_link(now, Stream { source: Some(source), group });
            }
        }
    }

    fn hear_on_link(&mut self, now: Instant, stream: Stream) {
        if let Rpf::Exact(input @ fib::Input::Interface(_)) = self.routes.rpf_of(stream)
            && self.goes_up(stream, input)
        {
            self.on_below(now, stream, input);
        }
    }

    fn is_allowed_up(&self, group: IpAddr) -> bool {
        self.config.groups_up.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(group)))
    }

    /// A new source sends elsewhere than above; says whether it has an (S,G) now.
    fn on_below(&mut self, now: Instant, stream: Stream, input: fib::Input) -> bool {
        let Some((source, above)) = stream.source.zip(self.routes.below.member()) else { return false };
        let key = (stream.group, source);
        if self.routes.below.len_of(stream.group) >= self.config.learnt_sources_per_group {
            self.counters.group_limit += 1;
            return false;
        }
        if self.routes.below.len() >= self.config.learnt_sources {
            self.counters.total_limit += 1;
            return false;
        }
        let account = match input {
            fib::Input::Interface(ifindex) => Some(Account::Interface(ifindex)),
            fib::Input::Tunnel(_) => None,
        };
        let goes_up = account.is_some() && self.is_allowed_up(stream.group);
        let silent_at = now + self.config.keepalive_period;
        let below = &mut self.routes.below;
        below.hear(key, goes_up, silent_at, &mut self.timers);
        let filter = below.filter(stream.group);
        self.passing.remove(&key);
        self.report(above, stream.group, &filter, account);
        self.reroute(stream.group);
        self.outputs.shares.contains(stream)
    }

    fn on_silent_below(&mut self, now: Instant, stream: Stream) {
        let Some((source, above)) = stream.source.zip(self.routes.below.member()) else { return };
        self.routes.below.forget(stream.group, source);
        let is_listed =
            self.groups.get(stream.group).is_some_and(|group| group.is_listed_beside(above, source));
        if is_listed {
            self.hear_on_link(now, stream);
        }
        if !self.routes.below.contains(stream.group, source) {
            let filter = self.routes.below.filter(stream.group);
            self.report(above, stream.group, &filter, None);
            self.reroute(stream.group);
        }
    }

    fn on_new_source(&mut self, now: Instant, stream: Stream, input: fib::Input) {
        let new = stream.source.and_then(|source| {
            let group = self.groups.get_mut(stream.group).filter(|group| group.is_new(source))?;
            Some((source, group))
        });
        let Some((source, group)) = new else {
            self.counters.not_needed += 1;
            return;
        };
        let rpf = self.routes.rpf_of(stream);
        let key = (stream.group, source);
        self.passing.remove(&key);
        // One that is refused gets an entry, so that (*,G) does not serve it. They have as much room as the others.
        let of_group = self.config.learnt_sources_per_group;
        let of_all = self.config.learnt_sources;
        let room_of_group = of_group + self.routes.refused_of(stream.group).min(of_group);
        let room_of_all = of_all + self.routes.refused_len().min(of_all);
        if !self.routes.accepts(rpf, input) && !self.routes.is_refused(stream) {
            self.counters.wrong_input += 1;
        } else if group.learnt() >= room_of_group {
            self.counters.group_limit += 1;
            let is_closed = group.is_closed();
            self.pass(key, input, is_closed);
        // Every learnt source has one timer, and every one that is heard below.
        } else if self.timers.len() - self.routes.below.len() >= room_of_all
            || self.outputs.shares.len() >= self.config.streams
        {
            self.counters.total_limit += 1;
            let is_closed = group.is_closed();
            self.pass(key, input, is_closed);
        } else {
            self.outputs.shares.charge(None);
            let mut context =
                Context { routes: &self.routes, timers: &mut self.timers, outputs: &mut self.outputs };
            group.learn(source, rpf, now + self.config.keepalive_period, &mut context);
            self.outputs.event(Event::SourceLearnt { stream, input });
        }
    }

    /// Gives those who may not send their entries before they are heard under a new (*,G).
    fn shut_out(&mut self, now: Instant, address: IpAddr) {
        let Some(group) = self.groups.get_mut(address) else { return };
        for source in self.routes.refused_sources(address) {
            if group.is_new(source) && self.outputs.shares.len() < self.config.streams {
                self.outputs.shares.charge(None);
                let rpf = self.routes.rpf_of(Stream { source: Some(source), group: address });
                let mut context =
                    Context { routes: &self.routes, timers: &mut self.timers, outputs: &mut self.outputs };
                group.learn(source, rpf, now + self.config.keepalive_period, &mut context);
            }
        }
    }

    /// Remembers a source that stays under (*,G), if it flows there.
    fn pass(&mut self, key: (IpAddr, IpAddr), input: fib::Input, is_closed: bool) {
        if is_closed {
            return;
        }
        if self.passing.len() >= PASSING {
            self.passing.pop_first();
        }
        self.passing.insert(key, input);
    }

    /// Accepts an (S,G) from nowhere, or from where it was again. One that flows under (*,G) is cut at once.
    fn on_refuse(&mut self, now: Instant, stream: Stream, refused: bool) {
        let Some(source) = stream.source else { return };
        if refused && !self.routes.is_refused(stream) {
            // One that a list names has an entry anyhow.
            let is_listed = self.groups.get(stream.group).is_some_and(|group| group.is_listed(source));
            let has_room = match is_listed {
                true => self.routes.refused_len() < self.config.streams,
                false => self.has_room_to_refuse(stream.group) && !self.is_closed(stream.group),
            };
            if !has_room {
                self.counters.refused_limit += 1;
                self.close(stream);
                return;
            }
        }
        self.routes.refuse(stream, refused);
        self.reroute(stream.group);
        if refused && let Some(input) = self.passing.remove(&(stream.group, source)) {
            self.on_new_source(now, stream, input);
        }
    }

    /// Whether another source of a group can be refused by an entry of its own.
    fn has_room_to_refuse(&self, group: IpAddr) -> bool {
        let of_all = self.routes.refused_len();
        let of_group = self.config.learnt_sources_per_group;
        // They need be counted only where there are many.
        of_all < self.config.learnt_sources && (of_all < of_group || self.routes.refused_of(group) < of_group)
    }

    fn is_closed(&self, group: IpAddr) -> bool {
        self.groups.get(group).is_some_and(Group::is_closed)
    }

    /// A source may not send, and cannot be refused by an entry of its own: (*,G) takes nothing from here on.
    fn close(&mut self, stream: Stream) {
        let (Some(source), Some(group)) = (stream.source, self.groups.get_mut(stream.group)) else { return };
        let mut context =
            Context { routes: &self.routes, timers: &mut self.timers, outputs: &mut self.outputs };
        let closed = group.set_closed(true, &mut context);
        // Nor does it flow by an entry from before it was forbidden.
        if group.forget(source, &mut self.timers) {
            self.outputs.remove_stream(stream);
        }
        if closed {
            self.counters.closed += 1;
            self.passing.retain(|(group, _), _| *group != stream.group);
            self.outputs.event(Event::AnySourceClosed { group: stream.group });
        }
    }

    /// Lets those groups take any source again in which all that may not send can be refused.
    fn reopen(&mut self) {
        let closed = self.groups.iter().filter(|group| group.is_closed()).map(Group::address);
        let open: Vec<_> = closed.filter(|group| self.has_room_to_refuse(*group)).collect();
        let mut context =
            Context { routes: &self.routes, timers: &mut self.timers, outputs: &mut self.outputs };
        for address in open {
            if let Some(group) = self.groups.get_mut(address) {
                group.set_closed(false, &mut context);
            }
        }
    }

    fn on_stream_active(&mut self, now: Instant, stream: Stream, packets: u64) {
        if let Some(source) = stream.source {
            let period = self.config.keepalive_period;
            let key = (stream.group, source);
            self.routes.below.on_active(key, packets, now, period, &mut self.timers);
        }
        if let Some(source) = stream.source
            && let Some(group) = self.groups.get_mut(stream.group)
        {
            group.on_active(source, packets, now, self.config.keepalive_period, &mut self.timers);
        }
    }

    fn on_silent(&mut self, now: Instant, stream: Stream) {
        // A source that is refused is silent here, and sends on.
        if self.routes.is_refused(stream)
            && let Some(source) = stream.source
            && let Some(group) = self.groups.get_mut(stream.group)
        {
            group.stay(source, now + self.config.keepalive_period, &mut self.timers);
            return;
        }
        if let Some(source) = stream.source
            && let Some(group) = self.groups.get_mut(stream.group)
            && group.forget(source, &mut self.timers)
        {
            self.outputs.remove_stream(stream);
            self.outputs.event(Event::SourceSilent { stream });
        }
    }
}

impl Machine for Mrib {
    type Input<'a> = Input;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Membership { member, group, filter, account } => {
                self.report(member, group, &filter, account);
                self.hear_named(now, group, &filter);
                self.shut_out(now, group);
            }
            Input::Stated { member, group, filter } => {
                self.on_stated(member, group, &filter);
                self.hear_named(now, group, &filter);
                self.shut_out(now, group);
            }
            Input::StatedInput { stream, rpf } => self.on_stated_input(stream, rpf),
            Input::Refuse { stream, refused } => self.on_refuse(now, stream, refused),
            Input::Reopen => self.reopen(),
            Input::MemberGone { member } => self.on_member_gone(member),
            Input::SetUpstream(upstream) => {
                self.routes.set_upstream(upstream);
                self.on_routes_changed(now);
            }
            Input::SourceTunnel { stream, tunnel } => {
                self.routes.set_source_tunnel(stream, tunnel);
                self.reroute(stream.group);
            }
            Input::SetInterface { ifindex, on_link, accepts_sources } => {
                self.routes.set_interface(ifindex, on_link, accepts_sources);
                self.on_routes_changed(now);
            }
            Input::RemoveInterface { ifindex } => {
                if self.routes.below.above() == Some(ifindex) {
                    self.on_upstream_interface(now, None);
                }
                self.routes.remove_interface(ifindex);
                self.on_routes_changed(now);
            }
            Input::SetUpstreamInterface(above) => self.on_upstream_interface(now, above),
            Input::NewSource { stream, input } => {
                let has_entry = self.goes_up(stream, input) && self.on_below(now, stream, input);
                if !has_entry {
                    self.on_new_source(now, stream, input);
                }
            }
            Input::StreamActive { stream, packets } => self.on_stream_active(now, stream, packets),
        }
        self.plan_retry(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Keepalive(stream) => self.on_silent(now, stream),
                Timer::Below(stream) => self.on_silent_below(now, stream),
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry(now);
        }
        self.plan_retry(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.retry_at).min()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop()
    }
}
