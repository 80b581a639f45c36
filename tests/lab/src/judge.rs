//! Judges what a client received against what the source sent.
//!
//! Payloads are told apart by their fingerprints. Most are unique in the stream; those are the anchors. A
//! transport stream of constant rate also carries datagrams of mere padding, which are all alike: one of
//! those is placed by its neighbours, between the anchor before it and the anchor after it.

use std::{
    collections::{BTreeSet, HashMap},
    ops::{AddAssign, Range},
    time::Duration,
};

use serde::Serialize;

use crate::traffic::Sent;

/// What became of the packets between a client's first and the end of its membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Packets that came, whatever they were.
    pub received: u64,
    /// Packets of the source between the first and the last received that never came.
    pub lost: u64,
    /// Packets that the source went on to send after the last received, while the client was a member.
    pub cut_off: u64,
    /// Packets that came again.
    pub duplicated: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Packets that the source never sent: corrupted, or somebody else's.
    pub unknown: u64,
}

impl Judgement {
    /// Packets that the client was entitled to and did not get.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.lost + self.cut_off
    }

    /// Share of those that the client was entitled to, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let arrived = self.received.saturating_sub(self.duplicated + self.unknown);
        let entitled = arrived + self.missing();
        if entitled == 0 { 0.0 } else { self.missing() as f64 / entitled as f64 }
    }
}

impl AddAssign for Judgement {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.cut_off += other.cut_off;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.unknown += other.unknown;
    }
}

/// How long a packet may be under way before it counts as cut off.
pub const UNDER_WAY: Duration = Duration::from_millis(500);

/// How much longer one waits for it while the membership lasts: whoever brings it may get no processor for a
/// moment on a busy machine, and what is only late must not be shown as lost.
pub const STALLED: Duration = Duration::from_millis(1500);

/// What came to a member, or passed a place on its behalf.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received<'a> {
    /// Identities, in the order of their arrival.
    pub fingerprints: &'a [u64],
    /// When the first packet of the session came, if one did.
    pub first_at: Option<Duration>,
}

/// Judges a whole session: what the source sent around it, what came, and when the membership ended.
#[must_use]
pub fn judge(sent: &[Sent], received: Received<'_>, until: Duration) -> Judgement {
    let alignment = align(sent, received.fingerprints, Start::first(received));
    alignment.judgement(sent, received.fingerprints, until)
}

/// Judges a session while it lasts, without looking at all of it again each time.
#[derive(Clone, Debug)]
pub struct LiveJudge {
    sent_settled: usize,
    received_settled: usize,
    settled: Judgement,
    /// Where the session goes on in the record, once its beginning is settled.
    resumes: Option<usize>,
    missing_settled: Vec<usize>,
    missing_open: Vec<usize>,
}

impl LiveJudge {
    /// Packets at the end that stay open, because late ones may still come.
    const OPEN: usize = 2000;

    /// Settled packets that are remembered, to know their duplicates.
    const HISTORY: usize = 256;

    /// Judges a session that began when the source's record had so many packets.
    #[must_use]
    pub fn new(sent_before: usize) -> Self {
        Self {
            sent_settled: sent_before,
            received_settled: 0,
            settled: Judgement::default(),
            resumes: None,
            missing_settled: Vec::new(),
            missing_open: Vec::new(),
        }
    }

    /// Places in the source's record of what is missing as of the last update.
    #[must_use]
    pub fn missing_places(&self) -> BTreeSet<usize> {
        self.missing_settled.iter().chain(&self.missing_open).copied().collect()
    }

    /// From where on [`Self::update`] wants the source's record.
    #[must_use]
    pub fn sent_from(&self) -> usize {
        self.sent_settled
    }

    /// From where on [`Self::update`] wants what was received.
    #[must_use]
    pub fn received_from(&self) -> usize {
        self.received_settled
    }

