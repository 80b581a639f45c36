//! Limits of bandwidth: admission at the join, by what streams take and what the member has already.
//!
//! A stream takes what it was measured to take, as a mean of about ten seconds while packets come; one that was not
//! measured, or not for ten minutes, what the rule declares, else nothing. What a member has is not taken from it: a
//! stream that takes more than it did only leaves less room for the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::Reason;
use crate::Filter;

/// Time over which rates are averaged.
const MEAN: Duration = Duration::from_secs(10);
/// A stream that brings nothing is remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Between two looks for streams to forget.
const TIDY: Duration = Duration::from_secs(10);
/// Streams that are measured at most; what is beyond counts as declared.
const MOST: usize = 65_536;

/// A part of a join that a limit holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Of this source; `None` of all that the join is for.
    pub source: Option<IpAddr>,
    /// The rule that limits it.
    pub rule: u32,
    /// To so many bits per second of IP in all.
    pub limit: u64,
    /// What it takes until it is measured, in bits per second of IP.
    pub declared: u64,
}

/// The rate of a stream, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes: u64,
    at: Instant,
    /// Bits per second.
    mean: Option<u64>,
    /// When packets last came.
    active: Instant,
}

/// What streams take, by group and source; without a source, what has no stream of its own.
#[derive(Debug, Default)]
struct Rates {
    streams: BTreeMap<(IpAddr, Option<IpAddr>), Rate>,
    tidied: Option<Instant>,
}

impl Rates {
    fn note(&mut self, now: Instant, group: IpAddr, source: Option<IpAddr>, bytes: u64) {
        if self.tidied.is_none_or(|tidied| now.saturating_duration_since(tidied) >= TIDY) {
            self.tidied = Some(now);
            self.streams.retain(|_, rate| now.saturating_duration_since(rate.active) < REMEMBERED);
        }
        let Some(rate) = self.streams.get_mut(&(group, source)) else {
            if self.streams.len() < MOST {
                self.streams.insert((group, source), Rate { bytes, at: now, mean: None, active: now });
            }
            return;
        };
        let elapsed = now.saturating_duration_since(rate.at);
        if elapsed.is_zero() {
            return;
        }
        if source.is_none() {
            // A source that had no stream of its own has one now, and is counted there.
            rate.mean = None;
        }
        // A counter that is smaller than before has begun anew.
        if bytes > rate.bytes {
            let bits = u128::from(bytes - rate.bytes) * 8_000_000 / elapsed.as_micros().max(1);
            let bits = u64::try_from(bits).unwrap_or(u64::MAX) as f64;
            let weight = (elapsed.as_secs_f64() / MEAN.as_secs_f64()).min(1.0);
            rate.mean = Some(match rate.mean {
                None => bits as u64,
                Some(mean) => (mean as f64 + (bits - mean as f64) * weight) as u64,
            });
            rate.active = now;
        }
        (rate.bytes, rate.at) = (bytes, now);
    }

    /// What a part of a join takes.
    fn of(&self, group: IpAddr, part: &Limited, filter: &Filter) -> u64 {
        let known = |source| self.streams.get(&(group, Some(source))).and_then(|rate| rate.mean);
        let measured = match (part.source, filter) {
            (Some(source), _) => known(source),
            (None, Filter::Include(sources)) => {
                sources.iter().copied().filter_map(known).reduce(u64::saturating_add)
            }
            (None, Filter::Exclude(excluded)) => {
                let all = self.streams.range((group, None)..).take_while(|((of, _), _)| *of == group);
                let wanted =
                    all.filter(|((_, source), _)| source.is_none_or(|source| !excluded.contains(&source)));
                wanted.filter_map(|(_, rate)| rate.mean).reduce(u64::saturating_add)
            }
        };
        measured.unwrap_or(part.declared)
    }
}

/// What a member has of one group that limits hold for.
#[derive(Clone, Debug)]
struct Held {
    filter: Filter,
    parts: Vec<Limited>,
}

/// What members have, and what streams take.
#[derive(Debug, Default)]
pub struct Bandwidth {
    rates: Rates,
    held: BTreeMap<u32, BTreeMap<IpAddr, Held>>,
}

impl Bandwidth {
    /// The counter of a stream was read: so many bytes of IP since it began.
    pub fn note(&mut self, now: Instant, group: IpAddr, source: Option<IpAddr>, bytes: u64) {
        self.rates.note(now, group, source, bytes);
    }

    /// A member is gone.
    pub fn gone(&mut self, member: u32) {
        self.held.remove(&member);
    }

    /// What limited streams take that a member has, in bits per second.
    #[must_use]
    pub fn used(&self, member: u32) -> u64 {
        let groups = self.held.get(&member).into_iter().flatten();
        groups.fold(0, |sum: u64, (group, held)| {
            let parts = held.parts.iter().map(|part| self.rates.of(*group, part, &held.filter));
            sum.saturating_add(parts.fold(0, u64::saturating_add))
        })
    }

    /// Gives a member what there is room for of what it may have otherwise, and says why it is not all. `had` is what
    /// it was given of the group before; `parts` are those of `allowed` that are limited.
    pub fn admit(
        &mut self,
        member: u32,
        group: IpAddr,
        had: &Filter,
        allowed: Filter,
        parts: Vec<Limited>,
    ) -> (Filter, Option<Reason>) {
        if let Some(groups) = self.held.get_mut(&member) {
            groups.remove(&group);
            if groups.is_empty() {
                self.held.remove(&member);
            }
        }
        if parts.is_empty() {
            return (allowed, None);
        }
        let is_had = |part: &Limited| match part.source {
            Some(source) => had.wants(source),
            None => has_all(had, &allowed),
        };
        // What it has counts first, in whatever order it is named.
        let (mut kept, new): (Vec<_>, Vec<_>) = parts.into_iter().partition(is_had);
        let rate = |part: &Limited| self.rates.of(group, part, &allowed);
        let others = if new.is_empty() { 0 } else { self.used(member) };
        let mut used = kept.iter().map(rate).fold(others, u64::saturating_add);
        let (mut refused, mut without) = (None, BTreeSet::new());
        for part in new {
            let sum = used.saturating_add(rate(&part));
            if sum <= part.limit {
                used = sum;
                kept.push(part);
            } else {
                refused = refused.or(Some(Reason::TooMuchBandwidth { rule: part.rule, limit: part.limit }));
                match part.source {
                    Some(source) => _ = without.insert(source),
                    None => return (Filter::none(), refused),
                }
            }
        }
        let filter = match allowed {
            Filter::Include(mut sources) => {
                sources.retain(|source| !without.contains(source));
                Filter::Include(sources)
            }
            // It has one part, which is admitted.
            Filter::Exclude(_) => allowed,
        };
        if !kept.is_empty() {
            self.held.entry(member).or_default().insert(group, Held { filter: filter.clone(), parts: kept });
        }
        (filter, refused)
    }
}

/// Whether a filter wants everything that another does.
fn has_all(has: &Filter, wanted: &Filter) -> bool {
    match (has, wanted) {
        (Filter::Exclude(not), Filter::Exclude(not_wanted)) => not.is_subset(not_wanted),
        (Filter::Include(_), Filter::Exclude(_)) => false,
        (has, Filter::Include(wanted)) => wanted.iter().all(|source| has.wants(*source)),
    }
}
