//! The querier.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Instant,
};

use vmcast_common::hdr::eth::Mac;
use vmcast_wire::{igmp, membership::Message, mld};

use super::{
    Family, Version,
    address::is_neighbour,
    config::{Config, ConfigError, Variables},
    counters::{Counters, Refusal},
    election::Query,
    group::{Deadlines, Group},
    handover::Handover,
    host::{Host, Hosts, Reporter},
    info::{GroupInfo, HostInfo},
    input::Input,
    keeping::Keeping,
    output::{Event, Output},
    query,
    startup::Startup,
    timer::{Timer, Timers},
};
use crate::{Filter, Machine};

/// The multicast router's side of IGMP or MLD on one interface.
///
/// It starts as the querier and takes part in the election. Outputs are to be drained after every
/// call, as [`Machine`] asks.
#[derive(Debug)]
pub struct Querier {
    pub(super) config: Config,
    pub(super) variables: Variables,
    pub(super) role: Role,
    pub(super) handover: Handover,
    pub(super) groups: BTreeMap<IpAddr, Group>,
    pub(super) hosts: Hosts,
    /// Sources of all groups, as [`Config::max_sources`] counts them.
    pub(super) listed: usize,
    pub(super) timers: Timers,
    pub(super) outputs: VecDeque<Output>,
    pub(super) counters: Counters,
    /// When another version than ours was last told of.
    pub(super) other_version_told: Option<Instant>,
    /// When a router that may not be the querier was last told of.
    pub(super) not_allowed_told: Option<Instant>,
    pub(super) keeping: Keeping,
    pub(super) startup: Startup,
}

/// Our part on the link (RFC 9776 §6.6.2, RFC 9777 §7.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// We ask: the time of the next General Query, and how many are left to send of the startup.
    Querier { next_query: Instant, startup_left: u8 },
    /// Another router asks, and is believed to be there until its timer ends.
    NonQuerier { querier: IpAddr, present_until: Instant },
}

/// What a change of a group is measured by.
pub(super) struct Snapshot {
    filter: Filter,
    deadlines: Deadlines,
    listed: usize,
}

impl Snapshot {
    pub(super) fn of(group: &Group) -> Self {
        Self { filter: group.filter(), deadlines: group.deadlines(), listed: group.listed() }
    }

    /// Of a group that is not there.
    pub(super) fn none() -> Self {
        Self { filter: Filter::none(), deadlines: Deadlines::default(), listed: 0 }
    }
}

impl Querier {
    /// Starts on an interface: the first General Query is ready to be sent.
    ///
    /// # Errors
    /// If the configuration cannot work.
    pub fn new(now: Instant, config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let startup_left = config.startup_query_count() - 1;
        let mut querier = Self {
            variables: Variables::own(&config),
            role: Role::Querier { next_query: now, startup_left },
            groups: BTreeMap::new(),
            hosts: Hosts::default(),
            listed: 0,
            timers: Timers::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            other_version_told: None,
            not_allowed_told: None,
            keeping: Keeping::default(),
            handover: Handover::new(),
            startup: Startup::new(now, &config),
            config,
        };
        querier.timers.reschedule(Timer::GeneralQuery, None, Some(now));
        querier.handle_timeout(now);
        Ok(querier)
    }

    /// The configuration, with our present address.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The elected querier's address, `None` if it is us.
    #[must_use]
    pub const fn querier(&self) -> Option<IpAddr> {
        match self.role {
            Role::Querier { .. } => None,
            Role::NonQuerier { querier, .. } => Some(querier),
        }
    }

    /// Whether the link's members are served by us, and not left to another querier.
    #[must_use]
    pub const fn serves(&self) -> bool {
        !self.handover.is_left()
    }

