//! Memberships that are kept while another router asks, at times that are not ours.
//!
//! Where hosts are asked as often as we would, and have our own time to answer, they do so before memberships end, and
//! again after the other router was missed (RFC 9776 §8.4, §8.5). With other times a membership that was reported before
//! could end although its host is there; a single query that anybody can forge would do that to all of them. So they are
//! kept until we could ask ourselves: once, when such times are first heard of, as a host that is there answers to that
//! query or to the next one. What was kept and has not been reported since is not kept a second time, however often
//! queriers or their times change, unless its host has still had time to answer: the memberships of hosts that have
//! vanished end.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    config::Variables,
    group::Group,
    machine::{Querier, Role},
};

/// What was kept, and for which questions.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// No membership ends before while another router is the querier.
    until: Option<Instant>,
    /// The ends to come of what was kept: a timer that stands at one was not renewed since.
    ends: BTreeSet<Instant>,
    /// The other router's last General Query.
    asked: Option<Asked>,
}

/// A General Query of another router.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    by: IpAddr,
    at: Instant,
    query_interval: Duration,
    /// How long we are silent for its sake.
    present: Duration,
    /// How long hosts may take to answer.
    response_time: Duration,
}

impl Asked {
    /// One by these variables.
    pub(super) fn new(by: IpAddr, at: Instant, variables: &Variables, response_time: Duration) -> Self {
        let (query_interval, present) =
            (variables.query_interval, variables.other_querier_present_interval());
        Self { by, at, query_interval, present, response_time }
    }

    /// Whether none of its times is longer than those of another one.
    fn is_within(&self, other: &Self) -> bool {
        self.query_interval <= other.query_interval
            && self.present <= other.present
            && self.response_time <= other.response_time
    }
}

impl Keeping {
    /// We ask now: what is reported from here on lasts as ever.
    pub(super) fn stop(&mut self) {
        self.until = None;
        self.asked = None;
    }
}

impl Querier {
    /// Another router has asked all hosts: keeps what is wanted until we could have asked ourselves and been answered, if
    /// that may be needed.
    pub(super) fn keep_memberships(&mut self, now: Instant, asked: Asked) {
        let before = self.keeping.asked.replace(asked);
        let config = &self.config;
        let ours = Asked::new(config.address, now, &Variables::own(config), config.query_response_interval);
        let is_known = before.is_some_and(|before| before.by == asked.by && asked.is_within(&before));
        let unanswered = before.is_some_and(|before| now < before.at + before.response_time);
        if asked.is_within(&ours) || (is_known && !unanswered) {
            return;
        }
        let Role::NonQuerier { present_until, .. } = self.role else { return };
        let until = present_until + self.config.query_response_interval * 2;
        if self.keeping.until.is_some_and(|kept| kept >= until) {
            return;
        }
        // All groups are looked at: for a Query Interval beyond, so that it is not done with each query.
        let kept = until + self.config.query_interval;
        self.keeping.until = Some(kept);
        let mut ends = std::mem::take(&mut self.keeping.ends).split_off(&now);
        let groups: Vec<IpAddr> = self.groups.keys().copied().collect();
        for group in groups {
            let is_kept = |until: Instant| until > now && (unanswered || !ends.contains(&until));
            self.update(group, |state, _| state.keep(kept, is_kept));
        }
        ends.insert(kept);
        self.keeping.ends = ends;
    }

    /// Until when something lasts that is reported now, by the variables in force. While we serve beside another querier it
    /// is not for less than by our own, whatever that one says; nor does it ever end before what is kept already.
    pub(super) fn lasting(&self, now: Instant, interval: fn(&Variables) -> Duration) -> Instant {
        let until = now + interval(&self.variables);
        if self.querier().is_none() {
            return until;
        }
        let until = until.max(self.keeping.until.unwrap_or(now));
        if self.serves() { until.max(now + interval(&Variables::own(&self.config))) } else { until }
    }
}

impl Group {
    /// Lets timers run until `kept` at least, and hosts be there as long, where `is_kept` says so of their present end; what
    /// is asked about ends as it would.
    fn keep(&mut self, kept: Instant, is_kept: impl Fn(Instant) -> bool) {
        let later = |until: Instant| if is_kept(until) { until.max(kept) } else { until };
        let lengthen = |until: &mut Option<Instant>| *until = until.map(later);
        if !self.is_asked {
            lengthen(&mut self.exclude_until);
        }
        lengthen(&mut self.v2_host_until);
        if let Some(details) = &mut self.details {
            let sources = details.sources.values_mut().filter(|source| !source.is_asked);
            sources.for_each(|source| lengthen(&mut source.until));
            lengthen(&mut details.v1_host_until);
            lengthen(&mut details.untracked_until);
            details.hosts.values_mut().for_each(|host| host.until = later(host.until));
        }
    }
}
