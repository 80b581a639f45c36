//! Gateways of which ICMP says that they cannot be reached (RFC 7450 §5.3.3.6.4).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_wire::amt::Message;

use super::{input::Unreachable, machine::Relay, output::DownReason};
use crate::{Filter, host_state::HostState};

/// How long a sequence must last: one burst that somebody forges ends no tunnel, nor does a gateway that starts anew.
const SPAN: Duration = Duration::from_secs(1);
/// Messages further apart than this are of two sequences.
const GAP: Duration = Duration::from_secs(10);
/// Tunnels with a sequence at a time.
const MOST: usize = 1_024;

/// Messages about one tunnel in sequence: nothing that proves its gateway came in between.
struct Sequence {
    count: u32,
    first: Instant,
    last: Instant,
}

/// The sequences that are under way. Their number is bounded, whoever forges.
#[derive(Default)]
pub(super) struct Sequences(BTreeMap<u32, Sequence>);

impl Sequences {
    /// Counts a message about a tunnel; whether it is the one too many.
    fn note(&mut self, now: Instant, id: u32, ignored: u32) -> bool {
        if self.0.len() >= MOST && !self.0.contains_key(&id) {
            self.0.retain(|_, sequence| now < sequence.last + GAP);
            if self.0.len() >= MOST {
                return false;
            }
        }
        let begun = Sequence { count: 0, first: now, last: now };
        let sequence = self.0.entry(id).or_insert(begun);
        if now >= sequence.last + GAP {
            (sequence.count, sequence.first) = (0, now);
        }
        sequence.count = sequence.count.saturating_add(1);
        sequence.last = now;
        sequence.count > ignored && now >= sequence.first + SPAN
    }

    /// The gateway has shown that it is there, or the tunnel has ended.
    pub(super) fn forget(&mut self, id: u32) {
        if !self.0.is_empty() {
            self.0.remove(&id);
        }
    }
}

impl Relay {
    /// Ends a tunnel to whose gateway data cannot be delivered, once that was said often and long enough. Who forges
    /// it must know both ends of the tunnel and a group that is joined, and go on for as long as no Membership Update
    /// comes.
    pub(super) fn on_unreachable(&mut self, now: Instant, about: Unreachable<'_>) {
        let Unreachable { local, remote, quoted } = about;
        let id = self.table.ends(local, remote).and_then(|ends| self.table.find(&ends));
        let tunnel = id.and_then(|id| Some((id, self.table.get(id)?)));
        let Some((id, _)) = tunnel.filter(|(_, tunnel)| is_data_for(&tunnel.host, quoted)) else {
            self.counters.unreachable_ignored += 1;
            return;
        };
        self.counters.unreachable += 1;
        if self.unreachable.note(now, id, self.config.unreachable_ignored) {
            self.counters.tunnels_unreachable += 1;
            self.take_down(id, DownReason::Unreachable);
        }
    }
}

/// Whether a datagram began with Multicast Data of a group that this host wants something of; it may be cut short.
fn is_data_for(host: &HostState, quoted: &[u8]) -> bool {
    let Ok(Message::MulticastData { packet }) = Message::parse(quoted) else { return false };
    group_of(packet).is_some_and(|group| host.filter(group) != Filter::none())
}

/// Where the beginning of an IP packet says that it goes.
fn group_of(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        6 => packet.get(24..40)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_has_to_be_long_and_to_last() {
        let start = vmcast_sim::epoch();
        let at = |millis| start + Duration::from_millis(millis);
        let mut sequences = Sequences::default();
        assert!((0..100).all(|millis| !sequences.note(at(millis), 1, 4)), "a burst");
        assert!(sequences.note(at(1_000), 1, 4));
        sequences.forget(1);
        assert!([0, 1, 2, 1_500].iter().all(|millis| !sequences.note(at(2_000 + millis), 1, 4)), "four");
        assert!(sequences.note(at(3_600), 1, 4));
        assert!(!sequences.note(at(13_600), 1, 4), "another sequence");
    }

    #[test]
    fn memory_is_bounded_and_what_is_over_makes_room() {
        let start = vmcast_sim::epoch();
        let mut sequences = Sequences::default();
        (0..100_000).for_each(|id| _ = sequences.note(start, id, 4));
        assert_eq!(sequences.0.len(), MOST);
        let later = start + GAP;
        sequences.note(later, 100_000, 4);
        assert_eq!(sequences.0.keys().collect::<Vec<_>>(), [&100_000]);
    }
}
