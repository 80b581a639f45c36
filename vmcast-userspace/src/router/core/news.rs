//! News that anybody on a link, or behind a tunnel, can bring about as often as they like: the log has the first of them,
//! and how many it left out.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::fib::{IfIndex, Stream};
use vmcast_proto::policy::Reason;

use crate::telemetry::RateLimit;

/// How often each kind is told of.
const INTERVAL: Duration = Duration::from_secs(10);
/// Changes of a link's querier in that time.
const QUERIERS: u32 = 5;
/// Sources that are heard, or no longer.
const SOURCES: u32 = 50;
/// Joins and sources that the policy refuses.
const REFUSALS: u32 = 20;

/// Changes of the querier of one link, whoever forges them there.
#[derive(Debug)]
pub(super) struct QuerierNews(RateLimit);

impl Default for QuerierNews {
    fn default() -> Self {
        Self(RateLimit::new(QUERIERS, INTERVAL))
    }
}

impl QuerierNews {
    pub(super) fn elected(&mut self, now: Instant, ifindex: IfIndex, querier: Option<IpAddr>) {
        if let Some(held_back) = self.0.admit(now) {
            tracing::info!(?ifindex, ?querier, held_back, "querier elected");
        }
    }
}

/// What the policy has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum Refusal {
    /// A member's join.
    Join { group: IpAddr, who: Option<IpAddr>, reason: Reason },
    /// What a source sends.
    Source { source: IpAddr, group: IpAddr, reason: Reason },
}

/// News of all links and tunnels together. One kind hides no other.
#[derive(Debug)]
pub(super) struct News {
    sources: RateLimit,
    closed: RateLimit,
    refusals: RateLimit,
}

impl Default for News {
    fn default() -> Self {
        Self {
            sources: RateLimit::new(SOURCES, INTERVAL),
            closed: RateLimit::new(REFUSALS, INTERVAL),
            refusals: RateLimit::new(REFUSALS, INTERVAL),
        }
    }
}

impl News {
    pub(super) fn new_source(&mut self, now: Instant, stream: Stream) {
        if let Some(held_back) = self.sources.admit(now) {
            tracing::info!(%stream, held_back, "new source");
        }
    }

    pub(super) fn source_silent(&mut self, now: Instant, stream: Stream) {
        if let Some(held_back) = self.sources.admit(now) {
            tracing::info!(%stream, held_back, "source silent");
        }
    }

    /// From here on a group takes only sources that are known.
    pub(super) fn closed(&mut self, now: Instant, group: IpAddr) {
        if let Some(held_back) = self.closed.admit(now) {
            tracing::warn!(
                %group,
                held_back,
                "more sources may not send than can be refused one by one: only those that may, and have been heard, \
                 are forwarded from here on"
            );
        }
    }

    pub(super) fn refused(&mut self, now: Instant, refusal: Refusal) {
        let Some(held_back) = self.refusals.admit(now) else { return };
        match refusal {
            Refusal::Join { group, who, reason } => {
                tracing::info!(%group, ?who, %reason, held_back, "a join is refused");
            }
            Refusal::Source { source, group, reason } => {
                tracing::info!(%source, %group, %reason, held_back, "a source is refused");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, telemetry::lines};

    #[test]
    fn a_flood_of_each_kind_takes_few_lines_and_hides_no_other() {
        let (start, group) = (clock::now(), IpAddr::from([239, 1, 1, 1]));
        let (mut news, mut queriers) = (News::default(), QuerierNews::default());
        let mut flood = |now| {
            lines(|| {
                for number in 0..10_000u32 {
                    let address = IpAddr::from(number.to_be_bytes());
                    let stream = Stream { source: Some(address), group };
                    queriers.elected(now, IfIndex(3), Some(address));
                    news.new_source(now, stream);
                    news.source_silent(now, stream);
                    news.closed(now, address);
                    let reason = Reason::Rule(1);
                    news.refused(now, Refusal::Join { group, who: Some(address), reason });
                    news.refused(now, Refusal::Source { source: address, group, reason });
                }
            })
        };
        for round in 0..3u32 {
            let told = flood(start + INTERVAL * round);
            for (text, most) in [
                ("querier elected", QUERIERS),
                ("new source", SOURCES),
                ("source silent", SOURCES),
                ("more sources may not send", REFUSALS),
                ("is refused", REFUSALS),
            ] {
                let count = told.iter().filter(|line| line.contains(text)).count();
                assert!((1..=most as usize).contains(&count), "{count} lines say {text}");
                let held_back =
                    told.iter().filter(|line| line.contains(text) && !line.contains("held_back=0"));
                assert_eq!(held_back.count() > 0, round > 0 && text != "source silent", "{text}");
            }
            assert_eq!(told.len() as u32, QUERIERS + SOURCES + 2 * REFUSALS);
        }
    }
}
