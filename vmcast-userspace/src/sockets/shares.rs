//! Fair shares of what is read from a socket: a host that floods a link does not keep its neighbours from being heard.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use vmcast_common::hdr::eth::Mac;

/// How long messages are counted before it is looked at who sent them.
const PERIOD: Duration = Duration::from_millis(100);
/// Senders that are counted at a time. Whoever sends a larger part of all than one of so many is among them (J. Misra,
/// D. Gries, Finding Repeated Elements, 1982), however many others there are.
const COUNTED: usize = 16;
/// A host that sends more than this part of what is read is too loud: the others have the rest.
const LOUD: u32 = 8;
/// How much louder or quieter a host becomes in a step: by the factor 8.
const STEP: u32 = 3;
/// At most one in so many powers of two of a host's messages gets through: of a million still some in a second.
const MOST: u32 = 15;
/// How long it must be calm before thinned hosts are let through somewhat more.
const CALM: Duration = Duration::from_secs(1);

/// So many messages of a host must have been read, for it to be too loud where little is read.
const LEAST: u32 = 8;

/// Who sends more than is read, as far as that shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Crowd {
    /// Hosts that are not known. What they send is cut before the others', so the loud ones among them alone are at fault.
    Strangers,
    /// Anybody.
    Anybody,
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) mac: Mac,
    /// Whether it was heard in quiet times.
    pub(crate) known: bool,
}

/// Who sends how much of what is read, and which hosts are to be thinned for that. Its memory is bounded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares {
    counts: Vec<(Sender, u32)>,
    read: u32,
    crowd: Option<Crowd>,
    since: Option<Instant>,
    calm_since: Option<Instant>,
    thinned: BTreeMap<Mac, u32>,
}

impl Shares {
    /// Counts a message that was read, on a link that tells who sent it or not; `crowd` says who sends more than is read,
    /// if anybody does. Returns for how many it stands: those of its sender that were dropped, too.
    pub(crate) fn note(&mut self, now: Instant, sender: Option<Sender>, crowd: Option<Crowd>) -> u64 {
        self.since.get_or_insert(now);
        self.crowd = self.crowd.max(crowd);
        self.read += 1;
        let Some(sender) = sender else { return 1 };
        if let Some((_, count)) = self.counts.iter_mut().find(|(of, _)| of.mac == sender.mac) {
            *count += 1;
        } else if self.counts.len() < COUNTED {
            self.counts.push((sender, 1));
        } else {
            self.counts.iter_mut().for_each(|(_, count)| *count -= 1);
            self.counts.retain(|(_, count)| *count > 0);
        }
        1 << self.thinned.get(&sender.mac).copied().unwrap_or_default()
    }

