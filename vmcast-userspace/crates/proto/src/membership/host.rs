//! Explicit tracking: what each host of a group wants (RFC 9776 appendix A.2, RFC 9777 appendix A.2).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use vmcast_common::hdr::eth::Mac;
use vmcast_wire::membership::RecordType;

use super::group::{Ask, Group, Source};
use crate::Filter;

/// Whom a report is of: a host is known by both addresses, so that nobody takes away what another has asked for by sending
/// from its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Host {
    pub(super) address: IpAddr,
    /// Its address on the link; `None` on a link without such.
    pub(super) link: Option<Mac>,
}

/// Who reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reporter {
    pub(super) host: Host,
    /// As [`Input::Datagram`](super::Input::Datagram) has it.
    pub(super) stranger: bool,
}

impl Reporter {
    /// How much there may be before nothing is added for this one, of so much in all. Hosts whose addresses may be forged
    /// take a quarter: more groups of both protocols of one link together would take all streams that the link may have.
    pub(super) const fn share(self, limit: usize) -> usize {
        if self.stranger { limit.div_ceil(4) } else { limit }
    }
}

/// A host in a group.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) filter: Filter,
    /// It is forgotten then unless it reports again.
    pub(super) until: Instant,
}

impl Tracked {
    /// How much it counts by [`Config::max_tracked`](super::Config::max_tracked).
    fn weight(&self) -> usize {
        weight(&self.filter)
    }
}

fn weight(filter: &Filter) -> usize {
    let (Filter::Include(sources) | Filter::Exclude(sources)) = filter;
    sources.len().max(1)
}

/// How many hosts of a group are looked at for one leave. Where there are more, what none of these wants is asked about: a
/// look costs some 20 ns, and a link of forged hosts must not keep others waiting with each of its reports.
const LOOKS: usize = 1024;

/// In how many groups each host is.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    groups: BTreeMap<Host, usize>,
    tracked: usize,
}

impl Hosts {
    pub(super) fn groups_of(&self, host: Host) -> usize {
        self.groups.get(&host).copied().unwrap_or(0)
    }

    /// Memberships of all hosts together, as [`Config::max_tracked`](super::Config::max_tracked) counts them.
    pub(super) const fn tracked(&self) -> usize {
        self.tracked
    }

    fn joined(&mut self, host: Host, weight: usize) {
        *self.groups.entry(host).or_default() += 1;
        self.tracked += weight;
    }

    fn left(&mut self, host: Host, weight: usize) {
        self.tracked -= weight;
        if let Some(groups) = self.groups.get_mut(&host) {
            *groups -= 1;
            if *groups == 0 {
                self.groups.remove(&host);
            }
        }
    }
}

/// A record of a host that is to be tracked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report<'a> {
    pub(super) host: Host,
    pub(super) record_type: RecordType,
    pub(super) listed: &'a BTreeSet<IpAddr>,
    pub(super) until: Instant,
    /// Sources of one host that are kept.
    pub(super) max_sources: usize,
    /// Memberships of all hosts that are kept, as [`Config::max_tracked`](super::Config::max_tracked) counts them.
    pub(super) max_tracked: usize,
}

