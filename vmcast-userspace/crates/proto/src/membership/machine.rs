//! The querier.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use vmcast_common::hdr::ipv4::is_forwardable_group;
use vmcast_wire::igmp::{Error, Message, QueryV3, Record, RecordType};

use super::{
    config::{Config, ConfigError, Variables, Version},
    counters::{Counters, Refusal},
    group::{Deadlines, Group, Terms},
    info::{GroupInfo, HostVersion},
    input::Input,
    output::{Event, Output},
    query,
    timer::{Timer, Timers},
};
use crate::{Filter, Machine};

/// The multicast router's side of IGMPv2 and IGMPv3 on one interface.
///
/// It starts as the querier and takes part in the election. Outputs are to be drained after every
/// call, as [`Machine`] asks.
#[derive(Debug)]
pub struct Querier {
    config: Config,
    variables: Variables,
    role: Role,
    groups: BTreeMap<Ipv4Addr, Group>,
    timers: Timers,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// Our part on the link (RFC 9776 §6.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// We ask: the time of the next General Query, and how many are left to send of the startup.
    Querier { next_query: Instant, startup_left: u8 },
    /// Another router asks, and is believed to be there until its timer ends.
    NonQuerier { querier: Ipv4Addr, present_until: Instant },
}

/// What a change of a group is measured by.
struct Snapshot {
    filter: Filter,
    deadlines: Deadlines,
}