    /// Judges the session up to now.
    pub fn update(&mut self, sent: &[Sent], received: Received<'_>, now: Duration) -> Judgement {
        let start = self.resumes.map_or_else(|| Start::first(received), Start::At);
        let received = received.fingerprints;
        let alignment = align(sent, received, start);
        let mut total = self.settled;
        total += alignment.judgement(sent, received, now);
        let base = self.sent_settled;
        self.missing_open = alignment.missing_places(sent, received, now).map(|place| base + place).collect();
        if received.len() > 2 * Self::OPEN
            && let Some((last, position)) = alignment.last_anchor_before(received.len() - Self::OPEN)
        {
            let (sent, received) = (&sent[..=position], &received[..=last]);
            let settled = align(sent, received, start);
            self.settled += settled.judgement(sent, received, Duration::ZERO);
            // What was just settled is missing for good; of the open ones only those behind it remain.
            self.missing_settled.extend(settled.missing.iter().map(|place| base + place));
            self.missing_open.retain(|place| *place > base + position);
            let history = sent.len().min(Self::HISTORY);
            self.sent_settled += sent.len() - history;
            self.received_settled += received.len();
            self.resumes = Some(history);
        }
        total
    }
}

/// Where the packets begin that the client is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// At the first that it received, which was then.
    FirstReceived(Duration),
    /// At this place in the record.
    At(usize),
}

impl Start {
    fn first(received: Received<'_>) -> Self {
        Self::FirstReceived(received.first_at.unwrap_or_default())
    }
}

#[derive(Debug, Default)]
struct Alignment {
    /// The place in the record after the last received in order.
    next: usize,
    missing: BTreeSet<usize>,
    duplicated: u64,
    reordered: u64,
    unknown: u64,
    /// Anchors received in order: index among the received, place in the record.
    anchors: Vec<(usize, usize)>,
}

impl Alignment {
    fn judgement(&self, sent: &[Sent], received: &[u64], until: Duration) -> Judgement {
        let cut_off = self.cut_off(sent, received, until).len();
        Judgement {
            received: received.len() as u64,
            lost: self.missing.len() as u64,
            cut_off: cut_off as u64,
            duplicated: self.duplicated,
            reordered: self.reordered,
            unknown: self.unknown,
        }
    }

    /// Places after the last received that should have come by now.
    fn cut_off(&self, sent: &[Sent], received: &[u64], until: Duration) -> Range<usize> {
        if received.is_empty() {
            return self.next..self.next;
        }
        let due = until.saturating_sub(UNDER_WAY);
        self.next..self.next + sent[self.next..].iter().take_while(|packet| packet.at < due).count()
    }

    fn missing_places(
        &self,
        sent: &[Sent],
        received: &[u64],
        until: Duration,
    ) -> impl Iterator<Item = usize> + '_ {
        self.missing.iter().copied().chain(self.cut_off(sent, received, until))
    }

    /// Takes a packet that comes late for the missing one of these places, if there is one. Padding fills a
    /// recent place only: a duplicate must not hide a loss of long ago.
    fn fill_late(&mut self, candidates: &[usize]) -> bool {
        const RECENT: usize = 64;
        let recent = if candidates.len() == 1 { 0 } else { self.next.saturating_sub(RECENT) };
        let from = candidates.partition_point(|place| *place < recent);
        let to = candidates.partition_point(|place| *place < self.next);
        candidates[from..to].iter().any(|place| self.missing.remove(place))
    }

    fn last_anchor_before(&self, index: usize) -> Option<(usize, usize)> {
        self.anchors[..self.anchors.partition_point(|(at, _)| *at < index)].last().copied()
    }
}

