//! Queries of other routers: who asks on the link, and what they have asked.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_wire::membership::QueryV3;

use super::{
    Family, Version,
    address::{check_group, rank},
    config::{Config, Variables},
    counters::Refusal,
    handover::Handover,
    keeping::Asked,
    machine::{Datagram, Querier, Role},
    output::{Event, Output},
    query::destination,
    startup::Startup,
    timer::Timer,
};

/// A query of version 2 or 3.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) max_resp_time: Duration,
    pub(super) group: IpAddr,
    pub(super) version_3: Option<&'a QueryV3<IpAddr>>,
}

impl Querier {
    /// The election, and timers that a specific query lowers (RFC 9776 §6.6.1, §6.6.2, RFC 9777 §7.6.1,
    /// §7.6.2).
    pub(super) fn on_query(
        &mut self,
        now: Instant,
        input: Datagram<'_>,
        query: Query<'_>,
    ) -> Result<(), Refusal> {
        self.check_destination(input.destination)?;
        if input.source.is_unspecified() {
            return Err(Refusal::QueryWithoutSource);
        }
        if input.source == self.config.address {
            return Err(Refusal::OwnQuery);
        }
        // What the hosts do not hear they do not answer, so it must neither silence whoever does ask them nor lower
        // timers: their memberships would end. It is theirs to process (RFC 9776 §9.1, RFC 9777 §10.1).
        if input.link_unicast || input.destination != destination(query.group) {
            return Err(Refusal::UnheardQuery);
        }
        let version = if query.version_3.is_some() { Version::V3 } else { Version::V2 };
        self.note_version(now, input.source, version);
        if !self.yields_to(input.source) {
            return Err(Refusal::HigherQuerier);
        }
        if !self.config.allows_querier(input.source) {
            self.note_not_allowed(now, input.source);
            return Err(Refusal::QuerierNotAllowed);
        }
        self.counters.queries_received += 1;
        let general = query.group.is_unspecified();
        if general || self.querier() == Some(input.source) {
            self.adopt(query, general);
        }
        // Whoever asks about one group keeps no other alive.
        if general {
            self.on_general_query(now, input.source, query);
        }
        let suppressed = query.version_3.is_some_and(|query| query.suppress_router_side_processing);
        if general || suppressed {
            return Ok(());
        }
        check_group(query.group)?;
        // Hosts have to have time to answer, whatever the query says of it.
        let answers = query.max_resp_time.max(self.variables.last_member_query_interval());
        let limit = now + answers * u32::from(self.variables.last_member_query_count());
        let sources = query.version_3.map_or(&[][..], |query| &query.sources);
        self.update(query.group, |state, _| {
            if sources.is_empty() {
                state.lower_group_timer(limit);
            }
            for source in sources {
                state.lower_source_timer(*source, limit);
            }
        });
        Ok(())
    }

    fn on_general_query(&mut self, now: Instant, querier: IpAddr, query: Query<'_>) {
        let present = self.variables.other_querier_present_interval();
        self.startup.cut_short(now, &self.config, &self.variables);
        self.change_role(Role::NonQuerier { querier, present_until: now + present });
        if self.with_handover(|handover, config| handover.hear(now, querier, present, config)) {
            self.hand_over();
        }
        self.keep_memberships(now, Asked::new(querier, now, &self.variables, query.max_resp_time));
    }

    /// Tells of a router that may not be the querier, but not of each of its queries.
    fn note_not_allowed(&mut self, now: Instant, router: IpAddr) {
        let told = |told: Instant| now < told + self.config.query_interval;
        if !self.not_allowed_told.is_some_and(told) {
            self.not_allowed_told = Some(now);
            self.outputs.push_back(Output::Event(Event::QuerierNotAllowed { router }));
        }
    }

    /// Changes to whom members are left, and with it the timer.
    pub(super) fn with_handover<R>(&mut self, act: impl FnOnce(&mut Handover, &Config) -> R) -> R {
        let before = self.handover.due(&self.config);
        let result = act(&mut self.handover, &self.config);
        self.timers.reschedule(Timer::Handover, before, self.handover.due(&self.config));
        result
    }

    /// Leaves the link's members to the querier.
    pub(super) fn hand_over(&mut self) {
        self.with_handover(|handover, _| handover.leave());
        self.counters.handed_over += 1;
        self.outputs.push_back(Output::Event(Event::Serving { serving: false }));
    }

    /// The other querier has asked once, long enough ago; or it is silent, whatever it has said of its timing.
    pub(super) fn on_handover_timer(&mut self, now: Instant) {
        if self.serves() {
            self.hand_over();
        } else {
            self.with_handover(|handover, _| handover.take_back(now));
            self.outputs.push_back(Output::Event(Event::Serving { serving: true }));
        }
    }

    /// Counts and tells of queries of another version than ours (RFC 9776 §7.3.1, RFC 9777 §8.3.1).
    pub(super) fn note_version(&mut self, now: Instant, router: IpAddr, version: Version) {
        self.counters.older_queries_received += u64::from(version < self.config.version);
        self.counters.newer_queries_received += u64::from(version > self.config.version);
        let told = |told: Instant| now < told + self.config.query_interval;
        if version != self.config.version && !self.other_version_told.is_some_and(told) {
            self.other_version_told = Some(now);
            self.outputs.push_back(Output::Event(Event::OtherVersion { router, version }));
        }
    }

    /// Takes over what the querier's query says of its timing; a zero says nothing (RFC 9776 §4.1.6,
    /// §4.1.7, RFC 9777 §5.1.8, §5.1.9).
    fn adopt(&mut self, query: Query<'_>, general: bool) {
        let response_time = if general { query.max_resp_time } else { self.variables.response_time };
        self.variables = Variables::own(&self.config);
        // Not for longer than hosts of ours may be silent between two queries: a forged one would keep memberships for long.
        let longest = self.config.query_interval;
        self.variables.response_time = self.variables.response_time.max(response_time.min(longest));
        let Some(query) = query.version_3 else { return };
        if query.robustness_variable != 0 {
            self.variables.robustness_variable = query.robustness_variable;
        }
        if !query.query_interval.is_zero() {
            self.variables.query_interval = query.query_interval;
        }
    }

    /// Whether a router with this address is elected before us: the lower address wins, and one
    /// without an address never does.
    pub(super) fn yields_to(&self, other: IpAddr) -> bool {
        self.config.address.is_unspecified() || rank(other) < rank(self.config.address)
    }

    pub(super) fn change_role(&mut self, role: Role) {
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

    pub(super) fn become_querier(&mut self, now: Instant) {
        self.counters.queriers_missed += 1;
        self.keeping.stop();
        if self.with_handover(|handover, _| handover.miss(now)) {
            self.outputs.push_back(Output::Event(Event::Serving { serving: true }));
        }
        self.variables = Variables::own(&self.config);
        self.change_role(Role::Querier { next_query: now + self.config.query_interval, startup_left: 0 });
        self.send_general_query();
    }

    pub(super) fn on_set_address(&mut self, now: Instant, address: IpAddr) {
        if Family::of(address) != self.config.family() {
            return;
        }
        let could_ask = self.may_ask();
        self.config.address = address;
        // Nobody was asked by us until now.
        let begins = !could_ask && self.may_ask();
        if begins && self.querier().is_some() {
            self.startup = Startup::new(now, &self.config);
            self.startup.cut_short(now, &self.config, &self.variables);
        }
        match self.querier() {
            Some(querier) if !self.yields_to(querier) => self.become_querier(now),
            None if begins => self.start_asking(now),
            Some(_) | None => {}
        }
    }
}
