//! The gateway's machine.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_wire::amt::{Message, ResponseMac};

use super::{
    config::Config,
    counters::Counters,
    flow::Flow,
    input::Input,
    output::{Event, Output},
    pseudo_interface::PseudoInterface,
    round::Round,
    timer::Timer,
};
use crate::{Filter, Machine, amt::encapsulated::Protocol};

/// An AMT gateway towards one relay (RFC 7450 §5.2), for groups of IPv4 and of IPv6.
///
/// Each protocol has a pseudo-interface of its own, with its own handshake, on one address and port; both shake hands
/// at once, with one nonce, for there are relays that remember but one of each gateway. The first is
/// of the protocol that a relay must speak where it is reached (RFC 7450 §5.3.1: IGMP over IPv4, MLD over IPv6): it
/// finds the relay, and tells whether that answers. The other one is made when a group of its kind is wanted, and a
/// relay that does not speak its protocol is still of use for the first.
pub struct Gateway {
    config: Config,
    first: PseudoInterface,
    second: Option<PseudoInterface>,
    first_protocol: Protocol,
    round: Round,
    flow: Flow,
    round_trip: RoundTrip,
    counters: Counters,
}

/// How long answers take.
#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip {
    requests: u64,
    answers: u64,
    asked: Option<Instant>,
    /// The longest of late, fading by an eighth with each answer.
    time: Option<Duration>,
}

impl RoundTrip {
    /// Takes note of the Requests and the answers so far.
    fn note(&mut self, now: Instant, counters: Counters) {
        let answers = counters.queries + counters.refused;
        if answers > self.answers
            && let Some(asked) = self.asked.take()
        {
            let time = now.saturating_duration_since(asked);
            self.time = Some(self.time.map_or(time, |before| time.max(before - before / 8)));
        }
        if counters.requests > self.requests {
            self.asked = Some(now);
        }
        (self.requests, self.answers) = (counters.requests, answers);
    }
}

impl Gateway {
    /// Makes a gateway that begins with the handshake as soon as its timer is served.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        let first_protocol = Protocol::of(config.relay.ip());
        let relay = (!config.discover).then_some(config.relay);
        let mut round = Round::default();
        let first = PseudoInterface::new(now, config.clone(), first_protocol, relay, &mut round);
        Self {
            config,
            first,
            second: None,
            first_protocol,
            round,
            flow: Flow::default(),
            round_trip: RoundTrip::default(),
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let second = self.second.as_ref().map(PseudoInterface::counters).unwrap_or_default();
        self.counters + self.first.counters() + second
    }

