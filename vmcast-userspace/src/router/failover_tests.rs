//! What a VMR does when the one above it dies under a stream, in virtual time.

use std::{collections::VecDeque, time::Duration};

use vmcast_common::maps::StreamCounters;
use vmcast_proto::amt::relay::{self, Relay};

use super::*;

/// How often the fastest stream's counter is read.
const LOOK: Duration = Duration::from_millis(20);

/// The VMR above, some way off.
struct Above {
    relay: Relay,
    /// One way.
    delay: Duration,
    alive: bool,
    sends: bool,
    /// Datagrams under way to it, and from it.
    up: VecDeque<(Instant, Vec<u8>)>,
    down: VecDeque<(Instant, Vec<u8>)>,
    packets: u64,
    downs: Vec<Duration>,
}

impl Bed {
    fn below(delay: Duration) -> (Self, Above) {
        let mut bed = Self::with_upstream();
        bed.core.set_another_upstream(true);
        let above = Above {
            relay: Relay::new(bed.now, relay::Config::new([9; 16])),
            delay,
            alive: true,
            sends: true,
            up: VecDeque::new(),
            down: VecDeque::new(),
            packets: 0,
            downs: vec![],
        };
        bed.want(0, Filter::Include([SOURCE].into()));
        bed.resolve(1);
        (bed, above)
    }

    /// Lets time pass in steps of the counter's readings; all counters are read each second.
    fn stream(&mut self, above: &mut Above, time: Duration) {
        let (start, end) = (self.now, self.now + time);
        while self.now < end {
            for effect in self.take() {
                match effect {
                    Effect::SendGateway { bytes, .. } => above.up.push_back((self.now + above.delay, bytes)),
                    Effect::UpstreamDown { .. } => above.downs.push(self.now - start),
                    _ => {}
                }
            }
            while above.up.front().is_some_and(|(at, _)| *at <= self.now) {
                let Some((_, bytes)) = above.up.pop_front() else { break };
                if above.alive {
                    let input =
                        relay::Input::Datagram { local: UPSTREAM, remote: GATEWAY_END, bytes: &bytes };
                    above.relay.handle_input(self.now, input);
                }
            }
            while let Some(output) = above.relay.poll_output() {
                if let relay::Output::Transmit { bytes, .. } = output {
                    above.down.push_back((self.now + above.delay, bytes));
                }
            }
            while above.down.front().is_some_and(|(at, _)| *at <= self.now) {
                let Some((_, bytes)) = above.down.pop_front() else { break };
                self.core.gateway_datagram(self.now, UPSTREAM, &bytes);
            }
            above.packets += u64::from(above.alive && above.sends);
            if (self.now - start).as_millis().is_multiple_of(1000) {
                let counters = StreamCounters { packets: above.packets, ..StreamCounters::default() };
                let stream = Stream { source: Some(SOURCE), group: GROUP };
                self.core.stream_counters(self.now, &[StreamStats { stream, counters }]);
            }
            self.core.paced_packets(self.now, above.packets);
            self.pass(LOOK);
        }
    }
}

// proves A6
// proves E3
#[test]
fn an_upstream_that_dies_under_a_stream_is_given_up_within_a_second() {
    let (mut bed, mut above) = Bed::below(Duration::from_millis(10));
    bed.stream(&mut above, Duration::from_secs(10));
    assert_eq!(above.downs.len(), 0, "{:?}", above.downs);
    above.alive = false;
    bed.stream(&mut above, Duration::from_secs(1));
    assert_eq!(above.downs.len(), 1, "{:?}", above.downs);
    assert!(above.downs[0] >= Duration::from_millis(400), "it was given time to answer: {:?}", above.downs);
    assert!(above.downs[0] < Duration::from_millis(900), "{:?}", above.downs);
    bed.stream(&mut above, Duration::from_secs(3));
    assert_eq!(above.downs.len(), 1, "it is said once");
}

// proves E3
#[test]
fn an_upstream_is_not_given_up_because_the_source_pauses_however_long_the_way() {
    for delay in [10, 200, 400] {
        let (mut bed, mut above) = Bed::below(Duration::from_millis(delay));
        bed.stream(&mut above, Duration::from_secs(10));
        for _ in 0..5 {
            above.sends = false;
            bed.stream(&mut above, Duration::from_secs(7));
            above.sends = true;
            bed.stream(&mut above, Duration::from_secs(10));
        }
        assert_eq!(above.downs.len(), 0, "a way of {delay} ms: {:?}", above.downs);
    }
}

// proves E3
#[test]
fn the_only_upstream_is_not_given_up_early() {
    let (mut bed, mut above) = Bed::below(Duration::from_millis(10));
    bed.core.set_another_upstream(false);
    bed.stream(&mut above, Duration::from_secs(10));
    above.alive = false;
    bed.stream(&mut above, Duration::from_secs(2));
    assert_eq!(above.downs.len(), 0, "{:?}", above.downs);
}