    /// What was heard, said and refused.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Every group with members, by address.
    pub fn groups(&self, now: Instant) -> impl ExactSizeIterator<Item = GroupInfo> + '_ {
        self.groups.iter().map(move |(group, state)| GroupInfo::new(now, *group, state))
    }

    /// The hosts of a group that are told apart, by address.
    #[must_use]
    pub fn hosts(&self, now: Instant, group: IpAddr) -> Vec<HostInfo> {
        let state = self.groups.get(&group);
        state.map_or_else(Vec::new, |state| GroupInfo::new(now, group, state).hosts)
    }

    /// What is to be forwarded to a group at present.
    #[must_use]
    pub fn filter(&self, group: IpAddr) -> Filter {
        self.groups.get(&group).map_or_else(Filter::none, Group::filter)
    }

    #[cfg(test)]
    pub(super) const fn timers(&self) -> &Timers {
        &self.timers
    }

    #[cfg(test)]
    pub(super) fn group(&self, group: IpAddr) -> Option<&Group> {
        self.groups.get(&group)
    }

    pub(super) fn on_datagram(&mut self, now: Instant, input: Datagram<'_>) -> Result<(), Refusal> {
        let message = self.parse(input)?;
        if input.ttl != 1 {
            return Err(Refusal::BadTtl);
        }
        // A host may report before it has an address, by IGMP only: a router of MLD discards such reports
        // (RFC 9776 §4.2.13, RFC 9777 §5.2.13).
        let without_address = self.config.family() == Family::V4 && input.source.is_unspecified();
        if !without_address && !is_neighbour(input.source) {
            return Err(Refusal::BadSource);
        }
        let version_1 = matches!(message, Message::QueryV1 | Message::ReportV1 { .. });
        let alert_required = match self.config.family() {
            Family::V4 => self.config.require_router_alert && !version_1,
            Family::V6 => true,
        };
        if alert_required && !input.router_alert {
            return Err(Refusal::NoRouterAlert);
        }
        match message {
            Message::QueryV1 => {
                self.note_version(now, input.source, Version::V1);
                Err(Refusal::QueryVersion1)
            }
            Message::QueryV2 { max_resp_time, group } => {
                self.on_query(now, input, Query { max_resp_time, group, version_3: None })
            }
            Message::QueryV3(query) => {
                let (max_resp_time, group) = (query.max_resp_time, query.group);
                self.on_query(now, input, Query { max_resp_time, group, version_3: Some(&query) })
            }
            Message::ReportV1 { group } => self.on_older_report(now, input, Version::V1, group),
            Message::ReportV2 { group } => self.on_older_report(now, input, Version::V2, group),
            Message::Leave { group } => self.on_leave(now, input, group),
            Message::ReportV3 { records } => self.on_report_v3(now, input, records),
        }
    }

    pub(super) fn parse(&self, input: Datagram<'_>) -> Result<Message, Refusal> {
        match (self.config.family(), input.source, input.destination) {
            (Family::V4, IpAddr::V4(_), IpAddr::V4(_)) => {
                let message = igmp::Message::parse(input.payload).map_err(|error| match error {
                    igmp::Error::Truncated { .. } | igmp::Error::QueryLength { .. } => Refusal::Malformed,
                    igmp::Error::BadChecksum { .. } => Refusal::BadChecksum,
                    igmp::Error::UnknownType { .. } => Refusal::UnknownType,
                })?;
                Ok(message.into())
            }
            (Family::V6, IpAddr::V6(source), IpAddr::V6(destination)) => {
                let message =
                    mld::Message::parse(source, destination, input.payload).map_err(|error| match error {
                        mld::Error::Truncated { .. } | mld::Error::QueryLength { .. } => Refusal::Malformed,
                        mld::Error::BadChecksum { .. } => Refusal::BadChecksum,
                        mld::Error::UnknownType { .. } => Refusal::UnknownType,
                    })?;
                Ok(message.into())
            }
            (Family::V4 | Family::V6, ..) => Err(Refusal::BadSource),
        }
    }

    /// Anything goes that is not another host's (RFC 9776 §4.2.14, RFC 9777 §5.2.14).
    pub(super) fn check_destination(&self, destination: IpAddr) -> Result<(), Refusal> {
        if destination.is_multicast() || destination == self.config.address {
            Ok(())
        } else {
            Err(Refusal::BadDestination)
        }
    }

    pub(super) fn on_general_query_timer(&mut self, now: Instant) {
        let Role::Querier { startup_left, .. } = self.role else { return };
        let interval = match startup_left {
            0 => self.config.query_interval,
            1.. => self.config.startup_query_interval(),
        };
        let startup_left = startup_left.saturating_sub(1);
        self.change_role(Role::Querier { next_query: now + interval, startup_left });
        self.send_general_query();
    }

    pub(super) fn send_general_query(&mut self) {
        let (destination, message) = query::general(&self.config);
        self.send(destination, &message);
    }

    /// Sends a query. One of MLD without a link-local source would be discarded by every node
    /// (RFC 9777 §5.1.14), so there is none until we have such an address.
    pub(super) fn send(&mut self, destination: IpAddr, message: &Message) {
        let source = self.config.address;
        if !self.may_ask() {
            return;
        }
        if let Ok(payload) = message.emit(source, destination) {
            self.counters.queries_sent += 1;
            self.outputs.push_back(Output::Transmit { source, destination, payload });
        }
    }

    /// Starts asking, of hosts of whom nothing is known.
    pub(super) fn start_asking(&mut self, now: Instant) {
        let startup_left = self.config.startup_query_count() - 1;
        self.startup = Startup::new(now, &self.config);
        self.change_role(Role::Querier { next_query: now, startup_left });
        self.on_general_query_timer(now);
    }

    /// Whether every host of the link has had its chance to say what it is in, so that who is not known is not there.
    pub(super) fn knows_hosts(&self, now: Instant) -> bool {
        self.may_ask() && self.startup.is_answered(now)
    }

    pub(super) const fn may_ask(&self) -> bool {
        match self.config.address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unspecified(),
        }
    }

    pub(super) fn send_specific(&mut self, group: IpAddr, specific: &query::Specific) {
        for message in query::specific(&self.config, group, specific) {
            self.send(group, &message);
        }
    }

    /// Changes a known group, then its timers, and says so if its filter changed.
    pub(super) fn update<R>(
        &mut self,
        group: IpAddr,
        act: impl FnOnce(&mut Group, &mut Hosts) -> R,
    ) -> Option<R> {
        let state = self.groups.get_mut(&group)?;
        let before = Snapshot::of(state);
        let result = act(state, &mut self.hosts);
        let mut after = Snapshot::of(state);
        if state.is_gone() {
            state.forget_hosts(&mut self.hosts);
            after = Snapshot::none();
            self.groups.remove(&group);
        }
        self.settle(group, &before, &after);
        Some(result)
    }

    pub(super) fn settle(&mut self, group: IpAddr, before: &Snapshot, after: &Snapshot) {
        self.listed = self.listed - before.listed + after.listed;
        let (old, new) = (before.deadlines, after.deadlines);
        self.timers.reschedule(Timer::GroupMembership(group), old.group, new.group);
        self.timers.reschedule(Timer::SourceMembership(group), old.source, new.source);
        self.timers.reschedule(Timer::LastMemberQuery(group), old.query, new.query);
        self.timers.reschedule(Timer::HostMembership(group), old.forgetting, new.forgetting);
        if !after.filter.is_none() {
            self.with_handover(|handover, _| handover.note_member());
        }
        if before.filter != after.filter {
            let filter = after.filter.clone();
            self.outputs.push_back(Output::Event(Event::Membership { group, filter }));
        }
    }

    pub(super) fn on_last_member_query_timer(&mut self, now: Instant, group: IpAddr) {
        let variables = self.variables;
        let is_querier = self.querier().is_none();
        let specific = self.update(group, |state, _| {
            if is_querier {
                Some(state.take_specific(now, &variables))
            } else {
                state.stop_asking();
                None
            }
        });
        if let Some(specific) = specific.flatten() {
            self.send_specific(group, &specific);
        }
    }
}

