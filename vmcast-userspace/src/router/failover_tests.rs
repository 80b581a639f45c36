//! What a VMR does when the one above it dies under a stream, in virtual time.

use std::{collections::VecDeque, time::Duration};

use vmcast_common::maps::{Losses, StreamCounters};
use vmcast_proto::amt::relay::{self, Relay};
use vmcast_signal::v1;

use super::*;
use crate::{link::RefusedGroups, router::refused::Missing};

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
        let stream = Stream { source: Some(SOURCE), group: GROUP };
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
                let input = gateway::Input::Datagram { remote: UPSTREAM, tos: 0, bytes: &bytes };
                self.core.gateway_heard(self.now, input);
            }
            above.packets += u64::from(above.alive && above.sends);
            if (self.now - start).as_millis().is_multiple_of(1000) {
                let counters = StreamCounters { packets: above.packets, ..StreamCounters::default() };
                self.core
                    .stream_counters(self.now, &[StreamStats { stream, counters, losses: Losses::NONE }]);
            }
            self.core.paced_packets(self.now, stream, above.packets);
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

// proves D4: why an upstream refuses is shown, and passed on to those who get nothing for it
#[test]
fn what_does_not_come_from_upstream_is_asked_for_and_why_it_is_refused_is_passed_on() {
    let (mut bed, mut above) = Bed::below(Duration::from_millis(10));
    let missing = |bed: &Bed| bed.core.missing(bed.now).expect("an upstream that answers");
    bed.stream(&mut above, Duration::from_secs(4));
    let Missing { named, tunnel, groups } = missing(&bed);
    assert_eq!((named, tunnel, groups.len()), (UPSTREAM, GATEWAY_END, 0), "all of it comes");
    above.sends = false;
    bed.stream(&mut above, Duration::from_secs(7));
    assert_eq!(missing(&bed).groups, [GROUP].into());

    let refusal = |reason: &str| {
        RefusedGroups::from([(GROUP, reason.to_owned()), ([239, 9, 9, 9].into(), "another".to_owned())])
    };
    let passed_on = |bed: &Bed| bed.core.joins_refused_above().collect::<Vec<_>>();
    let join = |reason: &str| {
        let (tunnel, group) = (member(1).to_string(), GROUP.to_string());
        [v1::RefusedJoin { tunnel, group, reason: reason.to_owned() }]
    };
    bed.core.set_refused_above(refusal("a rule"));
    assert_eq!(bed.core.refused_above(), &RefusedGroups::from([(GROUP, "a rule".to_owned())]));
    assert_eq!(passed_on(&bed), join("the VMR above refuses it: a rule"));
    // It may be a VMR above that one who refuses.
    bed.core.set_refused_above(refusal("the VMR above refuses it: a rule"));
    assert_eq!(passed_on(&bed), join("the VMR above refuses it: a rule"));
    bed.core.set_refused_above(refusal(&"é".repeat(200)));
    assert!(passed_on(&bed)[0].reason.len() <= 256, "longer ones no admin takes");
    assert_eq!(bed.core.refused_above.told, 3);
    // Who wants it no more is refused nothing.
    bed.want(0, Filter::none());
    bed.stream(&mut above, Duration::from_secs(2));
    assert!(bed.core.refused_above().is_empty() && passed_on(&bed).is_empty());
}