impl Group {
    /// Every host that is tracked.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (Host, &Tracked)> + '_ {
        self.details.iter().flat_map(|details| details.hosts.iter().map(|(host, tracked)| (*host, tracked)))
    }

    /// Follows a host by its record.
    pub(super) fn track(&mut self, report: Report<'_>, hosts: &mut Hosts) {
        let details = self.details();
        let known = details.hosts.get(&report.host);
        let before = known.map(|tracked| tracked.filter.clone()).unwrap_or_default();
        let filter = after(before, report.record_type, report.listed);
        let (old, new) = (known.map_or(0, Tracked::weight), weight(&filter));
        let room = new <= old || hosts.tracked() - old + new <= report.max_tracked;
        let trackable = room && !report.host.address.is_unspecified() && new <= report.max_sources.max(1);
        if let Some(known) = details.hosts.remove(&report.host) {
            hosts.left(report.host, known.weight());
        }
        if filter.is_none() || !trackable {
            if !trackable && !filter.is_none() {
                details.untracked_until = Some(report.until);
            }
        } else {
            details.hosts.insert(report.host, Tracked { filter, until: report.until });
            hosts.joined(report.host, new);
            details.next_forgetting.get_or_insert(report.until);
        }
        self.trim();
    }

    /// Whether a host is tracked here.
    pub(super) fn knows(&self, host: Host) -> bool {
        self.details.as_ref().is_some_and(|details| details.hosts.contains_key(&host))
    }

    /// Whether every host of the group is known.
    pub(super) fn is_tracked(&self, now: Instant) -> bool {
        let untracked = self.details.as_ref().and_then(|details| details.untracked_until);
        !self.has_older_host(now) && untracked.is_none_or(|until| until <= now)
    }

    /// Whether a host of the same address is there that has another one on the link: one of the two may speak in the other's
    /// name, or a host has got another interface.
    pub(super) fn has_namesake(&self, now: Instant, host: Host) -> bool {
        let first = Host { link: None, ..host };
        let of_address = self.details.iter().flat_map(|details| details.hosts.starting_at(&first));
        of_address
            .take_while(|(other, _)| other.address == host.address)
            .take(LOOKS)
            .any(|(other, tracked)| other.link != host.link && tracked.until > now)
    }

    /// Takes out of `ask` what a known host still wants; says whether all hosts were looked at, so that nobody wants the
    /// rest. Each is looked at once, however many sources are asked about: there may be a great many of both.
    pub(super) fn unwanted(&self, now: Instant, ask: Ask) -> (Ask, bool) {
        let Ask { mut group, mut sources } = ask;
        let mut hosts = self.hosts();
        for (_, tracked) in hosts.by_ref().take(LOOKS).filter(|(_, tracked)| tracked.until > now) {
            if !group && sources.is_empty() {
                break;
            }
            match &tracked.filter {
                Filter::Include(wanted) if wanted.len() < sources.len() => {
                    for source in wanted {
                        sources.remove(source);
                    }
                }
                Filter::Include(wanted) => sources.retain(|source| !wanted.contains(source)),
                Filter::Exclude(unwanted) => {
                    group = false;
                    sources.retain(|source| unwanted.contains(source));
                }
            }
        }
        let is_settled = !group && sources.is_empty();
        let all = is_settled || hosts.next().is_none();
        (Ask { group, sources }, all)
    }

    /// Gives the sources that known hosts list their timers back: EXCLUDE mode, which is about to end, had
    /// no need of them. Returns how many were refused.
    pub(super) fn restore_wishes(&mut self, now: Instant, max_sources: usize) -> usize {
        let Some(details) = &mut self.details else { return 0 };
        let mut refused = 0;
        for tracked in details.hosts.iter().map(|(_, tracked)| tracked).filter(|tracked| tracked.until > now)
        {
            let Filter::Include(wanted) = &tracked.filter else { continue };
            for source in wanted {
                if details.sources.len() >= max_sources && !details.sources.contains_key(source) {
                    refused += 1;
                    continue;
                }
                let known = details.sources.entry(*source).or_insert(Source::new(None));
                known.until = known.until.max(Some(tracked.until));
            }
        }
        refused
    }

    /// Forgets the hosts that have not reported for long.
    pub(super) fn forget_silent_hosts(&mut self, now: Instant, next: Instant, hosts: &mut Hosts) {
        if let Some(details) = &mut self.details {
            details.hosts.retain(|host, tracked| {
                let stays = tracked.until > now;
                if !stays {
                    hosts.left(*host, tracked.weight());
                }
                stays
            });
            details.next_forgetting = (!details.hosts.is_empty()).then_some(next);
        }
        self.trim();
    }

    /// Forgets every host.
    pub(super) fn forget_hosts(&mut self, hosts: &mut Hosts) {
        if let Some(details) = &mut self.details {
            for (host, tracked) in std::mem::take(&mut details.hosts).iter() {
                hosts.left(*host, tracked.weight());
            }
            details.next_forgetting = None;
        }
    }
}

/// What a host wants after a record (RFC 9776 §5.1, §5.2, RFC 9777 §6.1, §6.2). A MODE_IS_INCLUDE record may
/// be the answer to a question about some sources only, so it takes nothing away.
fn after(before: Filter, record_type: RecordType, listed: &BTreeSet<IpAddr>) -> Filter {
    match (record_type, before) {
        (RecordType::ModeIsExclude | RecordType::ChangeToExcludeMode, _) => Filter::Exclude(listed.clone()),
        (RecordType::ChangeToIncludeMode, _) => Filter::Include(listed.clone()),
        (RecordType::ModeIsInclude | RecordType::AllowNewSources, Filter::Include(mine)) => {
            Filter::Include(&mine | listed)
        }
        (RecordType::ModeIsInclude | RecordType::AllowNewSources, Filter::Exclude(mine)) => {
            Filter::Exclude(&mine - listed)
        }
        (RecordType::BlockOldSources, Filter::Include(mine)) => Filter::Include(&mine - listed),
        (RecordType::BlockOldSources, Filter::Exclude(mine)) => Filter::Exclude(&mine | listed),
        (RecordType::Unrecognized(_), before) => before,
    }
}
