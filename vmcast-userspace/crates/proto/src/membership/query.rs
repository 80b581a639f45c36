//! Questions about one group: lowered timers, repetitions, the S flag (RFC 9776 §6.6, RFC 9777 §7.6).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_wire::{
    igmp::ALL_SYSTEMS,
    membership::{Message, QueryV3},
    mld::ALL_NODES,
};

use super::{
    Family, Version,
    config::{Config, Variables},
    group::{Ask, Group, Repetition},
};

/// The specific queries of a group that are to be sent now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Specific {
    /// Whether to send a Group-Specific Query, and its S flag.
    pub(super) group: Option<bool>,
    /// Sources to ask for with the S flag set.
    pub(super) suppressed: Vec<IpAddr>,
    /// Sources to ask for with the S flag clear.
    pub(super) clear: Vec<IpAddr>,
}

impl Group {
    /// Lowers the timers of what is asked and notes the repetitions; returns whether there is
    /// anything to send (RFC 9776 §6.6.3, RFC 9777 §7.6.3). A question that is under way is not asked anew.
    pub(super) fn ask(&mut self, now: Instant, ask: &Ask, variables: &Variables) -> bool {
        let limit = now + variables.last_member_query_time();
        let queries = Some(Repetition { left: variables.last_member_query_count(), due: now });
        let mut asked = false;
        // One that was answered meanwhile is over, however many repetitions are left of it.
        let is_answered = self.exclude_until > Some(limit);
        if ask.group && (is_answered || self.details().group_queries.is_none()) {
            self.lower_group_timer(limit);
            self.details().group_queries = queries;
            asked = true;
        }
        if let Some(details) = &mut self.details {
            for source in &ask.sources {
                if let Some(source) = details.sources.get_mut(source)
                    && source.until > Some(limit)
                {
                    source.until = Some(limit);
                    source.queries = queries;
                    source.is_asked = true;
                    asked = true;
                }
            }
        }
        asked
    }

    /// Ends at once what would be asked.
    pub(super) fn end(&mut self, now: Instant, ask: &Ask) {
        if ask.group {
            self.lower_group_timer(now);
        }
        for source in &ask.sources {
            self.lower_source_timer(*source, now);
        }
        self.expire(now);
    }

    /// Lowers the group timer to `limit`, if it runs longer.
    pub(super) fn lower_group_timer(&mut self, limit: Instant) {
        if self.exclude_until > Some(limit) {
            self.exclude_until = Some(limit);
            self.is_asked = true;
        }
    }

    /// Lowers a source timer to `limit`, if it runs longer.
    pub(super) fn lower_source_timer(&mut self, source: IpAddr, limit: Instant) {
        if let Some(details) = &mut self.details
            && let Some(source) = details.sources.get_mut(&source)
            && source.until > Some(limit)
        {
            source.until = Some(limit);
            source.is_asked = true;
        }
    }

    /// Takes what is to be sent now and notes when to send it again. Each question keeps its own time between its queries,
    /// whatever is asked in between: two at once are lost at once.
    pub(super) fn take_specific(&mut self, now: Instant, variables: &Variables) -> Specific {
        let limit = now + variables.last_member_query_time();
        let group_suppressed = self.exclude_until > Some(limit);
        let mut specific = Specific::default();
        let Some(details) = &mut self.details else { return specific };
        let interval = variables.last_member_query_interval();
        if take_due(&mut details.group_queries, now, interval) {
            specific.group = Some(group_suppressed);
        }
        for (address, source) in &mut details.sources {
            if !take_due(&mut source.queries, now, interval) {
                continue;
            }
            if source.until > Some(limit) {
                specific.suppressed.push(*address);
            } else {
                specific.clear.push(*address);
            }
        }
        // The Group-Specific Query of the same moment asks for these as well (RFC 9776 §6.6.3.2, RFC 9777
        // §7.6.3.2).
        if specific.group.is_some() {
            specific.suppressed.clear();
        }
        self.trim();
        specific
    }

    /// Stops repeating questions.
    pub(super) fn stop_asking(&mut self) {
        if let Some(details) = &mut self.details {
            details.group_queries = None;
            details.sources.values_mut().for_each(|source| source.queries = None);
        }
        self.trim();
    }

    /// Stops repeating the Group-Specific Query (RFC 2236 §7: a report ends Checking Membership).
    pub(super) fn stop_asking_for_group(&mut self) {
        if let Some(details) = &mut self.details {
            details.group_queries = None;
        }
        self.trim();
    }
}

/// Takes one query of a question, if it is due.
fn take_due(queries: &mut Option<Repetition>, now: Instant, interval: Duration) -> bool {
    let Some(Repetition { left, .. }) = queries.filter(|queries| queries.due <= now) else { return false };
    let rest = left.saturating_sub(1);
    *queries = (rest > 0).then_some(Repetition { left: rest, due: now + interval });
    true
}

/// A General Query.
pub(super) fn general(config: &Config) -> (IpAddr, Message) {
    let nobody = config.family().unspecified();
    let message = query(config, config.query_response_interval, nobody, false, &[]);
    (destination(nobody), message)
}

/// Where queries about a group go, those about no group to all hosts (RFC 9776 §4.1.12, RFC 9777 §5.1.15).
pub(super) fn destination(group: IpAddr) -> IpAddr {
    match Family::of(group) {
        _ if !group.is_unspecified() => group,
        Family::V4 => ALL_SYSTEMS.into(),
        Family::V6 => ALL_NODES.into(),
    }
}

/// The messages that ask what `specific` says of `group`, split so that each fits the link.
pub(super) fn specific(config: &Config, group: IpAddr, specific: &Specific) -> Vec<Message> {
    let time = config.last_member_query_interval;
    let mut messages = Vec::new();
    if let Some(suppress) = specific.group {
        messages.push(query(config, time, group, suppress, &[]));
    }
    for (suppress, sources) in [(true, &specific.suppressed), (false, &specific.clear)] {
        for sources in sources.chunks(config.max_sources_per_query()) {
            messages.push(query(config, time, group, suppress, sources));
        }
    }
    messages
}

fn query(
    config: &Config,
    max_resp_time: Duration,
    group: IpAddr,
    suppress_router_side_processing: bool,
    sources: &[IpAddr],
) -> Message {
    match config.version {
        Version::V1 => Message::QueryV1,
        Version::V2 => Message::QueryV2 { max_resp_time, group },
        Version::V3 => Message::QueryV3(QueryV3 {
            max_resp_time,
            group,
            suppress_router_side_processing,
            robustness_variable: config.robustness_variable,
            query_interval: config.query_interval,
            sources: sources.to_vec(),
        }),
    }
}
