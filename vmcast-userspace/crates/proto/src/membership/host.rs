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

/// In how many groups each host is.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    groups: BTreeMap<Host, usize>,
    memberships: usize,
}

impl Hosts {
    pub(super) fn groups_of(&self, host: Host) -> usize {
        self.groups.get(&host).copied().unwrap_or(0)
    }

    /// Memberships of all hosts together.
    pub(super) const fn memberships(&self) -> usize {
        self.memberships
    }

    fn joined(&mut self, host: Host) {
        *self.groups.entry(host).or_default() += 1;
        self.memberships += 1;
    }

    fn left(&mut self, host: Host) {
        self.memberships -= 1;
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
    /// Memberships of all hosts that are kept.
    pub(super) max_memberships: usize,
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
        let (Filter::Include(sources) | Filter::Exclude(sources)) = &filter;
        let room = known.is_some() || hosts.memberships() < report.max_memberships;
        let trackable = room && !report.host.address.is_unspecified() && sources.len() <= report.max_sources;
        if filter.is_none() || !trackable {
            if details.hosts.remove(&report.host).is_some() {
                hosts.left(report.host);
            }
            if !trackable && !filter.is_none() {
                details.untracked_until = Some(report.until);
            }
        } else {
            let tracked = Tracked { filter, until: report.until };
            if details.hosts.insert(report.host, tracked).is_none() {
                hosts.joined(report.host);
            }
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
        self.hosts().any(|(other, tracked)| {
            other.address == host.address && other.link != host.link && tracked.until > now
        })
    }

    /// Takes out of `ask` what a known host still wants. Hosts are looked at once each, however many sources are asked about:
    /// there may be a great many of both.
    pub(super) fn unwanted(&self, now: Instant, ask: Ask) -> Ask {
        let Ask { mut group, mut sources } = ask;
        for (_, tracked) in self.hosts().filter(|(_, tracked)| tracked.until > now) {
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
        Ask { group, sources }
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
                    hosts.left(*host);
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
            std::mem::take(&mut details.hosts).keys().for_each(|host| hosts.left(*host));
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
