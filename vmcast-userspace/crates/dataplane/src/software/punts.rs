//! Packets that the controller hears of: once per stream and interval, in bounded memory.

use std::collections::{HashMap, VecDeque};

use vmcast_common::{
    maps::{InputId, PUNT_INTERVAL_NS, StreamKey},
    verdict::PuntReason,
};

use crate::{Punt, software::Limits};

/// The waiting punts and the memory that limits their rate.
#[derive(Debug)]
pub(super) struct Punts {
    queue: VecDeque<Punt>,
    queue_limit: usize,
    last: HashMap<StreamKey, u64>,
    /// Keys of `last` in the order of their times.
    by_age: VecDeque<StreamKey>,
    memory_limit: usize,
}

impl Punts {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            queue: VecDeque::new(),
            queue_limit: limits.punt_queue as usize,
            last: HashMap::new(),
            by_age: VecDeque::new(),
            memory_limit: limits.punt_memory as usize,
        }
    }

    /// Queues a punt unless its stream had one within the interval.
    pub(super) fn offer(&mut self, reason: PuntReason, input: InputId, stream: StreamKey, now_ns: u64) {
        self.forget_old(now_ns);
        if self.last.contains_key(&stream) || self.queue.len() >= self.queue_limit {
            return;
        }
        let Some(input) = input.input() else {
            return;
        };
        while self.last.len() >= self.memory_limit {
            let Some(oldest) = self.by_age.pop_front() else {
                return;
            };
            self.last.remove(&oldest);
        }
        self.last.insert(stream, now_ns);
        self.by_age.push_back(stream);
        self.queue.push_back(Punt { reason, input, stream: stream.into() });
    }

    pub(super) fn poll(&mut self) -> Option<Punt> {
        self.queue.pop_front()
    }

    fn forget_old(&mut self, now_ns: u64) {
        while let Some(oldest) = self.by_age.front() {
            if self.last.get(oldest).is_some_and(|&at| now_ns.saturating_sub(at) < PUNT_INTERVAL_NS) {
                return;
            }
            self.last.remove(oldest);
            self.by_age.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const INPUT: InputId = InputId::interface(3);

    fn stream(last: u8) -> StreamKey {
        StreamKey::v4(Ipv4Addr::new(192, 0, 2, last), Ipv4Addr::new(232, 1, 1, 1))
    }

    fn drained(punts: &mut Punts) -> usize {
        std::iter::from_fn(|| punts.poll()).count()
    }

    #[test]
    fn a_stream_is_punted_once_per_interval_and_again_after_it() {
        let mut punts = Punts::new(&Limits::default());
        for now in [0, 1, PUNT_INTERVAL_NS - 1] {
            punts.offer(PuntReason::NewSource, INPUT, stream(1), now);
        }
        assert_eq!(drained(&mut punts), 1);
        punts.offer(PuntReason::WrongInput, INPUT, stream(1), PUNT_INTERVAL_NS);
        punts.offer(PuntReason::WrongInput, INPUT, stream(1), PUNT_INTERVAL_NS + 1);
        assert_eq!(drained(&mut punts), 1);
    }

    #[test]
    fn streams_are_limited_apart_from_each_other() {
        let mut punts = Punts::new(&Limits::default());
        punts.offer(PuntReason::NewSource, INPUT, stream(1), 5);
        punts.offer(PuntReason::NewSource, INPUT, stream(2), 5);
        assert_eq!(drained(&mut punts), 2);
    }

    #[test]
    fn memory_stays_within_its_limit_and_the_oldest_is_forgotten_first() {
        let mut punts = Punts::new(&Limits { punt_memory: 2, ..Limits::default() });
        for (now, last) in [1, 2, 3].into_iter().enumerate() {
            punts.offer(PuntReason::UnknownGroup, INPUT, stream(last), now as u64);
        }
        assert_eq!(punts.last.len(), 2);
        assert_eq!(punts.by_age.len(), 2);
        assert_eq!(drained(&mut punts), 3);
        punts.offer(PuntReason::UnknownGroup, INPUT, stream(3), 4);
        assert_eq!(drained(&mut punts), 0, "still remembered");
        punts.offer(PuntReason::UnknownGroup, INPUT, stream(1), 5);
        assert_eq!(drained(&mut punts), 1, "forgotten and told again");
    }

    #[test]
    fn a_punt_that_found_the_queue_full_is_told_later() {
        let mut punts = Punts::new(&Limits { punt_queue: 1, ..Limits::default() });
        punts.offer(PuntReason::UnknownGroup, INPUT, stream(1), 0);
        punts.offer(PuntReason::UnknownGroup, INPUT, stream(2), 0);
        assert_eq!(drained(&mut punts), 1);
        punts.offer(PuntReason::UnknownGroup, INPUT, stream(2), 1);
        assert_eq!(drained(&mut punts), 1);
    }

    #[test]
    fn a_memory_of_nothing_punts_nothing() {
        let mut punts = Punts::new(&Limits { punt_memory: 0, ..Limits::default() });
        punts.offer(PuntReason::UnknownGroup, INPUT, stream(1), 0);
        assert_eq!(drained(&mut punts), 0);
    }
}
