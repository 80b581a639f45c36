//! The hosts of a link that were heard in quiet times: they keep being heard while others flood the link.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use vmcast_common::hdr::eth::Mac;

/// How long a host is known after its last message: some rounds of queries, of 125 s each (RFC 9776 §8.2).
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// Hosts of one link that are known at a time.
const MOST: usize = 16_384;
/// How long nobody new is known after more came than is read: a flood with forged addresses makes none of them known.
const DISTURBED_FOR: Duration = Duration::from_secs(1);
/// How often it is looked whom to forget.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Who is known on a link. Its memory is bounded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acquaintances {
    heard: BTreeMap<Mac, Instant>,
    disturbed_at: Option<Instant>,
    looked_at: Option<Instant>,
}

impl Acquaintances {
    /// Notes a message; says whether its sender is known from now on and was not before.
    pub(crate) fn note(&mut self, now: Instant, sender: Mac) -> bool {
        if let Some(heard) = self.heard.get_mut(&sender) {
            *heard = now;
            return false;
        }
        let disturbed = self.disturbed_at.is_some_and(|at| now < at + DISTURBED_FOR);
        let is_new = !disturbed && self.heard.len() < MOST;
        if is_new {
            self.heard.insert(sender, now);
        }
        is_new
    }

    /// Whether this host is known.
    pub(crate) fn knows(&self, sender: Mac) -> bool {
        self.heard.contains_key(&sender)
    }

    /// More came than is read.
    pub(crate) const fn disturb(&mut self, now: Instant) {
        self.disturbed_at = Some(now);
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

    #[test]
    fn who_was_heard_in_quiet_times_stays_known_and_nobody_new_is_in_a_flood() {
        let (mut known, start) = (Acquaintances::default(), clock::now());
        assert!(known.note(start, host(1)));
        assert!(!known.note(start, host(1)), "once");
        let mut now = start;
        for number in 2..100_000 {
            now += Duration::from_millis(1);
            known.disturb(now);
            assert!(!known.note(now, host(number)));
        }
        now += DISTURBED_FOR;
        assert!(known.note(now, host(2)), "when it is over");
        assert_eq!(known.heard.len(), 2);
    }

    #[test]
    fn who_is_silent_is_forgotten_and_gives_room() {
        let (mut known, start) = (Acquaintances::default(), clock::now());
        for number in 0..2 * MOST as u32 {
            assert_eq!(known.note(start, host(number)), number < MOST as u32);
        }
        assert_eq!(known.heard.len(), MOST);
        assert!(known.forget(start).is_empty());
        let later = start + KNOWN_FOR;
        known.note(later - Duration::from_secs(1), host(7));
        let forgotten = known.forget(later);
        assert_eq!(forgotten.len(), MOST - 1);
        assert!(!forgotten.contains(&host(7)) && !known.note(later, host(7)));
        assert!(known.note(later, host(MOST as u32)), "there is room");
    }
}
