//! Reports and leaves: what hosts want.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use vmcast_wire::membership::{Record, RecordType};

use super::{
    Version,
    address::{check_group, check_mode, is_source},
    config::{ImmediateLeave, Variables},
    counters::Refusal,
    group::{Ask, Group, Terms},
    host::{Host, Hosts, Report, Reporter},
    machine::{Datagram, Querier, Snapshot},
};
use crate::Filter;

impl Querier {
    /// What every report and leave has to pass, whatever it says of its group.
    pub(super) fn check_wish(&self, group: IpAddr, any_source: bool) -> Result<(), Refusal> {
        check_group(group)?;
        if !self.config.allows(group) {
            return Err(Refusal::GroupNotAllowed);
        }
        check_mode(group, any_source)
    }

    /// A report of version 1 or 2: `IS_EX({})` in the words of version 3 (RFC 9776 §7.3.2, RFC 9777
    /// §8.3.2).
    pub(super) fn on_older_report(
        &mut self,
        now: Instant,
        input: Datagram<'_>,
        version: Version,
        group: IpAddr,
    ) -> Result<(), Refusal> {
        // These reports go to the group itself (RFC 2236 §2.4, §9, RFC 2710 §4).
        if input.destination != group {
            self.check_destination(input.destination)?;
            if input.destination.is_multicast() {
                return Err(Refusal::BadDestination);
            }
        }
        self.check_wish(group, true)?;
        self.check_host(input.reporter(), group, 0)?;
        self.counters.reports_received += 1;
        self.on_record(now, input.reporter(), version, RecordType::ModeIsExclude, group, BTreeSet::new())
    }

    /// A leave: `TO_IN({})` in the words of version 3 (RFC 9776 §7.3.2, RFC 9777 §8.3.2).
    pub(super) fn on_leave(
        &mut self,
        now: Instant,
        input: Datagram<'_>,
        group: IpAddr,
    ) -> Result<(), Refusal> {
        self.check_destination(input.destination)?;
        self.check_wish(group, true)?;
        if self.config.version == Version::V1 {
            return Err(Refusal::LeaveVersion1);
        }
        self.counters.leaves_received += 1;
        let record = RecordType::ChangeToIncludeMode;
        self.on_record(now, input.reporter(), Version::V3, record, group, BTreeSet::new())
    }

    pub(super) fn on_report_v3(
        &mut self,
        now: Instant,
        input: Datagram<'_>,
        records: Vec<Record<IpAddr>>,
    ) -> Result<(), Refusal> {
        self.check_destination(input.destination)?;
        if self.config.version < Version::V3 {
            return Err(Refusal::ReportVersion3);
        }
        self.counters.reports_received += 1;
        for record in records {
            // One bad record spoils no other.
            if let Err(reason) = self.on_report_record(now, input.reporter(), record) {
                self.counters.refuse(reason);
            }
        }
        Ok(())
    }

    pub(super) fn on_report_record(
        &mut self,
        now: Instant,
        reporter: Reporter,
        record: Record<IpAddr>,
    ) -> Result<(), Refusal> {
        let any_source = match record.record_type {
            RecordType::Unrecognized(_) => return Err(Refusal::UnknownRecordType),
            RecordType::ModeIsExclude | RecordType::ChangeToExcludeMode => true,
            RecordType::ModeIsInclude
            | RecordType::ChangeToIncludeMode
            | RecordType::AllowNewSources
            | RecordType::BlockOldSources => false,
        };
        let mut listed: BTreeSet<IpAddr> = record.sources.into_iter().collect();
        let before = listed.len();
        listed.retain(|source| is_source(*source));
        self.counters.refuse_many(Refusal::BadListedSource, before - listed.len());
        self.check_wish(record.group, any_source)?;
        if is_join(record.record_type) {
            self.check_host(reporter, record.group, listed.len())?;
        }
        self.on_record(now, reporter, Version::V3, record.record_type, record.group, listed)
    }

    /// A membership that an earlier process has left.
    pub(super) fn on_inherit(&mut self, now: Instant, group: IpAddr, filter: &Filter) -> Result<(), Refusal> {
        check_group(group)?;
        let host = Host { address: self.config.family().unspecified(), link: None };
        let nobody = Reporter { host, stranger: false };
        let (record_type, listed) = match filter {
            Filter::Include(sources) => (RecordType::ModeIsInclude, sources),
            Filter::Exclude(sources) => (RecordType::ModeIsExclude, sources),
        };
        self.on_record(now, nobody, Version::V3, record_type, group, listed.clone())
    }

