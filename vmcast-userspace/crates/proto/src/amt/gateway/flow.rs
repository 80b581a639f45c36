//! Whether data that flows has stopped.
//!
//! A translator that forgets a mapping, or gets another address by a re-dial, tells nobody: the relay goes on sending
//! to where the gateway no longer is. Data that came at some pace and comes no more is the first that shows. Asking
//! costs a Request and its answer, and that names the address as the relay sees it now (the G flag, RFC 7450
//! §5.1.4.5). A source that pauses is asked about a few times, ever more rarely.

use std::time::{Duration, Instant};

/// A pause is no stop if the stream had one of a third of its length of late.
const PAUSES: u32 = 3;
/// The shortest pause that counts: less, and every hiccup of a scheduler is asked about.
const SHORTEST: Duration = Duration::from_millis(50);
/// What lasts this long is no longer about a stream that flowed: [`crate::amt::Silence`] goes on from there.
const LONGEST: Duration = Duration::from_secs(3);
/// How fast a long pause is forgotten: by a 64th with each packet.
const FADE: u32 = 64;
/// Packets after which the pace is known.
const KNOWN: u32 = 8;

/// Watches the data of one tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    /// When data came last; `None` while none is expected.
    last: Option<Instant>,
    /// The longest pause of late, fading.
    pause: Duration,
    packets: u32,
    /// How long the present pause may last until it is asked about, again.
    patience: Duration,
}

impl Flow {
    /// Data has come.
    pub(super) fn on_data(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            let pause = now.saturating_duration_since(last);
            // The pause of a stop is nothing of the stream's own.
            if pause < self.patience_at_first() || self.packets < KNOWN {
                self.pause = pause.max(self.pause - self.pause / FADE);
            }
        }
        self.packets = self.packets.saturating_add(1);
        self.patience = self.patience_at_first();
    }

    /// How long a pause may last until it is asked about for the first time.
    fn patience_at_first(&self) -> Duration {
        (self.pause * PAUSES).max(SHORTEST)
    }

    /// No data is expected any more, or it comes from elsewhere.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// When the present pause is to be asked about.
    pub(super) fn suspect_at(&self) -> Option<Instant> {
        let known = self.packets >= KNOWN && self.patience < LONGEST;
        self.last.filter(|_| known).map(|last| last + self.patience)
    }

    /// Whether the present pause is to be asked about now.
    pub(super) fn is_suspect(&mut self, now: Instant) -> bool {
        let suspect = self.suspect_at().is_some_and(|at| at <= now);
        while self.suspect_at().is_some_and(|at| at <= now) {
            self.patience *= 3;
        }
        suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks at each millisecond from one time to another; at which the flow is suspect.
    fn suspects(flow: &mut Flow, start: Instant, milliseconds: std::ops::Range<u64>) -> Vec<u64> {
        milliseconds.filter(|at| flow.is_suspect(start + Duration::from_millis(*at))).collect()
    }

    /// A packet every so many milliseconds until a time.
    fn stream(flow: &mut Flow, start: Instant, milliseconds: std::ops::RangeInclusive<u64>, pace: usize) {
        for at in milliseconds.step_by(pace) {
            let now = start + Duration::from_millis(at);
            assert!(!flow.is_suspect(now), "at {at} ms");
            flow.on_data(now);
        }
    }

    #[test]
    fn a_stream_that_stops_is_suspect_soon_and_then_ever_more_rarely() {
        let start = vmcast_sim::epoch();
        let mut flow = Flow::default();
        stream(&mut flow, start, 0..=1000, 5);
        assert_eq!(suspects(&mut flow, start, 1000..60_000), [1050, 1150, 1450, 2350]);
        stream(&mut flow, start, 60_000..=61_000, 5);
        assert_eq!(suspects(&mut flow, start, 61_000..61_100), [61_050], "the long pause is not its own");
    }

    #[test]
    fn a_slow_stream_is_given_its_own_time() {
        let start = vmcast_sim::epoch();
        let mut flow = Flow::default();
        stream(&mut flow, start, 0..=10_000, 200);
        assert_eq!(suspects(&mut flow, start, 10_000..60_000), [10_600, 11_800]);
    }

    #[test]
    fn a_stream_in_bursts_is_not_suspect_between_them() {
        let start = vmcast_sim::epoch();
        let mut flow = Flow::default();
        for burst in 0..100 {
            for packet in 0..5 {
                let now = start + Duration::from_millis(burst * 40 + packet);
                assert!(burst < 3 || !flow.is_suspect(now), "burst {burst}");
                flow.on_data(now);
            }
        }
        assert_eq!(suspects(&mut flow, start, 3964..4_200), [4_066]);
    }

    #[test]
    fn of_a_few_packets_nothing_follows_and_what_is_forgotten_is_no_stream() {
        let start = vmcast_sim::epoch();
        let mut flow = Flow::default();
        stream(&mut flow, start, 0..=30, 5);
        assert!(suspects(&mut flow, start, 30..10_000).is_empty());
        stream(&mut flow, start, 10_000..=11_000, 5);
        flow.forget();
        assert!(suspects(&mut flow, start, 11_000..20_000).is_empty());
    }
}
