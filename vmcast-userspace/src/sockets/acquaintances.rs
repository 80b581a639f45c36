//! The hosts of a link that were heard in quiet times: they keep being heard while others flood the link.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use vmcast_common::hdr::eth::Mac;

/// How long a host is known after its last message: some rounds of queries, of 125 s each (RFC 9776 §8.2).
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// Hosts of one link that are known at a time.
const MOST: usize = 16_384;
/// How long after its first message a host is known, if no more came meanwhile than is read. That shows within a part of
/// it: of a flood with forged addresses the first ones are not known either.
const PROBATION: Duration = Duration::from_millis(200);
/// How long nobody new is known after more came than is read: a flood with forged addresses makes none of them known.
const DISTURBED_FOR: Duration = Duration::from_secs(1);
/// How often it is looked whom to forget.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Who is known on a link. Its memory is bounded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acquaintances {
    heard: BTreeMap<Mac, Instant>,
    /// Those that are not known yet and when they were heard, the first of them first; some of them again.
    new: VecDeque<(Instant, Mac)>,
    disturbed_at: Option<Instant>,
    looked_at: Option<Instant>,
}

impl Acquaintances {
    /// Notes a message.
    pub(crate) fn note(&mut self, now: Instant, sender: Mac) {
        if let Some(heard) = self.heard.get_mut(&sender) {
            *heard = now;
        } else if !self.is_disturbed(now) && self.heard.len() + self.new.len() < MOST {
            self.new.push_back((now, sender));
        }
    }

    /// Who is known from now on, if it is time for anybody.
    pub(crate) fn settle(&mut self, now: Instant) -> Vec<Mac> {
        let mut known = Vec::new();
        while self.next().is_some_and(|next| now >= next)
            && let Some((_, sender)) = self.new.pop_front()
        {
            if self.heard.insert(sender, now).is_none() {
                known.push(sender);
            }
        }
        known
    }

    /// When somebody is known who is not yet, if nothing happens.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.new.front().map(|(heard, _)| *heard + PROBATION)
    }

    /// Whether this host is known.
    pub(crate) fn knows(&self, sender: Mac) -> bool {
        self.heard.contains_key(&sender)
    }

    /// Whether more came than is read, so that who is not known may have forged its address.
    pub(crate) fn is_disturbed(&self, now: Instant) -> bool {
        self.disturbed_at.is_some_and(|at| now < at + DISTURBED_FOR)
    }

    /// More came than is read.
    pub(crate) fn disturb(&mut self, now: Instant) {
        self.disturbed_at = Some(now);
        self.new.clear();
    }

    /// Forgets who was not heard for long, if it is time to look for them.
    pub(crate) fn forget(&mut self, now: Instant) -> Vec<Mac> {
        if now < *self.looked_at.get_or_insert(now) + LOOK_INTERVAL {
            return Vec::new();
        }
        self.looked_at = Some(now);
        let mut forgotten = Vec::new();
        self.heard.retain(|mac, heard| {
            let stays = now < *heard + KNOWN_FOR;
            if !stays {
                forgotten.push(*mac);
            }
            stays
        });
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn host(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        [2, 1, a, b, c, d]
    }

    /// Notes a message, and lets time pass until its sender would be known; says whether it is.
    fn hear(known: &mut Acquaintances, now: &mut Instant, sender: Mac) -> bool {
        known.note(*now, sender);
        *now += PROBATION;
        known.settle(*now).contains(&sender)
    }

    #[test]
    fn who_was_heard_in_quiet_times_stays_known_and_nobody_new_is_in_a_flood() {
        let (mut known, mut now) = (Acquaintances::default(), clock::now());
        assert!(hear(&mut known, &mut now, host(1)));
        assert!(!hear(&mut known, &mut now, host(1)), "once");
        for number in 2..100_000 {
            now += Duration::from_millis(1);
            known.disturb(now);
            known.note(now, host(number));
            assert_eq!((known.settle(now), known.next()), (vec![], None));
        }
        assert!(known.is_disturbed(now) && known.knows(host(1)));
        now += DISTURBED_FOR;
        assert!(!known.is_disturbed(now));
        assert!(hear(&mut known, &mut now, host(2)), "when it is over");
        assert_eq!(known.heard.len(), 2);
    }

    #[test]
    fn who_was_heard_just_before_a_flood_is_of_it() {
        let (mut known, start) = (Acquaintances::default(), clock::now());
        known.note(start, host(1));
        let later = start + PROBATION / 2;
        known.note(later, host(2));
        assert_eq!((known.next(), known.settle(later)), (Some(start + PROBATION), vec![]));
        assert_eq!(known.settle(start + PROBATION), [host(1)]);
        known.disturb(start + PROBATION);
        assert_eq!((known.next(), known.settle(later + PROBATION)), (None, vec![]));
        assert!(known.knows(host(1)) && !known.knows(host(2)));
    }

    #[test]
    fn who_is_silent_is_forgotten_and_gives_room() {
        let (mut known, mut start) = (Acquaintances::default(), clock::now());
        for number in 0..2 * MOST as u32 {
            known.note(start, host(number));
        }
        start += PROBATION;
        assert_eq!(known.settle(start).len(), MOST);
        assert!(known.forget(start).is_empty());
        let mut later = start + KNOWN_FOR;
        known.note(later - Duration::from_secs(1), host(7));
        let forgotten = known.forget(later);
        assert_eq!(forgotten.len(), MOST - 1);
        assert!(!forgotten.contains(&host(7)) && known.knows(host(7)));
        assert!(hear(&mut known, &mut later, host(MOST as u32)), "there is room");
    }
}
