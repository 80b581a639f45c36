//! The stream on a link while somebody is a member, judged against what the source sent.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use crate::{
    judge::{Judgement, LiveJudge, Received, STALLED, UNDER_WAY},
    traffic::{Passed, Sent},
};

/// A membership, as links have to serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// When it began.
    pub(super) joined: Duration,
    /// When it ended, if it has.
    pub(super) left: Option<Duration>,
    /// Where in the source's record it may begin at the earliest.
    pub(super) record: usize,
}

impl Span {
    /// From the first join to the last leave.
    pub(super) fn hull<'a>(spans: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        spans.into_iter().copied().reduce(|a, b| {
            let first = if b.joined < a.joined { b } else { a };
            Self { left: a.left.zip(b.left).map(|(a, b)| a.max(b)), ..first }
        })
    }
}

/// What passes a link during a span.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// The far end of the tunnel, if the link carries one copy for each.
    to: Option<Ipv4Addr>,
    span: Span,
    judge: LiveJudge,
    /// What the judge wants to see again, and how much it does not.
    open: Vec<u64>,
    settled: usize,
    first_at: Option<Duration>,
    judgement: Judgement,
    finished: bool,
}

impl Flow {
    pub(super) fn new(to: Option<Ipv4Addr>, span: Span) -> Self {
        Self {
            to,
            span,
            judge: LiveJudge::new(span.record),
            open: Vec::new(),
            settled: 0,
            first_at: None,
            judgement: Judgement::default(),
            finished: false,
        }
    }

    pub(super) fn is_to(&self, to: Option<Ipv4Addr>) -> bool {
        self.to == to
    }

    /// Whether it has ended so long ago that nothing changes any more.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) fn set_span(&mut self, span: Span) {
        self.span = span;
    }

    /// Takes a packet, if it is one of this flow.
    pub(super) fn offer(&mut self, packet: &Passed) {
        let is_ours = self.to.is_none_or(|to| to == packet.to);
        let is_due = packet.at >= self.span.joined && self.span.left.is_none_or(|left| packet.at <= left);
        if is_ours && is_due && !self.finished {
            self.first_at.get_or_insert(packet.at);
            self.open.push(packet.fingerprint);
        }
    }

    /// Judges what came up to now; `sent_from` gives the source's record from a place on.
    pub(super) fn update(&mut self, sent_from: impl FnOnce(usize) -> Vec<Sent>, now: Duration) {
        if self.finished {
            return;
        }
        let sent = sent_from(self.judge.sent_from());
        let received = Received { fingerprints: &self.open, first_at: self.first_at };
        let until = self.span.left.unwrap_or(now.saturating_sub(STALLED));
        self.judgement = self.judge.update(&sent, received, until);
        let settled = self.judge.received_from();
        self.open.drain(..settled - self.settled);
        self.settled = settled;
        if self.span.left.is_some_and(|left| now >= left + UNDER_WAY) {
            self.finished = true;
            self.open = Vec::new();
        }
    }

    pub(super) fn judgement(&self) -> Judgement {
        self.judgement
    }

    /// What is missing here, as places in the source's record.
    pub(super) fn missing_places(&self) -> BTreeSet<usize> {
        self.judge.missing_places()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Carriage;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    const fn span(joined: u64, left: Option<u64>) -> Span {
        let left = match left {
            Some(left) => Some(millis(left)),
            None => None,
        };
        Span { joined: millis(joined), left, record: 0 }
    }

    const NEAR: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 11);
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 12);

    /// A source that sends a packet a millisecond.
    fn sent_from(place: usize) -> Vec<Sent> {
        (place as u64..10_000).map(|n| Sent { fingerprint: n, at: millis(n) }).collect()
    }

    fn passed(n: u64, to: Ipv4Addr) -> Passed {
        Passed { at: millis(n + 1), carriage: Carriage::Amt, outgoing: false, to: to.into(), fingerprint: n }
    }

    #[test]
    fn the_hull_of_memberships_lasts_until_the_last_leave() {
        assert_eq!(Span::hull(&[]), None);
        assert_eq!(Span::hull(&[span(2, Some(5)), span(1, Some(3))]), Some(span(1, Some(5))));
        assert_eq!(Span::hull(&[span(1, Some(5)), span(2, None)]), Some(span(1, None)));
    }

    #[test]
    fn what_a_link_lost_is_found_exactly_over_a_long_time_and_after_the_end() {
        let mut flow = Flow::new(None, span(100, None));
        for n in (0..9000).filter(|n| n % 1000 != 500) {
            flow.offer(&passed(n, NEAR));
            if n % 700 == 0 {
                flow.update(sent_from, millis(n));
            }
        }
        flow.set_span(span(100, Some(8000)));
        flow.update(sent_from, millis(9000));
        let lost: Vec<_> = flow.missing_places().into_iter().collect();
        assert_eq!(lost, [500, 1500, 2500, 3500, 4500, 5500, 6500, 7500, 8500]);
        assert_eq!(flow.judgement().missing(), 9);
    }

    #[test]
    fn a_flow_to_one_client_is_judged_alone_and_only_while_it_is_a_member() {
        let mut flow = Flow::new(Some(NEAR), span(1000, Some(3000)));
        for n in 0..5000 {
            flow.offer(&passed(n, FAR));
            if n % 4 != 0 || n >= 2000 {
                flow.offer(&passed(n, NEAR));
            }
        }
        flow.update(sent_from, millis(5000));
        assert_eq!((flow.judgement().lost, flow.judgement().cut_off), (250, 0));
        assert_eq!(flow.judgement().unknown, 0);
        let before = flow.judgement();
        flow.offer(&passed(2900, NEAR));
        flow.update(sent_from, millis(6000));
        assert_eq!(flow.judgement(), before, "what is finished stays so");
    }
}
