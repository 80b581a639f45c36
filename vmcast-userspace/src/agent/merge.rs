//! One stream that comes by two ways for a while: from a VMR that is left, and from the one in its place.
//!
//! Both send the same packets, each in its order, one a little ahead of the other. The host gets what comes by the way
//! that is left, until a packet is seen that came by both: from there on it gets what comes by the new one. So
//! nothing is lost, nothing comes twice, and the order stays, whichever is ahead.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use vmcast_common::hdr::{ipv4, ipv6};

/// Packets of the way that is left whose marks are kept: at 10,000 a second, 400 ms.
const RECENT: usize = 4096;
/// Packets that come by the new way alone before it is believed that the other one has ended.
const AHEAD: usize = 1024;

/// A stream that comes by two ways.
#[derive(Debug, Default)]
pub(super) struct Merge {
    state: State,
    /// Marks of what the host got by the way that is left, in their order and to look up.
    order: VecDeque<u64>,
    recent: HashSet<u64>,
    /// What came by the new way and has not come by the other one yet.
    ahead: VecDeque<(u64, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The host gets what comes by the way that is left.
    #[default]
    Left,
    /// It got that up to this packet, and gets what comes by the new way behind it.
    Behind(u64),
    /// It gets what comes by the new way.
    New,
}

impl Merge {
    /// Whether the way that is left is needed no more.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::New
    }

    /// A packet came by the way that is left; what the host is to get.
    pub(super) fn by_left(&mut self, packet: Vec<u8>) -> Vec<Vec<u8>> {
        if self.state != State::Left {
            return Vec::new();
        }
        let mark = mark(&packet);
        if self.ahead.iter().any(|(other, _)| *other == mark) {
            self.state = State::New;
            return self.ahead.drain(..).map(|(_, packet)| packet).collect();
        }
        if self.order.len() == RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.recent.remove(&oldest);
        }
        if self.recent.insert(mark) {
            self.order.push_back(mark);
        }
        vec![packet]
    }

    /// A packet came by the new way; what the host is to get.
    pub(super) fn by_new(&mut self, packet: Vec<u8>) -> Vec<Vec<u8>> {
        let mark = mark(&packet);
        match self.state {
            State::New => return vec![packet],
            State::Behind(last) => {
                if mark == last {
                    self.state = State::New;
                    return Vec::new();
                }
                if self.recent.contains(&mark) {
                    return Vec::new();
                }
                // The last one was lost on the new way.
                self.state = State::New;
                return vec![packet];
            }
            State::Left => {}
        }
        if self.recent.contains(&mark) {
            // What came before it was before the marks that are kept.
            self.ahead.clear();
            let last = self.order.back().copied().unwrap_or(mark);
            self.state = if last == mark { State::New } else { State::Behind(last) };
            return Vec::new();
        }
        self.ahead.push_back((mark, packet));
        if self.ahead.len() > AHEAD { self.end() } else { Vec::new() }
    }

    /// Nothing comes by the way that is left any more; what the host is to get.
    pub(super) fn end(&mut self) -> Vec<Vec<u8>> {
        self.state = State::New;
        self.ahead.drain(..).map(|(_, packet)| packet).collect()
    }
}

/// What tells a packet from others of its stream, whichever way it came: all that no router changes.
fn mark(packet: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(view) = ipv4::View::parse(packet, 0) {
        // Not the time to live with the checksum over it, nor what is said of congestion.
        packet.get(2..8).hash(&mut hasher);
        packet.get(12..view.total_len).hash(&mut hasher);
    } else if ipv6::View::parse(packet, 0).is_some() {
        packet.get(4..7).hash(&mut hasher);
        packet.get(8..).hash(&mut hasher);
    } else {
        packet.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use vmcast_wire::ipv4;

    use super::*;

    fn packet(number: u32, ttl: u8) -> Vec<u8> {
        let (source, group) = (Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(232, 1, 1, 1));
        ipv4::encapsulate(source, group, ttl, 0, 17, false, &number.to_be_bytes())
    }

    fn number(packet: &[u8]) -> u32 {
        let tail = packet.last_chunk().expect("a packet of the tests");
        u32::from_be_bytes(*tail)
    }

    proptest! {
        // proves A7
        #[test]
        fn whichever_way_is_ahead_nothing_is_lost_or_twice_and_the_order_stays(
            joined in 0u32..60, lead in -40i64..40, jitter in proptest::collection::vec(0i64..3, 200),
        ) {
            // Packet n comes by the way that is left at the time 10n, by the new way so much later or before, from
            // the one on with which that has joined; neither way overtakes itself.
            let mut arrivals = Vec::new();
            let (mut left, mut new) = (i64::MIN, i64::MIN);
            for n in 0..200u32 {
                let jitter = jitter[n as usize];
                left = left.max(i64::from(n) * 10 + jitter);
                arrivals.push((left, true, n));
                if n >= joined {
                    new = new.max(i64::from(n) * 10 + lead * 5 - jitter);
                    arrivals.push((new, false, n));
                }
            }
            arrivals.sort_by_key(|(at, is_left, n)| (*at, *n, *is_left));
            let mut merge = Merge::default();
            let mut got = Vec::new();
            for (_, is_left, n) in arrivals {
                // The way that is left ends once it is needed no more.
                let packets = match (is_left, merge.is_done()) {
                    (true, true) => continue,
                    (true, false) => merge.by_left(packet(n, 7)),
                    (false, _) => merge.by_new(packet(n, 5)),
                };
                got.extend(packets.iter().map(|packet| number(packet)));
            }
            prop_assert!(merge.is_done());
            prop_assert_eq!(got, (0..200).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_packet_that_only_one_way_lost_is_there_all_the_same() {
        let mut merge = Merge::default();
        let mut got = Vec::new();
        for n in 0..10 {
            if n != 5 {
                got.extend(merge.by_left(packet(n, 7)));
            }
            if n >= 4 {
                got.extend(merge.by_new(packet(n, 5)));
            }
        }
        assert_eq!(got.iter().map(|packet| number(packet)).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_way_that_has_ended_holds_nothing_back_for_long() {
        let mut merge = Merge::default();
        assert_eq!(merge.by_left(packet(0, 7)).len(), 1);
        let got: usize = (1..=AHEAD as u32 + 1).map(|n| merge.by_new(packet(n, 7)).len()).sum();
        assert_eq!(got, AHEAD + 1);
        assert!(merge.is_done());
        let mut other = Merge::default();
        assert!(other.by_new(packet(1, 7)).is_empty());
        assert_eq!(other.end().len(), 1);
    }
}