fn align(sent: &[Sent], received: &[u64], start: Start) -> Alignment {
    let mut places: HashMap<u64, Vec<usize>> = HashMap::with_capacity(sent.len());
    for (place, packet) in sent.iter().enumerate() {
        places.entry(packet.fingerprint).or_default().push(place);
    }
    let anchor = |fingerprint: &u64| match places.get(fingerprint).map(Vec::as_slice) {
        Some([place]) => Some(*place),
        _ => None,
    };
    // For each received packet the place of the next anchor received after it.
    let mut next_anchor = vec![None; received.len()];
    for index in (1..received.len()).rev() {
        next_anchor[index - 1] = anchor(&received[index]).or(next_anchor[index]);
    }

    let (begin, skipped) = match start {
        Start::At(place) => (place, 0),
        Start::FirstReceived(at) => first_place(sent, received, at, &places, anchor),
    };
    let is_first = matches!(start, Start::FirstReceived(_));
    let mut alignment = Alignment { next: begin, ..Alignment::default() };
    let mut early = BTreeSet::new();
    for (index, fingerprint) in received.iter().enumerate() {
        let Some(candidates) = places.get(fingerprint) else {
            alignment.unknown += 1;
            continue;
        };
        if index < skipped {
            alignment.reordered += 1;
            continue;
        }
        let next = alignment.next;
        let is_anchor = candidates.len() == 1;
        let ahead = candidates[candidates.partition_point(|place| *place < next)..].first().copied();
        // Padding is taken for a later one only if what follows proves that the ones between are gone.
        let ahead = ahead.filter(|place| {
            is_anchor
                || *place == next
                || next_anchor[index].map_or(*place - next == 1, |following| following > *place)
        });
        match ahead {
            Some(place) => {
                alignment.missing.extend(next..place);
                alignment.next = place + 1;
                if is_anchor {
                    alignment.anchors.push((index, place));
                }
            }
            None if alignment.fill_late(candidates) => alignment.reordered += 1,
            // Sent before the first that was received, and overtaken by it.
            None if is_first && is_anchor && candidates[0] < begin && early.insert(candidates[0]) => {
                alignment.reordered += 1;
            }
            None => alignment.duplicated += 1,
        }
    }
    alignment
}

