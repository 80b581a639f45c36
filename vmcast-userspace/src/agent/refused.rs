//! What of the host's wishes the VMR refuses by the policy, as the admin tells.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_proto::{Filter, amt::gateway::Gateway, registry::OwnTunnel};

use super::core::{Candidate, Core, Event, Output, UpstreamState};
use crate::link::{RefusedGroups, RefusedQuestion};

/// A source that has sent nothing for so long is missing.
const MISSING: Duration = Duration::from_secs(5);
/// A stream that was joined has so long to begin.
const BEGINNING: Duration = Duration::from_secs(1);
/// Groups of one question that are told apart.
const MOST: usize = 1024;

/// What is refused, and how often something was.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    groups: BTreeMap<IpAddr, String>,
    told: u64,
}

impl Core {
    /// The reason for which a group is refused, wholly or for some of its sources.
    pub(super) fn refused(&self, group: IpAddr) -> Option<&str> {
        self.refusals.groups.get(&group).map(String::as_str)
    }

    /// The groups that are refused.
    pub(super) fn refused_groups(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.refusals.groups.iter().map(|(group, reason)| (*group, reason.as_str()))
    }

    /// Refusals that the agent was told of.
    pub(super) const fn refusals_told(&self) -> u64 {
        self.refusals.told
    }

    /// The group is left.
    pub(super) fn forget_refused(&mut self, group: IpAddr) {
        self.refusals.groups.remove(&group);
    }

    /// The admin tells what is refused now; what is not wanted any more is no matter.
    pub(super) fn set_refused(&mut self, groups: RefusedGroups) {
        let wanted = groups.into_iter().filter(|(group, _)| self.wanted().contains_key(group)).collect();
        let before = std::mem::replace(&mut self.refusals.groups, wanted);
        for (group, reason) in &self.refusals.groups {
            if before.get(group) != Some(reason) {
                self.refusals.told += 1;
                self.outputs.push_back(Output::Event(Event::Refused(*group, reason.clone())));
            }
        }
        let over = before.into_keys().filter(|group| !self.refusals.groups.contains_key(group));
        self.outputs.extend(over.map(|group| Output::Event(Event::NoLongerRefused(group))));
    }

    /// Where the tunnels to VMRs that an admin has named begin, as those see it.
    pub(super) fn own_tunnels(&self) -> Vec<OwnTunnel> {
        let present = self.upstream.iter().map(|upstream| (&upstream.candidate, &upstream.gateway));
        let next = self.successor.iter().map(|successor| (&successor.candidate, &successor.gateway));
        let own = |(candidate, gateway): (&Candidate, &Gateway)| {
            let (nonce, response_mac) = gateway.response_mac()?;
            let (vmr, tunnel) = (candidate.id.clone()?, gateway.observed_address()?);
            Some(OwnTunnel { vmr, tunnel, nonce, response_mac })
        };
        present.chain(next).filter_map(own).collect()
    }

    /// What does not come from the VMR, if an admin has named that and it answers.
    pub(super) fn missing(&self, now: Instant) -> Option<RefusedQuestion> {
        let upstream = self.upstream.as_ref().filter(|_| self.state().0 == UpstreamState::Up)?;
        let (vmr, tunnel) = (upstream.candidate.id.clone()?, upstream.gateway.observed_address()?);
        let old = |since: Instant, age| now.saturating_duration_since(since) >= age;
        let flows = |group: IpAddr, source: IpAddr| {
            self.streams().get(&(group, source)).is_some_and(|traffic| !old(traffic.last, MISSING))
        };
        let of_vmr = self.of_vmr().into_iter();
        let missing = of_vmr.filter(|(group, filter)| {
            self.wanted().get(group).is_some_and(|wanted| old(wanted.since, BEGINNING))
                && match filter {
                    Filter::Include(sources) => sources.iter().any(|source| !flows(*group, *source)),
                    Filter::Exclude(_) => !self.is_heard(now, *group, MISSING),
                }
        });
        Some(RefusedQuestion { vmr, tunnel, missing: missing.map(|(group, _)| group).take(MOST).collect() })
    }
}