impl Machine for Querier {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram {
                source,
                link_source,
                link_unicast,
                stranger,
                destination,
                ttl,
                router_alert,
                payload,
            } => {
                let datagram = Datagram {
                    source,
                    link_source,
                    link_unicast,
                    stranger,
                    destination,
                    ttl,
                    router_alert,
                    payload,
                };
                if let Err(reason) = self.on_datagram(now, datagram) {
                    self.counters.refuse(reason);
                }
            }
            Input::SetAddress(address) => self.on_set_address(now, address),
            Input::Inherit { group, filter } => {
                if let Err(reason) = self.on_inherit(now, group, filter) {
                    self.counters.refuse(reason);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::GeneralQuery => self.on_general_query_timer(now),
                Timer::OtherQuerierPresent => self.become_querier(now),
                Timer::Handover => self.on_handover_timer(now),
                Timer::GroupMembership(group) | Timer::SourceMembership(group) => {
                    self.update(group, |state, _| state.expire(due));
                }
                Timer::LastMemberQuery(group) => self.on_last_member_query_timer(now, group),
                Timer::HostMembership(group) => {
                    let next = now + self.variables.group_membership_interval();
                    self.update(group, |state, hosts| state.forget_silent_hosts(now, next, hosts));
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

impl Role {
    /// The deadlines of the General Query timer and the Other Querier Present timer.
    pub(super) const fn deadlines(self) -> (Option<Instant>, Option<Instant>) {
        match self {
            Self::Querier { next_query, .. } => (Some(next_query), None),
            Self::NonQuerier { present_until, .. } => (None, Some(present_until)),
        }
    }
}

/// A received datagram, as [`Input::Datagram`] carries it.
#[derive(Clone, Copy)]
pub(super) struct Datagram<'a> {
    pub(super) source: IpAddr,
    pub(super) link_source: Option<Mac>,
    pub(super) link_unicast: bool,
    pub(super) stranger: bool,
    pub(super) destination: IpAddr,
    pub(super) ttl: u8,
    pub(super) router_alert: bool,
    pub(super) payload: &'a [u8],
}

impl Datagram<'_> {
    /// Who sent it.
    pub(super) const fn reporter(&self) -> Reporter {
        let host = Host { address: self.source, link: self.link_source };
        Reporter { host, stranger: self.stranger }
    }
}