    /// Whether one more group of a host, with so many sources, is beyond its limit, or could not be told apart from others'.
    pub(super) fn check_host(
        &self,
        reporter: Reporter,
        group: IpAddr,
        sources: usize,
    ) -> Result<(), Refusal> {
        let Some(most) = self.config.max_groups_per_host else { return Ok(()) };
        let host = reporter.host;
        if self.groups.get(&group).is_some_and(|state| state.knows(host)) {
            return Ok(());
        }
        let tracked = reporter.share(self.config.max_tracked);
        let is_full = self.hosts.tracked() + sources.max(1) > tracked;
        let untold = host.address.is_unspecified() || is_full;
        if untold || self.hosts.groups_of(host) >= most {
            return Err(Refusal::TooManyGroupsOfHost);
        }
        Ok(())
    }

    /// How many sources a group may have after a report.
    fn max_sources(&self, reporter: Reporter, group: IpAddr) -> usize {
        let known = self.groups.get(&group).map_or(0, Group::listed);
        let room = reporter.share(self.config.max_sources).saturating_sub(self.listed);
        reporter.share(self.config.max_sources_per_group).min(1 + known + room)
    }

    /// Applies one record to its group and asks what it calls for.
    pub(super) fn on_record(
        &mut self,
        now: Instant,
        reporter: Reporter,
        version: Version,
        record_type: RecordType,
        group: IpAddr,
        listed: BTreeSet<IpAddr>,
    ) -> Result<(), Refusal> {
        let joins = is_join(record_type);
        let config = &self.config;
        let variables = self.variables;
        let membership_until = self.lasting(now, Variables::group_membership_interval);
        let older_host_until = self.lasting(now, Variables::older_host_present_interval);
        let max_sources = self.max_sources(reporter, group);
        let terms = Terms { now, membership_until, max_sources };
        // Without a question nobody answers, and timers stay as they are.
        let asks = self.querier().is_none() && self.may_ask();
        let (immediate, tracks) = (config.immediate_leave, config.tracks_hosts());
        let tracks_leaves = matches!(immediate, ImmediateLeave::Tracked);
        let knows_hosts = self.knows_hosts(now);
        let without_sources = config.version < Version::V3;
        let until = membership_until;
        let (max_groups, max_tracked) =
            (reporter.share(config.max_groups), reporter.share(config.max_tracked));
        let reporter = reporter.host;

        let act = |state: &mut Group, hosts: &mut Hosts| {
            if joins {
                state.last_reporter = reporter.address;
            }
            if tracks {
                let (host, listed) = (reporter, &listed);
                let report = Report { host, record_type, listed, until, max_sources, max_tracked };
                state.track(report, hosts);
            }
            let mut applied = state.receive(record_type, listed, terms);
            // After the record: an older host counts from the next one on.
            state.hear(version, older_host_until);
            if without_sources && joins {
                state.stop_asking_for_group();
            }
            let ask = std::mem::take(&mut applied.ask);
            let leaves = ask.group || !ask.sources.is_empty();
            let disputed = leaves && tracks_leaves && state.has_namesake(now, reporter);
            let mut specific = None;
            let mut ask_hosts = |state: &mut Group, ask: &Ask| {
                if asks && state.ask(now, ask, &variables) {
                    specific = Some(state.take_specific(now, &variables));
                }
            };
            match immediate {
                ImmediateLeave::SingleHost => state.end(now, &ask),
                ImmediateLeave::Tracked if state.is_tracked(now) && !disputed => {
                    let (unwanted, all_asked) = state.unwanted(now, ask);
                    if knows_hosts && all_asked {
                        if unwanted.group {
                            applied.too_many += state.restore_wishes(now, max_sources);
                        }
                        state.end(now, &unwanted);
                    } else {
                        ask_hosts(state, &unwanted);
                    }
                }
                ImmediateLeave::Tracked | ImmediateLeave::Never => ask_hosts(state, &ask),
            }
            (applied, disputed, specific)
        };
        let known = self.groups.contains_key(&group);
        let (applied, disputed, specific) = if known {
            self.update(group, act).unwrap_or_default()
        } else {
            let mut state = Group::new(now, self.config.family().unspecified());
            let (applied, ..) = act(&mut state, &mut self.hosts);
            if state.is_gone() {
                state.forget_hosts(&mut self.hosts);
            } else if self.groups.len() >= max_groups {
                state.forget_hosts(&mut self.hosts);
                return Err(Refusal::TooManyGroups);
            } else {
                self.settle(group, &Snapshot::none(), &Snapshot::of(&state));
                self.groups.insert(group, state);
            }
            // Nobody else was known to be in the group, so nobody need be asked.
            (applied, false, None)
        };
        if let Some(specific) = specific {
            self.send_specific(group, &specific);
        }
        self.counters.refuse_many(Refusal::TooManySources, applied.too_many);
        if applied.older_host {
            Err(Refusal::OlderHostPresent)
        } else if disputed {
            Err(Refusal::OtherLinkSource)
        } else {
            Ok(())
        }
    }
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