/// The place of the first received packet, and how many received packets before it fit nowhere.
///
/// It is found from the first anchor backwards. What was sent long before the first packet came is no anchor:
/// the record may be a moment behind, and not know yet that there are more of its kind. Without an anchor it
/// is the last of its kind that the source had sent by then and that the others fit behind: padding of
/// earlier times is not what came, and what was sent in between is not lost.
fn first_place(
    sent: &[Sent],
    received: &[u64],
    first_at: Duration,
    places: &HashMap<u64, Vec<usize>>,
    anchor: impl Fn(&u64) -> Option<usize>,
) -> (usize, usize) {
    let earliest = sent.partition_point(|packet| packet.at + UNDER_WAY < first_at);
    let recent = |fingerprint| anchor(fingerprint).filter(|place| *place >= earliest);
    let first =
        received.iter().enumerate().find_map(|(index, fingerprint)| Some((index, recent(fingerprint)?)));
    let Some((mut index, mut place)) = first else {
        let sent_by_then = sent.partition_point(|packet| packet.at <= first_at);
        let alike = received.first().and_then(|fingerprint| places.get(fingerprint)).into_iter().flatten();
        let mut alike = alike.copied().rev().filter(|place| (earliest..sent_by_then).contains(place));
        let fits = |place: &usize| {
            let stretch = sent[*place..].iter().map(|packet| packet.fingerprint).take(received.len());
            stretch.eq(received.iter().copied())
        };
        let place = alike.clone().find(fits).or_else(|| alike.next());
        return (place.unwrap_or(sent_by_then), 0);
    };
    while index > 0 && place > 0 && received[index - 1] == sent[place - 1].fingerprint {
        index -= 1;
        place -= 1;
    }
    (place, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters are unique packets, dots are padding. One packet a millisecond.
    fn sent(text: &str) -> Vec<Sent> {
        let at = |index| Duration::from_millis(index as u64);
        text.bytes()
            .enumerate()
            .map(|(index, byte)| Sent { fingerprint: byte.into(), at: at(index) })
            .collect()
    }

    fn received(text: &str) -> Vec<u64> {
        text.bytes().map(u64::from).collect()
    }

    fn came(fingerprints: &[u64], first_at: u64) -> Received<'_> {
        Received { fingerprints, first_at: Some(Duration::from_millis(first_at)) }
    }

    fn judged(source: &str, client: &str) -> [u64; 4] {
        let (sent, received) = (sent(source), received(client));
        let judgement = judge(&sent, came(&received, source.len() as u64), Duration::ZERO);
        assert_eq!(judgement.received, client.len() as u64);
        assert_eq!(judgement.cut_off, 0);
        [judgement.lost, judgement.duplicated, judgement.reordered, judgement.unknown]
    }

    #[test]
    fn a_whole_stretch_is_clean_wherever_it_begins_and_ends() {
        for (source, client) in [
            ("abcdef", "abcdef"),
            ("abcdef", "cde"),
            ("ab..cd..ef", "..cd."),
            ("ab..cd..ef", ".cd..e"),
            ("ab..cd..ef", "."),
            ("......", "..."),
            ("abc", ""),
        ] {
            assert_eq!(judged(source, client), [0; 4], "{source} {client}");
        }
    }

    #[test]
    fn a_packet_that_never_came_is_lost() {
        assert_eq!(judged("abcdef", "abdef"), [1, 0, 0, 0]);
        assert_eq!(judged("abcdef", "af"), [4, 0, 0, 0]);
    }

    #[test]
    fn padding_that_never_came_is_lost_although_it_is_like_other_padding() {
        assert_eq!(judged("ab...cd...ef", "ab..cd...ef"), [1, 0, 0, 0]);
        assert_eq!(judged("ab...cd...ef", "abcd...ef"), [3, 0, 0, 0]);
        assert_eq!(judged("ab.c.d.e", "abc.d.e"), [1, 0, 0, 0]);
    }

    #[test]
    fn a_loss_just_before_padding_is_found() {
        assert_eq!(judged("ab..cd..ef", "ab..c..ef"), [1, 0, 0, 0]);
        assert_eq!(judged("abcd..ef", "a..ef"), [3, 0, 0, 0]);
        assert_eq!(judged("a..b..c..d", "a.b...d"), [3, 0, 0, 0], "and none of it seems out of order");
    }

    #[test]
    fn a_packet_that_came_again_is_duplicated() {
        assert_eq!(judged("abcdef", "abbcdef"), [0, 1, 0, 0]);
        assert_eq!(judged("abcdef", "abcdefbc"), [0, 2, 0, 0]);
        assert_eq!(judged("ab..cd..ef", "ab...cd..ef"), [0, 1, 0, 0]);
    }

    #[test]
    fn a_packet_overtaken_by_others_is_reordered_and_not_lost() {
        assert_eq!(judged("abcdef", "abdcef"), [0, 0, 1, 0]);
        assert_eq!(judged("abcdef", "acdefb"), [0, 0, 1, 0]);
        assert_eq!(judged("abcdef", "bacdef"), [0, 0, 1, 0], "even if the first received is the one ahead");
    }

    #[test]
    fn a_corrupted_packet_is_unknown_and_its_original_lost() {
        assert_eq!(judged("abcdef", "abXdef"), [1, 0, 0, 1]);
    }

    #[test]
    fn what_the_source_sent_to_a_member_after_the_last_received_is_cut_off() {
        let source: Vec<_> =
            (0..2000).map(|n| Sent { fingerprint: n, at: Duration::from_millis(n) }).collect();
        let client: Vec<_> = (100..1000).collect();
        let until = Duration::from_millis(1100) + UNDER_WAY;
        let judgement = judge(&source, came(&client, 101), until);
        assert_eq!((judgement.lost, judgement.cut_off), (0, 100));
        assert!((judgement.loss() - 0.1).abs() < 1e-9);
        assert_eq!(
            judge(&source, came(&client, 101), Duration::from_millis(1000)).missing(),
            0,
            "still under way"
        );
    }

    /// A packet a millisecond, of which every sixth is padding.
    fn padded(packets: u64) -> Vec<Sent> {
        (0..packets)
            .map(|n| Sent { fingerprint: if n % 6 == 0 { 0 } else { n }, at: Duration::from_millis(n) })
            .collect()
    }

    #[test]
    fn what_was_sent_before_the_first_came_is_not_lost_even_if_only_padding_has_come_so_far() {
        let source = padded(5000);
        for first in [1200_usize, 2004, 3006] {
            for so_far in [1, 2, 5, 6, 7, 40, 100] {
                let came_at = first as u64 + 3;
                let client: Vec<_> =
                    source[first..].iter().take(so_far).map(|packet| packet.fingerprint).collect();
                // The record is at times a moment ahead of the client, at times behind it.
                for recorded in [first - 5, first, first + 1, first + 7, first + 200] {
                    for begin in [0, first - 500] {
                        let mut live = LiveJudge::new(begin);
                        let now = Duration::from_millis((first + so_far) as u64 + 10);
                        let judgement = live.update(&source[begin..recorded], came(&client, came_at), now);
                        assert_eq!(judgement.missing(), 0, "{first} {so_far} {recorded} {begin}");
                        assert!(live.missing_places().is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn padding_that_is_not_known_to_be_repeated_yet_is_no_anchor_of_long_ago() {
        // One of the kind is in the record, of long ago; the one that came is not there yet.
        let mut source: Vec<_> =
            (0..1202).map(|n| Sent { fingerprint: n, at: Duration::from_millis(n) }).collect();
        source[18].fingerprint = 7777;
        let mut live = LiveJudge::new(0);
        let judgement = live.update(&source, came(&[7777], 1203), Duration::from_millis(1204));
        assert_eq!(judgement.missing(), 0);
    }

    #[test]
    fn a_stream_that_ends_after_a_packet_of_padding_is_cut_off_from_there_on() {
        let source = padded(3000);
        let mut live = LiveJudge::new(500);
        let judgement =
            live.update(&source[500..], came(&[0], 1203), Duration::from_millis(2000) + UNDER_WAY);
        assert_eq!(judgement.missing(), 2000 - 1201, "all after the packet of 1200 ms");
    }

    #[test]
    fn the_live_judge_agrees_with_the_whole_one_on_a_long_faulty_session() {
        // Every tenth packet is padding; of the others every 97th is lost, every 101st comes twice.
        let source: Vec<_> = (0..30_000_u64)
            .map(|n| Sent { fingerprint: if n % 10 == 0 { 0 } else { n }, at: Duration::from_millis(n) })
            .collect();
        let client: Vec<_> = source
            .iter()
            .enumerate()
            .skip(501)
            .filter(|(n, _)| n % 97 != 0 || n % 10 == 0)
            .flat_map(|(n, packet)| vec![packet.fingerprint; 1 + usize::from(n % 101 == 0 && n % 10 != 0)])
            .collect();
        let whole = judge(&source, came(&client, 502), Duration::ZERO);
        assert!(whole.lost > 250 && whole.duplicated > 250, "{whole:?}");

        let mut live = LiveJudge::new(0);
        let mut last = Judgement::default();
        for step in 1..=30 {
            // The record is ahead of the client, as in life.
            let sent = (source.len() * step / 30 + 600).min(source.len());
            let got = client.len() * step / 30;
            last = live.update(
                &source[live.sent_from()..sent],
                came(&client[live.received_from()..got], 502),
                Duration::ZERO,
            );
        }
        assert!(live.sent_from() > 20_000, "what is settled is not looked at again");
        assert_eq!(last, whole);
        assert_eq!(live.missing_places().len() as u64, whole.missing());
        let lost = |place: &usize| place.is_multiple_of(97) || source[*place].fingerprint == 0;
        assert!(live.missing_places().iter().all(lost), "places are those of the whole record");
    }
}