    /// Whether the relay answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.first.is_up()
    }

    /// How long the relay took to answer of late, once it has.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.round_trip.time
    }

    /// The relay in use, once it is known.
    #[must_use]
    pub const fn relay(&self) -> Option<SocketAddr> {
        self.first.relay()
    }

    /// The gateway's address as the relay sees it, if it said so: behind a translator that is not
    /// the address of the socket.
    #[must_use]
    pub fn observed_address(&self) -> Option<SocketAddr> {
        self.first.observed_address()
    }

    /// What proves to the relay who receives at that address: the nonce of the Request that it answered, and its
    /// Response MAC (RFC 7450 §5.3.3.4).
    #[must_use]
    pub fn response_mac(&self) -> Option<(u32, ResponseMac)> {
        self.first.response_mac()
    }

    /// Everything wanted, of the first protocol and then of the other.
    pub fn memberships(&self) -> impl Iterator<Item = (IpAddr, &Filter)> {
        self.first.memberships().chain(self.second.iter().flat_map(PseudoInterface::memberships))
    }

    /// The timer that fires next, and when.
    #[must_use]
    pub fn next_timer(&self) -> Option<(Timer, Instant)> {
        let second = self.second.as_ref().and_then(PseudoInterface::next_timer);
        let flow = self.flow.suspect_at().map(|at| (Timer::Flow, at));
        self.first.next_timer().into_iter().chain(second).chain(flow).min_by_key(|(_, at)| *at)
    }

    /// Both, or the only one.
    fn each(&mut self) -> impl Iterator<Item = &mut PseudoInterface> {
        std::iter::once(&mut self.first).chain(&mut self.second)
    }

    /// Both, or the only one, and the round that they share.
    fn each_with_round(&mut self) -> (impl Iterator<Item = &mut PseudoInterface>, &mut Round) {
        (std::iter::once(&mut self.first).chain(&mut self.second), &mut self.round)
    }

    fn on_datagram(&mut self, now: Instant, remote: SocketAddr, tos: u8, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let inner = match message {
            Message::MulticastData { packet } => packet,
            Message::MembershipQuery { query, .. } => query,
            // Only the first looks for a relay.
            Message::RelayAdvertisement { .. }
            | Message::RelayDiscovery { .. }
            | Message::Request { .. }
            | Message::MembershipUpdate { .. }
            | Message::Teardown { .. } => &[],
        };
        let came = self.wanted_data();
        let round = &mut self.round;
        let of_second = Protocol::of_datagram(inner) == Some(self.first_protocol.other());
        match &mut self.second {
            Some(second) if of_second => second.datagram(now, remote, tos, message, round),
            Some(_) | None => self.first.datagram(now, remote, tos, message, round),
        }
        if self.wanted_data() == came {
            self.round_trip.note(now, self.counters());
        } else {
            self.flow.on_data(now);
        }
        self.follow_relay(now);
    }

    /// RFC 7450 §5.2.3.9.
    fn on_unreachable(&mut self, now: Instant, remote: SocketAddr, quoted: &[u8]) {
        let (each, round) = self.each_with_round();
        // Both, for both may have sent it.
        let believed =
            each.filter_map(|interface| interface.unreachable(now, remote, quoted, round).then_some(()));
        if believed.count() > 0 {
            self.counters.unreachable += 1;
        } else {
            self.counters.unreachable_ignored += 1;
        }
    }

    /// Packets that came and were wanted.
    fn wanted_data(&self) -> u64 {
        self.first.wanted_data() + self.second.as_ref().map_or(0, PseudoInterface::wanted_data)
    }

    fn on_set_membership(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        let protocol = Protocol::of(group);
        if filter.is_none() {
            // What is left takes its pace along.
            self.flow.forget();
        }
        if protocol == self.first_protocol {
            self.first.set_membership(now, group, filter, &mut self.round);
            return;
        }
        if self.second.is_none() && !filter.is_none() && !self.first.is_stopped() {
            let config = Config { discover: false, ..self.config.clone() };
            self.second =
                Some(PseudoInterface::new(now, config, protocol, self.first.relay(), &mut self.round));
        }
        if let Some(second) = &mut self.second {
            second.set_membership(now, group, filter, &mut self.round);
        }
    }

    /// Lets the second use the relay that the first has found.
    fn follow_relay(&mut self, now: Instant) {
        if let (Some(second), Some(relay)) = (&mut self.second, self.first.relay())
            && second.relay() != Some(relay)
        {
            second.turn_to(now, relay, &mut self.round);
        }
    }

    /// Lets both take part in the same round, and say the same of the E flag.
    fn align(&mut self, now: Instant) {
        if !self.each().any(|interface| interface.is_up()) {
            // There may be another relay with this address when one answers again.
            self.round.forget_flag();
        }
        if self.round.knows_flag() {
            let (each, round) = self.each_with_round();
            each.for_each(|interface| interface.say_flag(now, round));
        }
        let (each, round) = self.each_with_round();
        each.for_each(|interface| interface.follow(now, round));
    }
}

impl Machine for Gateway {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { remote, tos, bytes } => self.on_datagram(now, remote, tos, bytes),
            Input::Unreachable { remote, quoted } => self.on_unreachable(now, remote, quoted),
            Input::SetMembership { group, filter } => self.on_set_membership(now, group, filter),
            Input::LocalChanged => {
                let (each, round) = self.each_with_round();
                each.for_each(|interface| interface.local_changed(now, round));
            }
            Input::DataSeen => {
                if self.each().any(|interface| !interface.is_idle()) {
                    self.flow.on_data(now);
                }
                self.each().for_each(PseudoInterface::data_seen);
            }
            Input::Stop => {
                self.flow.forget();
                self.each().for_each(|interface| interface.stop(now));
            }
        }
        self.align(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.flow.is_suspect(now) && self.each().any(|interface| interface.wants_probe()) {
            self.first.open(now, &mut self.round);
            let (each, round) = self.each_with_round();
            each.for_each(|interface| interface.probe(round));
            self.align(now);
        }
        // Whoever takes part in a round that the other has just opened, is due at once.
        while self.each().filter_map(|interface| interface.next_timer()).any(|(_, at)| at <= now) {
            self.first.timeout(now, &mut self.round);
            self.align(now);
            if let Some(second) = &mut self.second {
                second.timeout(now, &mut self.round);
            }
            self.align(now);
        }
        self.round_trip.note(now, self.counters());
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_timer().map(|(_, at)| at)
    }

    fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.first.poll_output() {
            return Some(output);
        }
        loop {
            match self.second.as_mut()?.poll_output()? {
                // Whether the relay is of use is said by the first.
                Output::Event(Event::Up { .. } | Event::Down { .. } | Event::Refused { .. }) => {}
                output @ (Output::Transmit { .. } | Output::Data { .. }) => return Some(output),
            }
        }
    }
}