    /// Looks at who sent what, if it is time for that; says whether hosts are thinned otherwise from now on.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now < since + PERIOD) {
            return self.relax(now);
        }
        self.since = None;
        let read = std::mem::take(&mut self.read);
        let counts = std::mem::take(&mut self.counts);
        let Some(crowd) = self.crowd.take() else { return self.relax(now) };
        self.calm_since = Some(now);
        let mut changed = false;
        for (Sender { mac: host, known }, count) in counts {
            let room = self.thinned.len() < COUNTED || self.thinned.contains_key(&host);
            let at_fault = crowd == Crowd::Anybody || !known;
            if at_fault && count >= LEAST && count > read / LOUD && room {
                let shift = self.thinned.entry(host).or_default();
                let before = *shift;
                *shift = (before + STEP).min(MOST);
                changed |= *shift != before;
            }
        }
        changed
    }

    fn relax(&mut self, now: Instant) -> bool {
        if self.next().is_none_or(|next| now < next) {
            return false;
        }
        self.calm_since = Some(now);
        self.thinned.retain(|_, shift| {
            *shift = shift.saturating_sub(STEP);
            *shift > 0
        });
        true
    }

    /// When to look again, whether something is read or not.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.calm_since.filter(|_| !self.thinned.is_empty()).map(|since| since + CALM)
    }

    /// The hosts of whose messages only one in a power of two gets through, and which power.
    pub(crate) fn thinned(&self) -> impl ExactSizeIterator<Item = (Mac, u32)> + '_ {
        self.thinned.iter().map(|(host, shift)| (*host, *shift))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{clock, sockets::Throttle};

    const FLOODS: Mac = [2, 0, 0, 0, 0, 66];

    fn host(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        [2, 1, a, b, c, d]
    }

    const fn known(mac: Mac) -> Sender {
        Sender { mac, known: true }
    }

    /// A socket with room for so many messages, and its reader, in virtual time.
    struct Link {
        now: Instant,
        buffer: VecDeque<Mac>,
        shares: Shares,
        throttle: Throttle,
        ready_at: Instant,
        read: BTreeMap<Mac, u64>,
        stands_for: u64,
        seen: u64,
    }

    impl Link {
        fn new() -> Self {
            let now = clock::now();
            let (shares, throttle) = (Shares::default(), Throttle::new(10_000));
            let (buffer, read) = (VecDeque::new(), BTreeMap::new());
            Self { now, buffer, shares, throttle, ready_at: now, read, stands_for: 0, seen: 0 }
        }

        fn send(&mut self, from: Mac) {
            self.seen += 1;
            let shift = self.shares.thinned().find(|(host, _)| *host == from).map_or(0, |(_, shift)| shift);
            if self.seen.is_multiple_of(1 << shift) && self.buffer.len() < 1_300 {
                self.buffer.push_back(from);
            }
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.shares.look(self.now);
            while self.ready_at <= self.now
                && let Some(from) = self.buffer.pop_front()
            {
                let wait = self.throttle.take(self.now, 1);
                let crowd = wait.map(|_| Crowd::Anybody);
                self.stands_for += self.shares.note(self.now, Some(known(from)), crowd);
                self.shares.look(self.now);
                *self.read.entry(from).or_default() += 1;
                self.ready_at = wait.unwrap_or(self.now);
            }
        }
    }

    #[test]
    fn a_host_that_floods_does_not_keep_its_neighbours_from_being_heard() {
        let mut link = Link::new();
        // A million messages in a second, for five; fifty neighbours say something every 100 ms from the second on.
        let (mut said, mut sent) = (0u64, 0u64);
        for millisecond in 0..5_000u32 {
            for part in 0..10 {
                for _ in 0..100 {
                    link.send(FLOODS);
                    sent += 1;
                }
                if part == 5 && millisecond >= 1_000 && millisecond % 2 == 0 {
                    link.send(host(millisecond / 2 % 50));
                    said += 1;
                }
                link.pass(Duration::from_micros(100));
            }
        }
        let heard: u64 = link.read.iter().filter(|(from, _)| **from != FLOODS).map(|(_, count)| count).sum();
        assert!(heard + 5 >= said, "{heard} of {said} were heard");
        let flood = link.read[&FLOODS];
        assert!((1_000..40_000).contains(&flood), "{flood} of the flood were read");
        assert!(link.stands_for > sent / 2, "{} of {sent} are known of", link.stands_for);
        // It falls silent: nothing is left of that, without anybody saying anything.
        while let Some(next) = link.shares.next() {
            assert!(next < link.now + CALM + PERIOD);
            link.now = next;
            link.shares.look(next);
        }
        assert_eq!(link.shares.thinned().len(), 0);
    }

    #[test]
    fn many_hosts_that_answer_at_once_are_all_heard() {
        let mut link = Link::new();
        for number in 0..20_000u32 {
            link.send(host(number));
            link.pass(Duration::from_micros(50));
            assert_eq!(link.shares.thinned().len(), 0);
        }
    }

    /// Who is thinned after a second in which a hundred messages were read, every fifth of one host.
    fn thinned(one: Sender, crowd: Crowd) -> Vec<Mac> {
        let (mut shares, start) = (Shares::default(), clock::now());
        for number in 0..100 {
            let now = start + Duration::from_millis(10) * number;
            let sender =
                if number.is_multiple_of(5) { one } else { Sender { mac: host(number), known: false } };
            shares.note(now, Some(sender), Some(crowd));
            shares.look(now);
        }
        shares.thinned().map(|(host, _)| host).collect()
    }

    #[test]
    fn who_was_heard_in_quiet_times_is_not_thinned_for_what_strangers_send() {
        let mut link = Link::new();
        for number in 0..10_000u32 {
            link.now += Duration::from_micros(100);
            let sender = if number.is_multiple_of(4) {
                known(FLOODS)
            } else {
                Sender { mac: host(number), known: false }
            };
            link.shares.note(link.now, Some(sender), Some(Crowd::Strangers));
            link.shares.look(link.now);
        }
        assert_eq!(link.shares.thinned().len(), 0);
        // One of the strangers is, and so is who is known where others have no room for it.
        for (sender, crowd) in
            [(Sender { mac: FLOODS, known: false }, Crowd::Strangers), (known(FLOODS), Crowd::Anybody)]
        {
            for _ in 0..2_000 {
                link.now += Duration::from_micros(100);
                link.shares.note(link.now, Some(sender), Some(crowd));
                link.shares.look(link.now);
            }
            assert_eq!(link.shares.thinned().map(|(host, _)| host).collect::<Vec<_>>(), [FLOODS]);
            link.shares = Shares::default();
        }
    }

    #[test]
    fn of_the_little_that_is_read_a_part_makes_nobody_loud() {
        for crowd in [Crowd::Strangers, Crowd::Anybody] {
            assert_eq!(thinned(known(FLOODS), crowd), [[0; 6]; 0]);
        }
    }

    #[test]
    fn memory_is_bounded_whoever_sends() {
        let (mut shares, start) = (Shares::default(), clock::now());
        for number in 0..100_000u32 {
            let now = start + Duration::from_micros(10) * number;
            shares.note(now, Some(known(host(number % 40))), Some(Crowd::Anybody));
            shares.note(now, None, Some(Crowd::Anybody));
            shares.look(now);
            assert!(shares.counts.len() <= COUNTED && shares.thinned.len() <= COUNTED);
        }
    }
}