impl Snapshot {
    fn of(group: &Group) -> Self {
        Self { filter: group.filter(), deadlines: group.deadlines() }
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
            config,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
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
    pub const fn querier(&self) -> Option<Ipv4Addr> {
        match self.role {
            Role::Querier { .. } => None,
            Role::NonQuerier { querier, .. } => Some(querier),
        }
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

    /// What is to be forwarded to a group at present.
    #[must_use]
    pub fn filter(&self, group: Ipv4Addr) -> Filter {
        self.groups.get(&group).map_or_else(Filter::none, Group::filter)
    }

    #[cfg(test)]
    pub(super) const fn timers(&self) -> &Timers {
        &self.timers
    }

    #[cfg(test)]
    pub(super) fn group(&self, group: Ipv4Addr) -> Option<&Group> {
        self.groups.get(&group)
    }

    fn on_datagram(&mut self, now: Instant, input: Datagram<'_>) -> Result<(), Refusal> {
        let message = Message::parse(input.payload).map_err(|error| match error {
            Error::Truncated { .. } | Error::QueryLength { .. } => Refusal::Malformed,
            Error::BadChecksum { .. } => Refusal::BadChecksum,
            Error::UnknownType { .. } => Refusal::UnknownType,
        })?;
        if input.ttl != 1 {
            return Err(Refusal::BadTtl);
        }
        if !input.source.is_unspecified() && !is_host(input.source) {
            return Err(Refusal::BadSource);
        }
        let version_1 = matches!(message, Message::QueryV1 | Message::ReportV1 { .. });
        if self.config.require_router_alert && !input.router_alert && !version_1 {
            return Err(Refusal::NoRouterAlert);
        }
        match message {
            Message::QueryV1 => {
                self.counters.older_queries_received += 1;
                Err(Refusal::QueryVersion1)
            }
            Message::QueryV2 { max_resp_time, group } => {
                let older = self.config.version == Version::V3;
                self.on_query(now, input, Query { older, max_resp_time, group, version_3: None })
            }
            Message::QueryV3(query) => self.on_query(
                now,
                input,
                Query {
                    older: false,
                    max_resp_time: query.max_resp_time,
                    group: query.group,
                    version_3: Some(&query),
                },
            ),
            Message::ReportV1 { group } => self.on_older_report(now, input, HostVersion::V1, group),
            Message::ReportV2 { group } => self.on_older_report(now, input, HostVersion::V2, group),
            Message::LeaveGroup { group } => {
                self.check_destination(input.destination)?;
                check_group(group)?;
                self.counters.leaves_received += 1;
                let record = RecordType::ChangeToIncludeMode;
                self.on_record(now, input.source, HostVersion::V3, record, group, BTreeSet::new())
            }
            Message::ReportV3 { records } => self.on_report_v3(now, input, records),
        }
    }

    /// Anything goes that is not another host's (RFC 9776 §4.2.14).
    fn check_destination(&self, destination: Ipv4Addr) -> Result<(), Refusal> {
        if destination.is_multicast() || destination == self.config.address {
            Ok(())
        } else {
            Err(Refusal::BadDestination)
        }
    }

    /// The election, and timers that a specific query lowers (RFC 9776 §6.6.1, §6.6.2).
    fn on_query(&mut self, now: Instant, input: Datagram<'_>, query: Query<'_>) -> Result<(), Refusal> {
        self.check_destination(input.destination)?;
        if input.source.is_unspecified() {
            return Err(Refusal::QueryWithoutSource);
        }
        if input.source == self.config.address {
            return Err(Refusal::OwnQuery);
        }
        if !self.yields_to(input.source) {
            return Err(Refusal::HigherQuerier);
        }
        self.counters.queries_received += 1;
        self.counters.older_queries_received += u64::from(query.older);
        self.variables = Variables::own(&self.config);
        if let Some(version_3) = query.version_3 {
            self.adopt(version_3);
        }
        let present_until = now + self.variables.other_querier_present_interval();
        self.change_role(Role::NonQuerier { querier: input.source, present_until });

        let suppressed = query.version_3.is_some_and(|query| query.suppress_router_side_processing);
        if query.group.is_unspecified() || suppressed {
            return Ok(());
        }
        check_group(query.group)?;
        let limit = now + query.max_resp_time * u32::from(self.variables.last_member_query_count());
        let sources = query.version_3.map_or(&[][..], |query| &query.sources);
        self.update(query.group, |state| {
            if sources.is_empty() {
                state.lower_group_timer(limit);
            }
            for source in sources {
                state.lower_source_timer(*source, limit);
            }
        });
        Ok(())
    }

    /// Takes over what the querier's query says of its timing; a zero says nothing.
    fn adopt(&mut self, query: &QueryV3) {
        if query.robustness_variable != 0 {
            self.variables.robustness_variable = query.robustness_variable;
        }
        if !query.query_interval.is_zero() {
            self.variables.query_interval = query.query_interval;
        }
    }

    /// Whether a router with this address is elected before us: the lower address wins, and one
    /// without an address never does.
    fn yields_to(&self, other: Ipv4Addr) -> bool {
        self.config.address.is_unspecified() || other < self.config.address
    }

    fn change_role(&mut self, role: Role) {
        let before = self.querier();
        let (old_query, old_present) = self.role.deadlines();
        self.role = role;
        let (new_query, new_present) = self.role.deadlines();
        self.timers.reschedule(Timer::GeneralQuery, old_query, new_query);
        self.timers.reschedule(Timer::OtherQuerierPresent, old_present, new_present);
        let querier = self.querier();
        if querier != before {
            self.outputs.push_back(Output::Event(Event::QuerierChanged { querier }));
        }
    }

    fn become_querier(&mut self, now: Instant) {
        self.variables = Variables::own(&self.config);
        self.change_role(Role::Querier { next_query: now + self.config.query_interval, startup_left: 0 });
        self.send_general_query();
    }

    fn on_general_query_timer(&mut self, now: Instant) {
        let Role::Querier { startup_left, .. } = self.role else { return };
        let interval = match startup_left {
            0 => self.config.query_interval,
            1.. => self.config.startup_query_interval(),
        };
        let startup_left = startup_left.saturating_sub(1);
        self.change_role(Role::Querier { next_query: now + interval, startup_left });
        self.send_general_query();
    }

    fn send_general_query(&mut self) {
        let (destination, message) = query::general(&self.config);
        self.send(destination, &message);
    }

    fn send(&mut self, destination: Ipv4Addr, message: &Message) {
        self.counters.queries_sent += 1;
        self.outputs.push_back(Output::Transmit { destination, payload: message.emit() });
    }

    /// A report of version 1 or 2: `IS_EX({})` in the words of version 3 (RFC 9776 §7.3.2).
    fn on_older_report(
        &mut self,
        now: Instant,
        input: Datagram<'_>,
        version: HostVersion,
        group: Ipv4Addr,
    ) -> Result<(), Refusal> {
        // These reports go to the group itself (RFC 2236 §2.4, §9).
        if input.destination != group {
            self.check_destination(input.destination)?;
            if input.destination.is_multicast() {
                return Err(Refusal::BadDestination);
            }
        }
        check_group(group)?;
        self.counters.reports_received += 1;
        self.on_record(now, input.source, version, RecordType::ModeIsExclude, group, BTreeSet::new())
    }

    fn on_report_v3(
        &mut self,
        now: Instant,
        input: Datagram<'_>,
        records: Vec<Record>,
    ) -> Result<(), Refusal> {
        self.check_destination(input.destination)?;
        if self.config.version == Version::V2 {
            return Err(Refusal::ReportVersion3);
        }
        self.counters.reports_received += 1;
        for record in records {
            let mut listed: BTreeSet<Ipv4Addr> = record.sources.into_iter().collect();
            let before = listed.len();
            listed.retain(|source| is_host(*source));
            self.counters.refuse_many(Refusal::BadListedSource, before - listed.len());
            let done = match record.record_type {
                RecordType::Unrecognized(_) => Err(Refusal::UnknownRecordType),
                RecordType::ModeIsInclude
                | RecordType::ModeIsExclude
                | RecordType::ChangeToIncludeMode
                | RecordType::ChangeToExcludeMode
                | RecordType::AllowNewSources
                | RecordType::BlockOldSources => check_group(record.group).and_then(|()| {
                    let version = HostVersion::V3;
                    self.on_record(now, input.source, version, record.record_type, record.group, listed)
                }),
            };
            // One bad record spoils no other.
            if let Err(reason) = done {
                self.counters.refuse(reason);
            }
        }
        Ok(())
    }

    /// Applies one record to its group and asks what it calls for.
    fn on_record(
        &mut self,
        now: Instant,
        reporter: Ipv4Addr,
        version: HostVersion,
        record_type: RecordType,
        group: Ipv4Addr,
        listed: BTreeSet<Ipv4Addr>,
    ) -> Result<(), Refusal> {
        let variables = self.variables;
        let membership_until = now + variables.group_membership_interval();
        let terms = Terms { now, membership_until, max_sources: self.config.max_sources_per_group };
        let is_querier = self.querier().is_none();
        let immediate = self.config.immediate_leave;
        let joins = is_join(record_type);
        let version_2 = self.config.version == Version::V2;

        let act = |state: &mut Group| {
            if joins {
                state.last_reporter = reporter;
            }
            let applied = state.receive(record_type, listed, terms);
            // After the record: an older host counts from the next one on.
            state.hear(version, membership_until);
            if version_2 && joins {
                state.stop_asking_for_group();
            }
            let mut specific = None;
            if immediate {
                state.end(now, &applied.ask);
            } else if is_querier && state.ask(now, &applied.ask, &variables) {
                specific = Some(state.take_specific(now, &variables));
            }
            (applied, specific)
        };
        let known = self.groups.contains_key(&group);
        let (applied, specific) = if known {
            self.update(group, act).unwrap_or_default()
        } else {
            let mut state = Group::new(now);
            let (applied, _) = act(&mut state);
            if !state.is_gone() {
                if self.groups.len() >= self.config.max_groups {
                    return Err(Refusal::TooManyGroups);
                }
                self.settle(group, &Snapshot::of(&Group::new(now)), &Snapshot::of(&state));
                self.groups.insert(group, state);
            }
            // Nobody else was known to be in the group, so nobody need be asked.
            (applied, None)
        };
        if let Some(specific) = specific {
            self.send_specific(group, &specific);
        }
        self.counters.refuse_many(Refusal::TooManySources, applied.too_many);
        if applied.older_host { Err(Refusal::OlderHostPresent) } else { Ok(()) }
    }

    fn send_specific(&mut self, group: Ipv4Addr, specific: &query::Specific) {
        for message in query::specific(&self.config, group, specific) {
            self.send(group, &message);
        }
    }

    /// Changes a known group, then its timers, and says so if its filter changed.
    fn update<R>(&mut self, group: Ipv4Addr, act: impl FnOnce(&mut Group) -> R) -> Option<R> {
        let state = self.groups.get_mut(&group)?;
        let before = Snapshot::of(state);
        let result = act(state);
        let mut after = Snapshot::of(state);
        if state.is_gone() {
            after.deadlines = Deadlines::default();
            self.groups.remove(&group);
        }
        self.settle(group, &before, &after);
        Some(result)
    }

    fn settle(&mut self, group: Ipv4Addr, before: &Snapshot, after: &Snapshot) {
        let (old, new) = (before.deadlines, after.deadlines);
        self.timers.reschedule(Timer::GroupMembership(group), old.group, new.group);
        self.timers.reschedule(Timer::SourceMembership(group), old.source, new.source);
        self.timers.reschedule(Timer::LastMemberQuery(group), old.query, new.query);
        if before.filter != after.filter {
            let filter = after.filter.clone();
            self.outputs.push_back(Output::Event(Event::Membership { group, filter }));
        }
    }

    fn on_last_member_query_timer(&mut self, now: Instant, group: Ipv4Addr) {
        let variables = self.variables;
        let is_querier = self.querier().is_none();
        let specific = self.update(group, |state| {
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

    fn on_set_address(&mut self, now: Instant, address: Ipv4Addr) {
        self.config.address = address;
        if self.querier().is_some_and(|querier| !self.yields_to(querier)) {
            self.become_querier(now);
        }
    }
}

impl Machine for Querier {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { source, destination, ttl, router_alert, payload } => {
                let datagram = Datagram { source, destination, ttl, router_alert, payload };
                if let Err(reason) = self.on_datagram(now, datagram) {
                    self.counters.refuse(reason);
                }
            }
            Input::SetAddress(address) => self.on_set_address(now, address),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::GeneralQuery => self.on_general_query_timer(now),
                Timer::OtherQuerierPresent => self.become_querier(now),
                Timer::GroupMembership(group) | Timer::SourceMembership(group) => {
                    self.update(group, |state| state.expire(due));
                }
                Timer::LastMemberQuery(group) => self.on_last_member_query_timer(now, group),
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
    const fn deadlines(self) -> (Option<Instant>, Option<Instant>) {
        match self {
            Self::Querier { next_query, .. } => (Some(next_query), None),
            Self::NonQuerier { present_until, .. } => (None, Some(present_until)),
        }
    }
}

/// A received datagram, as [`Input::Datagram`] carries it.
#[derive(Clone, Copy)]
struct Datagram<'a> {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    router_alert: bool,
    payload: &'a [u8],
}

/// A query of version 2 or 3.
#[derive(Clone, Copy)]
struct Query<'a> {
    /// Whether its version is older than ours.
    older: bool,
    max_resp_time: Duration,
    group: Ipv4Addr,
    version_3: Option<&'a QueryV3>,
}

/// Whether a record speaks of sources or groups that its host wants.
const fn is_join(record_type: RecordType) -> bool {
    match record_type {
        RecordType::ModeIsInclude
        | RecordType::ModeIsExclude
        | RecordType::ChangeToExcludeMode
        | RecordType::AllowNewSources => true,
        RecordType::ChangeToIncludeMode | RecordType::BlockOldSources | RecordType::Unrecognized(_) => false,
    }
}

fn check_group(group: Ipv4Addr) -> Result<(), Refusal> {
    if !group.is_multicast() {
        Err(Refusal::NotMulticast)
    } else if !is_forwardable_group(group) {
        Err(Refusal::LinkLocalGroup)
    } else {
        Ok(())
    }
}

/// Whether an address can belong to a host on the link, or to a source.
const fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !(address.is_unspecified() || first == 127 || first >= 224)
}
